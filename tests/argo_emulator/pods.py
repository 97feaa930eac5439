"""Lint rules on leaves, the templates that run pods: command, image, resources, security."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import yaml

from tests.argo_emulator.document import Document, Json, containers_of, parameters_of, twice
from tests.argo_emulator.references import TAG
from tests.argo_emulator.schema import schema_findings

REQUESTS = ("cpu", "memory", "ephemeral-storage")
LIMITS = ("memory", "ephemeral-storage")  # a CPU limit would slow a pod down even on an idle node
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
UNITS = {
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
# The kinds of volumes that the restricted Pod Security level allows.
RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
# Fields of a pod that a patch may set. Without this list only the API server would find a typo.
POD_FIELDS = {
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "enableServiceLinks",
    "imagePullSecrets",
    "initContainers",
    "nodeSelector",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "securityContext",
    "shareProcessNamespace",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
}


def leaves_name_their_command(document: Document) -> Iterator[str]:
    """Every container has a command: without one, Argo asks the registry for the entrypoint."""
    for path, template in document.leaves():
        for inner, container in containers_of(template):
            if not container.get("command"):
                yield f"{path}.{inner}: it has no command."


def images_are_pinned(document: Document) -> Iterator[str]:
    """Every image has a digest, or a tag that is not `latest`."""
    for path, template in document.leaves():
        for inner, container in containers_of(template):
            image = _with_values(document, container["image"])
            tag = image.rpartition("/")[2].partition(":")[2]
            if "{{" in image:
                yield f"{path}.{inner}.image: {image} is only known when it runs."
            elif "@sha256:" not in image and tag in ("", "latest"):
                yield f"{path}.{inner}.image: {image or 'nothing'} has no fixed tag or digest."


def _with_values(document: Document, text: str) -> str:
    """The text with the values of workflow parameters substituted."""
    for name, parameter in document.parameters.items():
        if "value" in parameter:
            text = text.replace(f"{{{{workflow.parameters.{name}}}}}", parameter["value"])
    return text


def leaves_state_their_resources(document: Document) -> Iterator[str]:
    """Requests and limits are literal, complete and consistent."""
    for path, template in document.leaves():
        for inner, container in containers_of(template):
            resources = container.get("resources", {})
            where = f"{path}.{inner}.resources"
            for kind, required in (("requests", REQUESTS), ("limits", LIMITS)):
                for name in required:
                    if name not in resources.get(kind, {}):
                        yield f"{where}.{kind}: it has no {name}."
            yield from _quantity_findings(resources, where)


def _quantity_findings(resources: Json, where: str) -> Iterator[str]:
    for kind in ("requests", "limits"):
        for name, quantity in resources.get(kind, {}).items():
            if "{{" in str(quantity):
                yield f"{where}.{kind}.{name}: an expression here is refused by the API server."
            elif amount(quantity) is None:
                yield f"{where}.{kind}.{name}: {quantity!r} is not a quantity."
    for name, limit in resources.get("limits", {}).items():
        most, least = amount(limit), amount(resources.get("requests", {}).get(name, "0"))
        if most is not None and least is not None and least > most:
            yield f"{where}: the request of {name} is above its limit {limit}."


def amount(quantity: object) -> float | None:
    """A Kubernetes quantity as a number; None if the text is none."""
    match = QUANTITY.fullmatch(str(quantity))
    return float(match[1]) * UNITS.get(match[2], 1) if match else None


def leaves_are_restricted(document: Document) -> Iterator[str]:
    """Pods pass the restricted Pod Security level, with a read-only root file system."""
    if document.spec.get("hostNetwork"):
        yield f"{document.spec_path}.hostNetwork: the restricted Pod Security level forbids it."
    for path, template in document.leaves():
        pod = {**document.spec.get("securityContext", {}), **template.get("securityContext", {})}
        for inner, container in containers_of(template):
            own = container.get("securityContext", {})
            both = {**pod, **own}
            for wrong in _insecure(own, both):
                yield f"{path}.{inner}.securityContext: {wrong}."


def _insecure(own: Json, both: Json) -> Iterator[str]:
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("privileged"):
        yield "privileged is true"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield "capabilities is not {drop: [ALL]}"
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if both.get("runAsUser") == 0:
        yield "runAsUser is 0"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile.type is not RuntimeDefault"


def volumes_exist(document: Document) -> Iterator[str]:
    """Mounted volumes exist and are of an allowed kind, an emptyDir has a size limit, and no path
    is mounted twice."""
    spec = document.spec
    for path, volume in _volumes(document):
        for kind in set(volume) - RESTRICTED_VOLUMES - {"name"}:
            yield f"{path}: the restricted Pod Security level forbids {kind}."
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"{path}: emptyDir has no sizeLimit."
    shared = {volume["name"] for volume in spec.get("volumes", [])}
    shared |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    for path, template in document.leaves():
        known = shared | {volume["name"] for volume in template.get("volumes", [])}
        for inner, container in containers_of(template):
            mounts = container.get("volumeMounts", [])
            for mount in mounts:
                if mount["name"] not in known:
                    yield f"{path}.{inner}.volumeMounts: there is no volume {mount['name']}."
            yield from twice(f"{path}.{inner}.volumeMounts", [m["mountPath"] for m in mounts])


def _volumes(document: Document) -> Iterator[tuple[str, Json]]:
    for volume in document.spec.get("volumes", []):
        yield f"{document.spec_path}.volumes[{volume['name']}]", volume
    for path, template in document.own_templates():
        for volume in template.get("volumes", []):
            yield f"{path}.volumes[{volume['name']}]", volume


def environment_is_unambiguous(document: Document) -> Iterator[str]:
    """No environment variable is set twice."""
    for path, template in document.leaves():
        for inner, container in containers_of(template):
            names = [variable["name"] for variable in container.get("env", [])]
            yield from twice(f"{path}.{inner}.env", names)


def outputs_have_defaults(document: Document) -> Iterator[str]:
    """A parameter from a file has a default: the pod may be gone before Argo reads the file."""
    for path, template in document.leaves():
        for parameter in parameters_of(template.get("outputs")):
            source = parameter.get("valueFrom", {})
            if "path" in source and "default" not in source:
                where = f"{path}.outputs.parameters[{parameter['name']}].valueFrom"
                yield f"{where}: it has no default."


def patches_are_pods(document: Document) -> Iterator[str]:
    """A podSpecPatch sets only fields of a pod, once its expressions are substituted."""
    places = [(document.spec_path, document.spec), *document.own_templates()]
    for path, holder in places:
        if "podSpecPatch" not in holder:
            continue
        where = f"{path}.podSpecPatch"
        text = TAG.sub("1", _with_values(document, holder["podSpecPatch"]))
        try:
            patch = yaml.safe_load(text)
        except yaml.YAMLError as error:
            yield f"{where}: {str(error).splitlines()[0]}; it must be YAML or JSON."
            continue
        if not isinstance(patch, dict):
            yield f"{where}: it is {type(patch).__name__}, not an object."
            continue
        for field in sorted(set(patch) - POD_FIELDS):
            yield f"{where}: {field} is not a field of a pod that a patch may set."
        for container in patch.get("containers", []):
            filled = {"image": "filled-in", **container}  # a patch need not set the image
            name = container.get("name")
            yield from schema_findings(filled, "Container", f"{where}.containers[{name}]")
            yield from _quantity_findings(container.get("resources", {}), where)


RULES: tuple[Callable[[Document], Iterator[str]], ...] = (
    leaves_name_their_command,
    images_are_pinned,
    leaves_state_their_resources,
    leaves_are_restricted,
    volumes_exist,
    environment_is_unambiguous,
    outputs_have_defaults,
    patches_are_pods,
)
