"""Lint rules on retry expressions: they can be parsed, and they retry the right failures.

The failures below are those that the controller of Argo 3.7 passes to an expression
(`tests/cluster/pods.py` names the sources). An exit code alone is not enough: a pod ends with 143
both after a deadline and after a deletion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.argo_emulator import expressions
from tests.argo_emulator.document import Document
from tests.argo_emulator.expressions import ExpressionError
from tests.argo_emulator.references import RETRY_NAMES, TAG


class End(NamedTuple):
    """The end of an attempt, as in `lastRetry`."""

    exit_code: str
    status: str
    message: str


SHUTDOWN = "Pod was terminated in response to imminent node shutdown."
LOW = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi."
PREEMPTED = "Preempted in order to admit critical pod"
DEADLINE = "Pod was active on the node longer than the specified deadline"
INSECURE = 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'
NOBODY = 'error looking up service account sweeps/svdjobs: serviceaccount "svdjobs" not found'
RETRIED = [
    End("75", "Failed", "main: Error (exit code 75)"),
    End("143", "Failed", "main: Error (exit code 143)"),
    End("-1", "Error", "pod deleted"),
    *(End(code, "Failed", SHUTDOWN) for code in ("-1", "137", "143")),
    *(End(code, "Failed", LOW) for code in ("-1", "137", "143")),
    *(End(code, "Failed", PREEMPTED) for code in ("-1", "137", "143")),
]
NOT_RETRIED = [
    *(End(code, "Failed", f"main: Error (exit code {code})") for code in ("1", "2", "3", "4", "5")),
    *(End(code, "Failed", DEADLINE) for code in ("-1", "0", "137", "143")),
    End("137", "Failed", "main: OOMKilled (exit code 137)"),
    *(End("-1", "Error", f'pods "x-1" is forbidden: {why}') for why in (INSECURE, NOBODY)),
]


def retry_expressions_are_sound(document: Document) -> Iterator[str]:
    """A retry expression uses only `lastRetry`, `retries` and substituted template inputs."""
    for path, template in document.own_templates():
        expression = template.get("retryStrategy", {}).get("expression")
        if expression is None:
            continue
        where = f"{path}.retryStrategy.expression"
        try:
            tree = expressions.parse(TAG.sub("x", expression))
        except ExpressionError as error:
            yield f"{where}: {error}."
            continue
        for name in expressions.names(tree):
            if name not in RETRY_NAMES | {"x"}:
                yield f"{where}: {name} is not one of {', '.join(sorted(RETRY_NAMES))}."
        for name in expressions.functions(tree):
            if name not in expressions.FUNCTIONS:
                yield f"{where}: the function {name}() is not known."


def retries_never_run_out_of_time(document: Document) -> Iterator[str]:
    """No retry strategy has a maxDuration.

    Argo counts it from the start of the first attempt (processNodeRetries). It does not retry a pod
    that is evicted later, and it ends a retry at that time.
    """
    for path, template in document.own_templates():
        if "maxDuration" in template.get("retryStrategy", {}).get("backoff", {}):
            where = f"{path}.retryStrategy.backoff.maxDuration"
            yield f"{where}: it counts from the first attempt's start, not from its end."


def retries_are_for_lost_pods(document: Document) -> Iterator[str]:
    """A failure that another pod may not have is retried; one that will happen again is not."""
    for path, template in document.leaves():
        expression = template.get("retryStrategy", {}).get("expression")
        if expression is None or TAG.search(expression):
            continue
        where = f"{path}.retryStrategy.expression"
        for ends, wanted, verb in (
            (RETRIED, True, "does not retry"),
            (NOT_RETRIED, False, "retries"),
        ):
            for end in ends:
                try:
                    found = bool(expressions.evaluate(expression, _scope(end)))
                except ExpressionError as error:
                    yield f"{where}: {error}."
                    return
                if found is not wanted:
                    yield f"{where}: it {verb} exit code {end.exit_code}, {end.message!r}."


def _scope(end: End) -> dict[str, object]:
    last = {"exitCode": end.exit_code, "status": end.status, "message": end.message}
    return {"retries": "0", "lastRetry": {**last, "duration": "60.0"}}
