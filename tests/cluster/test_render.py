"""The rendered manifests: they equal the committed files and pass the strict lint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from svdjobs import pipeline
from svdjobs.cluster.manifests import argo, render, sizes
from svdjobs.cluster.manifests.settings import ClusterSettings, load_settings
from svdjobs.config_file import parse_config
from svdjobs.errors import ConfigError
from svdjobs.runs import shards
from tests import rendered
from tests.argo_emulator.lint import lint

ROOT = Path(__file__).parent.parent.parent
DEMO = "jobs/sweeps/demo.yaml"
GPUS: dict[str, Any] = {
    "images": {"repository": "registry.example/svdjobs", "tag": "1.2.3"},
    "pull_secrets": ["regcred"],
    "user": None,
    "artifacts": True,
    "gpu": {
        "count": 8,
        "runtime_class": "nvidia",
        "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
        "priority_class": "batch",
        "scheduler": "volcano",
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
                    ]
                }
            }
        },
    },
    "limits": {"semaphore": "svdjobs-limits", "parallelism": 500, "retries": 2},
    "node_selector": {"pool": "cpu"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
}
SWEEPS = {
    "demo": (ROOT / DEMO).read_text(),
    "nothing optional": "{name: A_b.C, before: a/b, after: c/d, alphas: [0]}",
}


def documents(files: dict[Path, str], folder: str) -> list[dict[str, Any]]:
    """The documents of generated files in a folder, WorkflowTemplates first."""
    texts = [text for path, text in sorted(files.items()) if path.parent == Path(folder)]
    found = [document for text in texts for document in yaml.safe_load_all(text)]
    return sorted(found, key=lambda document: document["kind"] != "WorkflowTemplate")


def test_what_is_committed_is_what_is_generated() -> None:
    files = rendered.files()
    assert {path: (ROOT / path).read_text() for path in files} == files
    committed = {p.relative_to(ROOT) for p in (ROOT / "jobs" / "kubernetes").rglob("*.yaml")}
    assert committed <= set(files)


def test_the_sweep_in_the_repository_is_the_real_one() -> None:
    """The 1.5B pair on four benchmarks, and only evaluations on GPUs, one each."""
    (workflow,) = yaml.safe_load_all(rendered.files()[Path("workflows/sweep.yaml")])
    given = {item["name"]: item["value"] for item in workflow["spec"]["arguments"]["parameters"]}
    config = parse_config(yaml.safe_load(given["config"]), where="sweep")
    assert config.after == "agentica-org/DeepScaleR-1.5B-Preview"
    assert len(config.benchmarks) == 4
    assert given["gpus"] == "1"
    templates = {t["name"]: t for t in workflow["spec"]["templates"] if "container" in t}
    on_gpus = {name for name, t in templates.items() if "nvidia.com/gpu" in t["podSpecPatch"]}
    assert on_gpus == {"evaluate"}
    assert templates["evaluate"]["nodeSelector"] == {
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"
    }
    assert templates["evaluate"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    fan_outs = shards.fan_outs(config, None)
    assert len(fan_outs["engines"]) == 8
    assert fan_outs["fetch"] == [
        "deepseek-ai--DeepSeek-R1-Distill-Qwen-1.5B", "agentica-org--DeepScaleR-1.5B-Preview"
    ]  # fmt: skip
    jobs = {p.name[3:]: p for p in rendered.files() if p.parent == Path("jobs/kubernetes")}
    assert "evaluate-after.yaml" not in jobs, "engines share everything"
    (job,) = yaml.safe_load_all(rendered.files()[jobs["evaluate.yaml"]])
    assert job["spec"]["completions"] == 8


@pytest.mark.parametrize(
    "path", ["workflows/demo-settings.yaml", "helm/svdjobs/ci/dev-store-values.yaml"]
)
def test_the_demo_asks_of_a_small_node_what_it_has_for_every_stage(path: str) -> None:
    """A stage without an entry has the defaults of a large cluster, and its pod waits for ever."""
    asked = yaml.safe_load((ROOT / path).read_text())
    large = {s.name for s in pipeline.STAGES if s.resources is not pipeline.SMALL}
    large -= {"gate"}  # it asks for little
    assert {name: asked.get(name, {}).get("cpu") for name in large} == dict.fromkeys(large, "250m")


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("settings", [{}, GPUS], ids=["defaults", "everything set"])
def test_workflows_are_clean(settings: dict[str, Any], sweep: str) -> None:
    files = render.render(SWEEPS[sweep], ClusterSettings.model_validate(settings), where="test")
    found = documents(files, "workflows")
    kinds = [document["kind"] for document in found]
    assert sorted(kinds) == ["CronWorkflow", "Workflow", "Workflow", "WorkflowTemplate"]
    for document in found:
        assert lint(document, others=found[:1]) == []


def leaf(document: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (t for t in document["spec"]["templates"] if t["name"] == name)
    assert isinstance(found, dict)
    return found


def test_settings_of_gpus_reach_evaluation_and_nothing_else() -> None:
    whole = argo.sweep(ClusterSettings.model_validate(GPUS), SWEEPS["demo"])
    evaluate, blend = leaf(whole, "evaluate"), leaf(whole, "blend")
    gpus = {"nvidia.com/gpu": "{{workflow.parameters.gpus}}"}
    assert yaml.safe_load(evaluate["podSpecPatch"]) == {
        "terminationGracePeriodSeconds": 60,
        "runtimeClassName": "nvidia",
        "containers": [{"name": "main", "resources": {"limits": gpus, "requests": gpus}}],
    }
    assert evaluate["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert (evaluate["priorityClassName"], evaluate["schedulerName"]) == ("batch", "volcano")
    assert evaluate["affinity"] == GPUS["gpu"]["affinity"]
    assert evaluate["synchronization"]["semaphores"] == [
        {"configMapKeyRef": {"name": "svdjobs-limits", "key": "evaluate"}}
    ]
    assert evaluate["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert blend["nodeSelector"] == {"pool": "cpu"}
    assert blend["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert not {"synchronization", "priorityClassName", "affinity"} & set(blend)
    assert "runAsUser" not in whole["spec"]["securityContext"]


def test_a_stage_with_gpus_goes_where_they_are() -> None:
    own = {"decompose": {"gpus": 2}, "metrics": {"gpus": 1, "node_selector": {"pool": "small"}}}
    whole = argo.sweep(ClusterSettings.model_validate({**GPUS, **own}), SWEEPS["demo"])
    decompose, metrics = leaf(whole, "decompose"), leaf(whole, "metrics")
    assert decompose["container"]["resources"]["requests"]["nvidia.com/gpu"] == "2"
    assert decompose["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert decompose["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert decompose["priorityClassName"] == "batch"
    assert yaml.safe_load(decompose["podSpecPatch"])["runtimeClassName"] == "nvidia"
    assert metrics["nodeSelector"] == {"pool": "small"}
    assert "nvidia.com/gpu" not in leaf(whole, "rotations")["container"]["resources"]["requests"]


def test_networks_and_volumes_reach_every_pod() -> None:
    settings = {
        "ca_config_map": "authorities",
        "proxy": {"https": "http://proxy:3128", "no_proxy": "s3"},
        "model_cache": {"persistentVolumeClaim": {"claimName": "models"}},
        "extra_env": [{"name": "HF_ENDPOINT", "value": "https://hub"}],
        "scratch_class": "fast",
        "protect": True,
        "prometheus": True,
    }
    given = ClusterSettings.model_validate(settings)
    whole = argo.sweep(given, SWEEPS["demo"])
    assert whole["spec"]["podDisruptionBudget"] == {"minAvailable": argo.ALL_PODS}
    assert whole["spec"]["securityContext"]["fsGroup"] == 0
    metrics = whole["spec"]["metrics"]["prometheus"]
    assert [one["name"] for one in metrics] == ["svdjobs_sweeps_total", "svdjobs_sweep_seconds"]
    jobs = documents(render.render(SWEEPS["demo"], given, where="test"), "jobs/kubernetes")
    specs = [job["spec"]["template"]["spec"] for job in jobs if job["kind"] == "Job"]
    pods = [
        (one["container"], one["volumes"])
        for one in whole["spec"]["templates"]
        if "container" in one
    ]
    pods += [(spec["containers"][0], spec["volumes"]) for spec in specs]
    assert len(pods) > 15
    for container, volumes in pods:
        env = {item["name"]: item.get("value") for item in container["env"]}
        assert env["AWS_CA_BUNDLE"] == env["SSL_CERT_FILE"] == "/etc/svdjobs/ca/ca.crt"
        assert (env["HTTPS_PROXY"], env["NO_PROXY"]) == ("http://proxy:3128", "s3")
        assert (env["HF_HUB_CACHE"], env["HF_ENDPOINT"]) == ("/models", "https://hub")
        assert "HTTP_PROXY" not in env
        mounts = {item["name"]: item.get("readOnly", False) for item in container["volumeMounts"]}
        assert mounts["ca"] and mounts["models"]
        kinds = {volume["name"]: set(volume) - {"name"} for volume in volumes}
        assert kinds["scratch"] == {"ephemeral"}
        assert kinds["models"] == {"persistentVolumeClaim"}
        assert "ephemeral-storage" not in container["resources"]["requests"]


def test_argo_s_own_containers_are_restricted_too() -> None:
    """Otherwise a namespace with the restricted Pod Security level refuses every pod."""
    whole = argo.sweep(ClusterSettings(), SWEEPS["demo"])
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    patch = yaml.safe_load(whole["spec"]["podSpecPatch"])
    own = [*patch["initContainers"], *patch["containers"]]
    assert [one["name"] for one in own] == ["init", "wait"]
    assert [one["securityContext"] for one in own] == [restricted] * 2


def test_argo_4_1_has_other_containers_and_a_timeout_for_pending_pods() -> None:
    given = {"initless_pods": True, "limits": {"pending_timeout": "1h"}}
    whole = argo.sweep(ClusterSettings.model_validate(given), SWEEPS["demo"])
    patch = yaml.safe_load(whole["spec"]["podSpecPatch"])
    assert "initContainers" not in patch
    assert [one["name"] for one in patch["containers"]] == ["supervisor"]
    timeouts = {t["name"]: t.get("pendingTimeout") for t in whole["spec"]["templates"]}
    assert timeouts["plan"] == timeouts["notify"] == "1h"
    assert timeouts["sweep"] is None
    plain = argo.sweep(ClusterSettings(), SWEEPS["demo"])["spec"]["templates"]
    assert not [template for template in plain if "pendingTimeout" in template]


def test_only_argo_s_own_containers_get_the_account_s_token() -> None:
    whole = argo.sweep(ClusterSettings(), SWEEPS["demo"])
    patch = yaml.safe_load(whole["spec"]["podSpecPatch"])
    assert patch["automountServiceAccountToken"] is False
    (volume,) = patch["volumes"]
    sources = {kind for source in volume["projected"]["sources"] for kind in source}
    assert sources == {"serviceAccountToken", "configMap", "downwardAPI"}
    mount = {"name": volume["name"], "mountPath": argo.TOKEN_PATH, "readOnly": True}
    assert all(
        one["volumeMounts"] == [mount] for one in (*patch["initContainers"], *patch["containers"])
    )
    for template in whole["spec"]["templates"]:
        text = json.dumps([template, yaml.safe_load(template.get("podSpecPatch", "{}"))])
        assert volume["name"] not in text
        assert "automountServiceAccountToken" not in text


def test_only_verdicts_travel_as_artifacts() -> None:
    """The artifacts are files, not archives, under keys of the controller's repository."""
    whole = argo.sweep(ClusterSettings.model_validate(GPUS), SWEEPS["demo"])
    by_template = {
        template["name"]: template.get("outputs", {}).get("artifacts")
        for template in whole["spec"]["templates"]
    }
    report = by_template.pop("report")
    gate = by_template.pop("gate")
    assert not any(by_template.values())
    assert [(a["name"], a["path"], a["s3"]["key"]) for a in gate] == [
        (name.partition(".")[0], f"/scratch/gate/{name}", f"{{{{workflow.name}}}}/gate/{name}")
        for name in ("gate.md", "junit.xml")
    ]
    assert [(a["name"], a["s3"], a["archive"]) for a in report] == [
        (name.partition(".")[0], {"key": f"{{{{workflow.name}}}}/{name}"}, {"none": {}})
        for name in ("report.html", "junit.xml", "figures")
    ]


def test_jobs_share_the_exit_codes() -> None:
    """Exit codes that are retried count towards the limit; all others end the index or the Job."""
    files = render.render(SWEEPS["demo"], ClusterSettings.model_validate(GPUS), where="test")
    jobs = [d for d in documents(files, "jobs/kubernetes") if d["kind"] == "Job"]
    order = ["plan", "decompose", "evaluate-after", "rotations", "blend", "evaluate", "report"]
    names = [job["metadata"]["name"].removeprefix("svdjobs-demo-") for job in jobs]
    assert [name for name in names if name in order] == order
    for job in jobs:
        spec = job["spec"]
        disrupted, ended = spec["podFailurePolicy"]["rules"]
        assert disrupted["action"] == "Ignore"
        assert ended["onExitCodes"] == {
            "containerName": "main", "operator": "NotIn", "values": [75, 143],
        }  # fmt: skip
        indexed = spec.get("completionMode") == "Indexed"
        assert ended["action"] == ("FailIndex" if indexed else "FailJob")
        pod = spec["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        (container,) = pod["containers"]
        assert ("--index" in container["args"]) == indexed
        gpus = container["resources"]["limits"].get("nvidia.com/gpu")
        assert gpus == ("8" if "evaluate" in job["metadata"]["name"] else None)


def test_a_gate_is_the_last_job_where_there_is_one() -> None:
    text = SWEEPS["demo"] + "gate: {}\n"
    files = render.render(text, ClusterSettings(), where="test")
    (path,) = (path for path in files if "gate" in path.name)
    assert path == max(other for other in files if other.parent == path.parent)
    (job,) = yaml.safe_load_all(files[path])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "gate"
    assert not any("gate" in path.name for path in render.render(
        SWEEPS["demo"], ClusterSettings(), where="test"))  # fmt: skip


def test_a_gate_counts_as_what_it_adds() -> None:
    with_gate = {**big(2, 1), "gate": {}}
    plain, gated = (
        sizes.estimate(parse_config(d, where="big"), "") for d in (big(2, 1), with_gate)
    )
    assert (gated.nodes - plain.nodes, gated.pods - plain.pods) == (1, 1)


def test_names_of_jobs_are_names() -> None:
    long = parse_config(
        {"name": "A." + "x" * 80, "before": "a", "after": "b"}, where="test"
    )  # fmt: skip
    from svdjobs.cluster.manifests.jobs import run_name

    assert run_name(long) == "svdjobs-a-" + "x" * 28
    assert len(run_name(long) + "-evaluate-after") < 63


@pytest.mark.parametrize(
    ("sign", "who"), [("{{", "Argo"), ("$$", "Kubernetes"), ("$(", "Kubernetes")]
)
def test_what_would_be_replaced_is_refused(sign: str, who: str) -> None:
    """Kubernetes replaces `$$` by `$` in a variable's value, which would change LaTeX."""
    text = SWEEPS["nothing optional"] + f"\n# Solve {sign}x"
    with pytest.raises(ConfigError, match=rf"mine\.yaml line 2: {who} would replace") as caught:
        render.render(text, ClusterSettings(), where="mine.yaml")
    assert repr(sign) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"images": {"tag": "{{workflow.name}}"}}, "images.tag"),
        ({"store": "s3://{{inputs}}/x"}, "store"),
        ({"gpu": {"resource": "{{x}}"}}, "gpu.resource"),
        ({"node_selector": {"zone": "$(ZONE)"}}, "node_selector.zone"),
        ({"tolerations": [{"key": "a$$b"}]}, "tolerations.0.key"),
        ({"gpu": {"node_selector": {"{{x}}": "a"}}}, "gpu.node_selector"),
    ],
)
def test_settings_that_would_be_replaced_are_refused(settings: dict[str, Any], where: str) -> None:
    given = ClusterSettings.model_validate(settings)
    with pytest.raises(ConfigError, match=rf"cluster settings {where} is .* would replace"):
        render.render(SWEEPS["demo"], given, where="mine.yaml")


def test_deadlines_of_jobs_are_not_tried_again() -> None:
    """The deadline is the Job's: a pod's own would end it with SIGTERM, as an eviction does."""
    files = render.render(SWEEPS["demo"], ClusterSettings(), where="test")
    jobs = {d["metadata"]["name"]: d for d in documents(files, "jobs/kubernetes")}
    evaluate = jobs["svdjobs-demo-evaluate"]["spec"]
    assert evaluate["activeDeadlineSeconds"] == 43_200
    assert "activeDeadlineSeconds" not in evaluate["template"]["spec"]


def test_old_files_go_and_others_stay(tmp_path: Path) -> None:
    """The Job of rotations is removed when a sweep without rotations is rendered."""
    demo = render.render(SWEEPS["demo"], ClusterSettings(), where="demo")
    render.write(demo, tmp_path)
    own = tmp_path / "workflows" / "mine.yaml"
    own.write_text("kind: Workflow\n")
    less = render.render(SWEEPS["nothing optional"], ClusterSettings(), where="less")
    written = render.write(less, tmp_path)
    left = {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*written, own.relative_to(tmp_path)}


def test_a_stage_s_section_changes_only_the_keys_that_it_has() -> None:
    changed = {"evaluate": {"memory": "96Gi"}, "report": {}}
    given, usual = (
        ClusterSettings.model_validate(settings).model_dump() for settings in (changed, {})
    )
    assert given["evaluate"] == {**usual["evaluate"], "memory": "96Gi"}
    assert given["evaluate"]["scratch"] == "100Gi"
    assert given["report"] == usual["report"]


def test_bad_settings_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("gpu: {count: -1}\npull_policy: Sometimes\nimage: x\n")
    with pytest.raises(ConfigError, match=r"(?s)pull_policy: .*Always.*gpu\.count: .*\n  image: "):
        load_settings(path)
    with pytest.raises(ConfigError, match=r"cluster settings .*none\.yaml"):
        load_settings(tmp_path / "none.yaml")


def big(alphas: int, shards: int) -> dict[str, Any]:
    return {
        "name": "big",
        "before": "a/b",
        "after": "c/d",
        "alphas": [i / (alphas - 1) for i in range(alphas)],
        "evaluate": {
            "benchmarks": ["math-500", "aime-2024", "aime-2025", "amc-2023"],
            "shards": shards,
        },
        "rotations": {"rl1": "e/f"},
    }


def test_two_hundred_alphas_on_sixteen_units_fit() -> None:
    text = yaml.safe_dump(big(200, 4))
    files = render.render(text, ClusterSettings(), where="big")
    size = sizes.estimate(
        parse_config(big(200, 4), where="big"), files[Path("workflows/sweep.yaml")]
    )
    # An alpha has its DAG, blend (2: Retry and pod), a group, 16 shards (2 each), a skipped task.
    alphas, rest = 200 * (1 + 2 + 1 + 32 + 1), (1 + 1 + 32) + 33 + (1 + 2 * 64) + 1 + 1 + 6 + 4
    rest += 1 + (1 + 2 * 3)  # no engines; three checkpoints are fetched
    once = [t for t in pipeline.SWEEP if isinstance(t, pipeline.Task) and not (t.each or t.when)]
    assert size.nodes == alphas + rest + 2 * (len(once) - 1)
    assert size.pods == 200 * (1 + 16) + 4 * 16 + 2 * 16 + 3 + 2 + len(once)
    assert size.stored_bytes < sizes.LIMIT_BYTES
    # The bytes that a real controller stored: tests/live/test_scale.py with 200 alphas.
    assert abs(size.status_bytes - 638_796) < 0.2 * 638_796


def test_what_argo_could_not_keep_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        ConfigError, match=r"1000 alphas make a Workflow of 69,\d{3} nodes .*Submit"
    ):
        render.render(yaml.safe_dump(big(1000, 8)), ClusterSettings(), where="big")
