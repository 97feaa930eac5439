"""Submit a sweep as an Argo Workflow, exactly once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdjobs.cluster.api import Cluster, Document
from svdjobs.cluster.manifests import sizes
from svdjobs.cluster.manifests.render import refuse_signs_in_config, refuse_signs_in_value
from svdjobs.cluster.manifests.yaml_text import dump
from svdjobs.cluster.names import is_workflow_name, label_value, workflow_name
from svdjobs.cluster.watching.status import RUN_LABEL, parameters
from svdjobs.config import SweepConfig
from svdjobs.config_file import overridden, read_config, read_text
from svdjobs.errors import ConfigError, RefusedError
from svdjobs.storage.open import open_store
from svdjobs.storage.store import S3

DEFAULT_FILE = Path("workflows/sweep.yaml")
SUBMISSION_LABEL = "svdjobs.io/submission"


@dataclass(frozen=True)
class Submission:
    """A sweep, and the Workflow that runs it."""

    config_file: Path
    store: str | None = None
    """The run's store; default: the `store` of the config, then that of the Workflow."""
    workflow_file: Path = DEFAULT_FILE
    template: str | None = None
    """An installed WorkflowTemplate, used instead of the file."""
    parameters: Mapping[str, str] | None = None
    service_account: str | None = None
    name: str | None = None
    """The Workflow's name; default: the sweep's name with a random suffix."""
    overrides: tuple[str, ...] = ()
    """Overrides of the config, each KEY=VALUE."""
    annotations: Mapping[str, str] | None = None
    deadline_seconds: int | None = None
    """Seconds until Argo ends the Workflow; default: the Workflow's own deadline, if any."""


def submit(cluster: Cluster, submission: Submission) -> Document:
    """Create the Workflow and return the server's copy of it.

    The client chooses the name, so the Workflow is created once even if the server's answer is
    lost: the repeated request conflicts with the Workflow that has this submission's label.

    Raises:
        ConfigError: the config, a parameter, the file or the name is wrong, or the name is taken.
    """
    document = workflow_of(cluster, submission)
    meta = document["metadata"]
    try:
        return cluster.create(cluster.path("workflows"), document)
    except RefusedError as error:
        if error.status != 409:
            raise
    existing = cluster.get(cluster.path("workflows", meta["name"]))
    labels = existing["metadata"].get("labels") or {}
    if labels.get(SUBMISSION_LABEL) == meta["labels"][SUBMISSION_LABEL]:
        return existing
    raise ConfigError(
        f"there is a Workflow {meta['name']!r} in namespace {cluster.namespace} already. Give "
        f"another --name, or none, or delete that Workflow."
    )


def workflow_of(cluster: Cluster, submission: Submission) -> Document:
    """The Workflow to create. A template's parameters are checked if the template may be read."""
    where, text = str(submission.config_file), read_text(submission.config_file)
    if submission.overrides:
        text = overridden(text, submission.overrides, where=where)
    config = read_config(text, where=where)
    refuse_signs_in_config(text, where)
    name = submission.name or workflow_name(config.name)
    if not is_workflow_name(name):
        raise ConfigError(
            f"--name {name!r}: a Workflow's name has at most 63 lower-case letters, digits, '-' "
            f"and '.', e.g. {workflow_name(config.name)}."
        )
    if submission.template is None:
        document = read_workflow(submission.workflow_file)
        spec, meta = {**document["spec"]}, document.get("metadata") or {}
    else:
        spec, meta = {"workflowTemplateRef": {"name": submission.template}}, {}
    spec["arguments"] = _arguments(cluster, submission, config, text, spec.get("arguments") or {})
    if submission.service_account:
        spec["serviceAccountName"] = submission.service_account
    if submission.deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = submission.deadline_seconds
    sizes.require_room(config, sizes.estimate(config, dump(spec)))
    labels = {RUN_LABEL: label_value(config.name), SUBMISSION_LABEL: secrets.token_hex(8)}
    annotations = {**(meta.get("annotations") or {}), **(submission.annotations or {})}
    annotated = {"annotations": annotations} if annotations else {}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {**annotated, "name": name, "labels": {**(meta.get("labels") or {}), **labels}},
        "spec": spec,
    }


def _arguments(
    cluster: Cluster, submission: Submission, config: SweepConfig, text: str, in_file: Document
) -> Document:
    """The arguments of the Workflow: those of its file, if it has one, then the submission's."""
    if submission.template is None:
        where = str(submission.workflow_file)
        listed = list(in_file.get("parameters") or [])
        declared: dict[str, Any] | None = parameters(in_file)
    else:
        where = f"WorkflowTemplate {submission.template}"
        listed = []
        template = installed(cluster, submission.template)
        declared = None if template is None else parameters(template["spec"].get("arguments"))
    values = {
        **(submission.parameters or {}),
        "config": text,
        "store": _store(submission, config, str((declared or {}).get("store") or ""), where),
    }
    for key, value in values.items():
        if key != "config":  # refuse_signs_in_config has checked it, line by line
            refuse_signs_in_value(value, "--store" if key == "store" else f"-p {key}")
    if declared is not None and (unknown := sorted(set(values) - set(declared))):
        raise ConfigError(
            f"{where} has no parameter {', '.join(unknown)}; it has "
            f"{', '.join(sorted(declared)) or 'none'}."
        )
    others = [item for item in listed if item["name"] not in values]
    new = [{"name": name, "value": value} for name, value in values.items()]
    return {**in_file, "parameters": [*others, *new]}


def read_workflow(path: Path) -> Document:
    """Read a Workflow from a file.

    Raises:
        ConfigError: the file is missing, cannot be read, or is no Workflow.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"no Workflow at {path}. Write it with `svdjobs workflow render`, give another file "
            f"with --file, or use an installed template with --from-template."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    kind = document.get("kind") if isinstance(document, dict) else type(document).__name__
    if isinstance(document, dict) and kind == "Workflow" and isinstance(document.get("spec"), dict):
        return document
    raise ConfigError(f"{path}: expected one document of kind Workflow, found {kind}.")


def installed(cluster: Cluster, template: str) -> Document | None:
    """An installed WorkflowTemplate; None if the user may not read templates.

    Raises:
        ConfigError: there is no template of that name.
    """
    try:
        return cluster.get(cluster.path("workflowtemplates", template))
    except RefusedError as error:
        if error.status == 403:
            return None
        if error.status != 404:
            raise
    others = cluster.get(cluster.path("workflowtemplates"))["items"]
    names = ", ".join(sorted(item["metadata"]["name"] for item in others)) or "none"
    raise ConfigError(
        f"no WorkflowTemplate {template!r} in namespace {cluster.namespace}; templates there: "
        f"{names}. Install the chart helm/svdjobs there, give another --namespace, or submit a "
        f"file with --file."
    )


def _store(submission: Submission, config: SweepConfig, declared: str, where: str) -> str:
    """The URL of the store to use.

    Raises:
        ConfigError: no store is named, or pods cannot reach it.
    """
    store = submission.store or config.store or declared
    if not store:
        raise ConfigError(
            f"no store: {submission.config_file} and {where} name none. Give --store "
            f"s3://bucket/prefix, a store that all pods can reach."
        )
    if not store.startswith(S3):
        raise ConfigError(
            f"store {store!r} is a folder, which pods do not share. Give --store s3://bucket/prefix."
        )
    open_store(store)  # refuses a malformed URL before anything is submitted
    return store
