"""Generate the sections about each stage in the Dockerfile and the chart from `svdjobs.pipeline`,
and the environment that all images set.

python -m tests.from_pipeline        (`make render` runs it)
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from svdjobs.pipeline import SMALL, STAGES, Stage

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "images" / "Dockerfile"
CHART = ROOT / "helm" / "svdjobs"
# Of all images. Any user of group 0 can write /scratch and nothing else, so caches and temporary
# files are there. TMPDIR is /scratch itself, since a folder below it may not exist.
ENVIRONMENT = {
    "PATH": "/opt/svdjobs/bin:$PATH",
    "PYTHONPATH": "/opt/svdjobs",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "LOGNAME": "svdjobs",
    "HOME": "/scratch",
    "TMPDIR": "/scratch",
    "XDG_CACHE_HOME": "/scratch/.cache",
    "HF_HOME": "/scratch/.cache/huggingface",
    "VLLM_CACHE_ROOT": "/scratch/.cache/vllm",
    "TRITON_CACHE_DIR": "/scratch/.cache/triton",
    "TORCHINDUCTOR_CACHE_DIR": "/scratch/.cache/torchinductor",
    "NUMBA_CACHE_DIR": "/scratch/.cache/numba",
}


def sized() -> list[Stage]:
    """The stages whose pods have a section in values.yaml."""
    return [stage for stage in STAGES if stage.resources is not SMALL]


# The locks that images on Python's base are installed from. Each but core is installed on another.
BELOW = {
    "core": None, "gate": "core", "analysis": "core", "plan": "analysis",
    "report": "analysis", "numerics": "core", "stages": "numerics",
}  # fmt: skip
_INSTALL = """\
RUN --mount=type=secret,id=uv.toml,target=/etc/uv/uv.toml \\
    --mount=type=secret,id=ca.crt,target=/etc/ssl/certs/ca-certificates.crt \\
    --mount=type=cache,target=/var/cache/uv \\
    {before}UV_SYSTEM_CERTS=1 /tools/bin/uv pip install --quiet --cache-dir /var/cache/uv \\
      --link-mode copy --compile-bytecode --python python3 --target /opt/{name} \\
      --no-deps --require-hashes {excludes}-r /locks/{lock} \\
    && rm -f /opt/{name}/.lock \\
    && find /opt/{name} -depth -type d -name tests -exec rm -rf {{}} + {trim}
"""
# AWS' services but S3 and those that give credentials for it.
_SERVICES = """\\
    && find /opt/{name}/botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts \\
      ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {{}} +"""
# What nothing here imports: Arrow's servers and S3 client; Kubernetes for asyncio.
_UNUSED = """\\
    && cd /opt/{name} && rm -rf kubernetes/aio pyarrow/include pyarrow/*flight* pyarrow/*_s3*"""
# transformers compiles the few models that it imports for a tokenizer when it needs them.
_MODELS = """\\
    && rm -rf /opt/{name}/transformers/models/*/__pycache__"""
# torch's plain wheel links to most CUDA libraries, so these must stay. Those that only a GPU or a
# compiler opens go, unless the lock is the one for GPUs.
_CUDA = """\\
    && if [ "$NUMERICS_LOCK" = numerics.lock ]; then cd /opt/{name} \\
      && rm -rf nvidia/cudnn/lib/libcudnn_* nvidia/cu13/lib/libnvrtc*.alt.so* \\
        nvidia/cu13/lib/libnvperf_* nvidia/*/include nvidia/*/lib/*.a \\
        torch/include torch/lib/libtorch_cuda_linalg.so; fi"""
_TRIM = {
    "core": _SERVICES, "gate": _UNUSED, "analysis": _UNUSED, "plan": _MODELS, "numerics": _CUDA,
    "stages": _UNUSED,
}  # fmt: skip
# What must work when the packages of a lock are there, and what was removed is not.
_TRIED = {
    "core": "import boto3, huggingface_hub, ml_dtypes, safetensors; "
    "[boto3.client(name, 'us-east-1') for name in ('s3', 'sts', 'sso', 'sso-oidc')]",
    "gate": "import kubernetes, scipy.special",
    "analysis": "import datasets, pyarrow.parquet, scipy.stats",
    "plan": "import transformers; transformers.AutoTokenizer",
    "report": "import jinja2, vl_convert",
    "numerics": "import scipy, torch; torch.linalg.eigh(torch.eye(3))",
    "stages": "import datasets, kubernetes, math_verify, pyarrow.parquet, transformers, vl_convert",
}


def packages() -> str:
    """The Dockerfile's stages that install packages, and those that hold nothing else."""
    return "\n".join(map(_packages, BELOW))


def _packages(name: str) -> str:
    """A stage `NAME-build` that installs what the lock adds, and a stage `NAME-packages`.

    The lowest of these sets the environment of all.
    """
    below, under = BELOW[name], _under(name)
    lock = "${NUMERICS_LOCK}" if name == "numerics" else f"{name}.lock"
    argument = (
        "# numerics-cuda.lock keeps what torch needs to compute on GPUs.\n"
        "ARG NUMERICS_LOCK=numerics.lock\n"
        if name == "numerics"
        else ""
    )
    pins = "s/^\\([a-z0-9-]*\\)==.*/\\1/p"
    before = f"cat /locks/under-{name}/* | sed -n '{pins}' > /locks/under-{name}.txt \\\n    && "
    locks = " ".join(f"images/locks/{one}.lock" for one in under)
    copies = f"COPY {locks} /locks/under-{name}/\n" if under else ""
    install = _INSTALL.format(
        name=name,
        lock=lock,
        before=before if under else "",
        excludes=f"--excludes /locks/under-{name}.txt " if under else "",
        trim=_TRIM.get(name, "").format(name=name),
    ).rstrip()
    folders = ":".join(f"/opt/{one}" for one in (*under, name))
    check = (
        "# torch's GPU packages may be missing: the locks leave them out on purpose.\n"
        f"RUN ! PYTHONPATH={folders}:/tools python3 -m pip check \\\n"
        "      | grep -vE '^(torch .* requires .* not installed|No broken requirements)'\n"
        f'RUN PYTHONPATH={folders} python3 -c "{_TRIED[name]}"\n'
    )
    return (f"FROM {below}-build AS {name}-build\n" if below else "FROM tools AS core-build\n") + (
        f"{argument}{copies}COPY images/locks/{lock} /locks/\n{install}\n{check}\n"
        f"FROM {f'{below}-packages' if below else '${PYTHON_IMAGE}'} AS {name}-packages\n"
        f"COPY --from={name}-build /opt/{name} /opt/svdjobs\n"
        f"{'' if below else environment()}"
    )


def _under(name: str) -> list[str]:
    """The locks below a lock, lowest first."""
    below = BELOW[name]
    return [*_under(below), below] if below else []


def images() -> str:
    """The Dockerfile's targets on Python's base: one for each stage, and `cpu`."""
    made = [(stage.name, stage.packages) for stage in STAGES if stage.packages != "evaluate"]
    return "\n".join(_image(name, lock) for name, lock in (*made, ("cpu", "stages")))


def _image(name: str, lock: str) -> str:
    suffix = "" if name == "cpu" else f"-{name}"
    what = "every stage, on CPUs" if name == "cpu" else f"svdjobs' {name} stage"
    command = '"--help"' if name == "cpu" else f'"{name}", "--help"'
    return f"""\
FROM {lock}-packages AS {name}
COPY --from=installed /opt/svdjobs /opt/svdjobs
ARG VERSION=unknown
ARG GIT_COMMIT=unknown
ARG PYTHON_IMAGE
# This RUN must come before ENV and LABEL: buildah 1.28 compares the values of arguments only at a
# RUN. Without it, ENV and LABEL with old values would come from its cache.
RUN install -d -o 10001 -g 0 -m 2770 /scratch
ENV SVDJOBS_GIT_COMMIT=${{GIT_COMMIT}}
LABEL org.opencontainers.image.title="svdjobs{suffix}" \\
      org.opencontainers.image.description="{what}" \\
      org.opencontainers.image.licenses="Apache-2.0" \\
      org.opencontainers.image.version="${{VERSION}}" \\
      org.opencontainers.image.revision="${{GIT_COMMIT}}" \\
      org.opencontainers.image.base.name="${{PYTHON_IMAGE}}"
USER 10001:0
WORKDIR /scratch
ENTRYPOINT ["svdjobs"]
CMD [{command}]
"""


def values() -> str:
    """The sections of values.yaml, one for each stage."""
    return "\n".join(_values(stage) for stage in sized())


def _values(stage: Stage) -> str:
    own = stage.resources
    article = "an" if stage.name[0] in "aeiou" else "a"
    holds = ": the checkpoint and the engine's caches" if stage.packages == "evaluate" else ""
    deadline = "null" if own.deadline_seconds is None else own.deadline_seconds
    return f"""{stage.name}:
  # -- CPUs that the scheduler reserves for {article} {stage.name} pod.
  cpu: "{own.cpu}"
  # -- Memory that the scheduler reserves for {article} {stage.name} pod.
  memory: {own.memory}
  # -- Most CPUs of the pod; null: `cpu`.
  cpuLimit: null
  # -- Most memory of the pod, which is killed if it needs more; null: `memory`.
  memoryLimit: null
  # -- Size of /scratch{holds}.
  scratch: {own.scratch}
  # -- GPUs of a pod that computes on them (`compute.device`); evaluation pods get `gpu.count`.
  gpus: 0
  # -- Labels that a node must have; null: `gpu.nodeSelector` with GPUs, else `nodeSelector`.
  nodeSelector: null
  # -- Taints that the pods tolerate; null: `gpu.tolerations` with GPUs, else `tolerations`.
  tolerations: null
  # -- Affinity of the pods; null: `gpu.affinity` for pods with GPUs.
  affinity: null
  # -- topologySpreadConstraints of the pods, as Kubernetes spells them.
  topologySpread: []
  # -- Priority class of the pods; null: `gpu.priorityClass` for pods with GPUs.
  priorityClass: null
  # -- Time limit of one attempt in seconds; null: no limit.
  deadlineSeconds: {deadline}
"""


def image_values() -> str:
    """The keys of values.yaml for another image of each stage."""
    return "".join(
        f"  # -- Another image of the stage {stage.name}: any of registry, repository, tag and "
        f"digest.\n  {camel(stage.key)}: {{}}\n"
        for stage in STAGES
    )


def camel(name: str) -> str:
    """A key of settings as the chart spells it."""
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def schema(text: str) -> str:
    """values.schema.json with a section for each stage, and with its image."""
    document = json.loads(text)
    images = document["properties"]["images"]["properties"]
    _replace(images, "stageImage", {camel(stage.key): stage for stage in STAGES})
    stages = {stage.name: stage for stage in sized()}
    _replace(document["properties"], "stage", stages)
    required = [key for key in document["required"] if key in document["properties"]]
    document["required"] = list(dict.fromkeys([*required, *stages]))
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _replace(properties: dict[str, Any], kind: str, stages: dict[str, Stage]) -> None:
    """Replace the properties that refer to a definition by those of some stages."""
    reference = f"#/definitions/{kind}"
    old = [key for key, value in properties.items() if value.get("$ref") == reference]
    described = {key: properties.pop(key)["description"] for key in old}
    properties |= {
        key: {
            "description": described.get(key, f"The pods of the stage {stage.name}."),
            "$ref": reference,
        }
        for key, stage in stages.items()
    }


def environment() -> str:
    """The Dockerfile's ENV instruction."""
    settings = " \\\n    ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
    return f"ENV {settings}\n"


def between(text: str, name: str, new: str) -> str:
    """The text of a file with the generated lines between the marks of `name` replaced by `new`."""
    begin, end = f"# {name}: begin (generated by `make render`)\n", f"^ *# {name}: end\n"
    found = re.compile(f"(?<={re.escape(begin)}).*?(?={end})", re.DOTALL | re.MULTILINE)
    replaced, count = found.subn(lambda _: new, text)
    assert count == 1
    return replaced


def main() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    for name, new in (("packages", packages()), ("images", images())):
        text = between(text, name, new)
    DOCKERFILE.write_text(between(text, "environment", environment()), encoding="utf-8")
    path = CHART / "values.yaml"
    text = path.read_text(encoding="utf-8")
    text = between(between(text, "stages", values()), "images", image_values())
    path.write_text(text, encoding="utf-8")
    path = CHART / "values.schema.json"
    path.write_text(schema(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
