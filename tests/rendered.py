"""The manifests in the repository: of the 1.5B sweep on GPUs, and of the demo without.

python -m tests.rendered        (`make render` runs it)
"""

from __future__ import annotations

from pathlib import Path

from svdjobs.cluster.manifests.jobs import FOLDER
from svdjobs.cluster.manifests.render import render
from svdjobs.cluster.manifests.settings import load_settings

ROOT = Path(__file__).parents[1]
WORKFLOWS = Path("workflows")
SWEEPS = Path("jobs/sweeps")
DEMO = WORKFLOWS / "demo.yaml"


def files() -> dict[Path, str]:
    """The text of every generated manifest, by path. The chart's default sweep is the demo."""
    real = _rendered("deepscaler-1.5b.yaml", "settings.yaml")
    demo = _rendered("demo.yaml", "demo-settings.yaml")
    return {
        **{path: text for path, text in real.items() if path.parent in (WORKFLOWS, FOLDER)},
        **{path: text for path, text in demo.items() if path.parent not in (WORKFLOWS, FOLDER)},
        **{FOLDER / "demo" / p.name: text for p, text in demo.items() if p.parent == FOLDER},
        DEMO: demo[WORKFLOWS / "sweep.yaml"],
    }


def _rendered(sweep: str, settings: str) -> dict[Path, str]:
    text = (ROOT / SWEEPS / sweep).read_text(encoding="utf-8")
    return render(text, load_settings(ROOT / WORKFLOWS / settings), where=str(SWEEPS / sweep))


def main() -> None:
    """Write all of them, and delete manifests that are no longer generated."""
    found = files()
    for folder in (FOLDER, FOLDER / "demo"):
        for path in sorted((ROOT / folder).glob("*.yaml")):
            if path.relative_to(ROOT) not in found:
                path.unlink()
    for path, text in found.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
