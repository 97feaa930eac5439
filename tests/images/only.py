"""Run svdjobs with the packages of one lock, as in the image that is made from it.

python -m tests.images.only LOCK ARGUMENTS [-- ARGUMENTS]…

An import of any other installed package fails as it would there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, packages_distributions
from itertools import groupby
from types import ModuleType
from typing import Any

from packaging.utils import canonicalize_name

from tests.images.parsed import locked


class Only(MetaPathFinder):
    """Another finder, which does not find modules of packages that are not in a lock."""

    def __init__(self, finder: Any, lock: str) -> None:
        self.finder = finder
        self.there = there = {"svdjobs", *map(canonicalize_name, locked(lock))}
        self.refused = {
            module
            for module, packages in packages_distributions().items()
            if not there & set(map(canonicalize_name, packages))
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finder finds, unless the module is refused."""
        if name.partition(".")[0] in self.refused:
            return None
        found: ModuleSpec | None = self.finder.find_spec(name, path, target)
        return found

    def find_distributions(self, *arguments: Any) -> Iterator[Distribution]:
        """The packages that are there, as `importlib.metadata` asks for them."""
        for found in getattr(self.finder, "find_distributions", lambda *_: ())(*arguments):
            if canonicalize_name(found.name) in self.there:
                yield found


def main() -> None:
    lock, *arguments = sys.argv[1:]
    for name in [name for name in sys.modules if name.partition(".")[0] == "packaging"]:
        del sys.modules[name]  # this module's own import is not svdjobs'
    sys.meta_path[:] = [Only(finder, lock) for finder in sys.meta_path]
    from svdjobs.cli.main import main as run

    for _, command in groupby(arguments, key=lambda word: word == "--"):
        words = list(command)
        if words == ["--"]:
            continue
        sys.argv = ["svdjobs", *words]
        try:
            run()
        except SystemExit as ended:
            if ended.code:
                raise


if __name__ == "__main__":
    main()
