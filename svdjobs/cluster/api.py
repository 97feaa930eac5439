"""The Kubernetes API as svdjobs uses it: plain documents in and out. It outlasts short outages and
explains refusals.

Only this module knows the `kubernetes` package, and of it only what it takes to find a cluster, to
prove who one is and to send a request.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from svdjobs.attempts import Attempts
from svdjobs.errors import ClusterError, ConfigError, RefusedError, UnavailableError

ARGO = "/apis/argoproj.io/v1alpha1"
PATIENCE_SECONDS = 60.0
# For commands that watch a run, which takes hours anyway.
LONG_PATIENCE_SECONDS = 600.0
# Longest wait for an answer, and for the next line of one; a watch ends by itself before that.
ANSWER_SECONDS = 30.0
WATCH_SECONDS = 50
STREAM_SECONDS = 65.0
# After an outage a server may refuse what it allows, until it has read its own rules again.
SETTLING_SECONDS = 8.0

_TRANSIENT = {408, 429, 500, 502, 503, 504}
_POD_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATH = re.compile(
    r"^(?:/api/v1|/apis/(?P<group>[^/]+)/[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?$"
)

Document = dict[str, Any]


class StreamInterruption(Exception):  # noqa: N818 - no error: the stream is requested again
    """A stream broke off, or was silent for too long."""


class RequestedAction(NamedTuple):
    """What a request wants, in the words of Kubernetes' permissions."""

    verb: str
    resource: str
    namespace: str
    name: str


def in_pod() -> bool:
    """Whether this process runs in a pod that may talk to its cluster."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (_POD_ACCOUNT / "token").is_file()


def connect(namespace: str | None = None, **options: Any) -> Cluster:
    """The cluster of KUBECONFIG; without it, this pod's cluster, or else that of ~/.kube/config.

    No request is sent yet. `options` are those of `Cluster`.

    Raises:
        ClusterError: neither is there, or the file is not a kubeconfig.
    """
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    given = os.environ.get("KUBECONFIG")
    settings = client.Configuration()
    try:
        if not given and in_pod():
            config.load_incluster_config(client_configuration=settings)
            own = (_POD_ACCOUNT / "namespace").read_text().strip()
        else:
            config.load_kube_config(config_file=given, client_configuration=settings)
            _, context = config.list_kube_config_contexts(config_file=given)
            own = context["context"].get("namespace") or "default"
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            f"no cluster to talk to: {given or '~/.kube/config'} is not a usable kubeconfig "
            f"({str(error) or type(error).__name__}), and this is no pod. Set KUBECONFIG to a file "
            f"that `kubectl get pods` works with."
        ) from None
    settings.retries = False  # Cluster retries, and transient errors only
    return Cluster(client.ApiClient(settings), namespace or own, **options)


class Cluster:
    """One API server, and the namespace of the objects.

    A request without an answer is sent again, for `patience_seconds`, so every change must be
    idempotent. `notice` gets a message once per outage.
    """

    def __init__(
        self,
        client: Any,
        namespace: str,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self._client = client
        self.namespace = namespace
        self.patience_seconds = patience_seconds
        self.notice = notice or (lambda words: None)
        self._unsettled_until = 0.0

    @property
    def server(self) -> str:
        """Address of the API server."""
        return str(self._client.configuration.host)

    def path(self, resource: str, name: str = "", *, api: str = ARGO) -> str:
        """Path of a resource in this namespace, or of one object of it."""
        return f"{api}/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    def get(self, path: str, **query: Any) -> Document:
        """An object, or a list of them."""
        return self._document("GET", path, query=query)

    def create(self, path: str, body: Document) -> Document:
        """Create an object. If an answer was lost, the repeated request is refused with 409."""
        return self._document("POST", path, body=body)

    def patch(self, path: str, body: Document) -> Document:
        """Set fields of an object."""
        return self._document("PATCH", path, body=body)

    def delete(self, path: str) -> Document:
        """Delete an object."""
        return self._document("DELETE", path)

    def stream(self, path: str, **query: Any) -> Iterator[str]:
        """Lines of an answer, as they come.

        Raises:
            StreamInterruption: it broke off. The incomplete last line is dropped.
        """
        from urllib3.exceptions import HTTPError

        response = self._send_with_retries("GET", path, query=query, read_seconds=STREAM_SECONDS)
        rest = b""
        try:
            for piece in response.stream(amt=None, decode_content=True):
                *lines, rest = (rest + piece).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
        except (HTTPError, OSError):
            raise StreamInterruption from None
        finally:
            response.close()
        if rest:
            yield rest.decode(errors="replace")

    def _document(self, method: str, path: str, **request: Any) -> Document:
        response = self._send_with_retries(method, path, read_seconds=ANSWER_SECONDS, **request)
        try:
            document = json.loads(response.data)
        except ValueError:
            document = None
        finally:
            response.release_conn()
        if not isinstance(document, dict):
            raise ClusterError(
                f"{self.server} answered {method} {path} with something that is no JSON object. Is "
                f"it the address of a Kubernetes API server?"
            )
        return document

    def _send_with_retries(self, method: str, path: str, **request: Any) -> Any:
        """Send a request until there is an answer.

        Raises:
            RefusedError: the server refuses the request.
            ClusterError: the server's certificate is not trusted.
            UnavailableError: there was no answer for `patience_seconds`.
        """
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        attempts = Attempts(patience_seconds=self.patience_seconds)
        while True:
            try:
                return self._send(method, path, **request)
            except ApiException as error:
                if not self._is_transient(error):
                    action = action_of(method, path, request.get("query") or {})
                    raise refusal(
                        action, int(error.status or 0), _text(error), self.server
                    ) from None
                reason = f"HTTP {error.status}"
            except (HTTPError, OSError) as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise ClusterError(
                        f"{self.server} shows a certificate that the kubeconfig does not trust. "
                        f"Get a new kubeconfig of this cluster."
                    ) from None
                reason = _why(error)
            self._unsettled_until = time.monotonic() + SETTLING_SECONDS
            if not attempts.failed and self.patience_seconds > 1:
                self.notice(
                    f"The API server {self.server} does not answer ({reason}); trying for "
                    f"{self.patience_seconds:.0f} s."
                )
            if not attempts.pause():
                raise UnavailableError(
                    f"the API server {self.server} does not answer ({reason}), tried for "
                    f"{self.patience_seconds:.0f} s. Check the cluster and KUBECONFIG, then run "
                    f"the same command again; a Workflow goes on meanwhile."
                )

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: Document | None = None,
        query: dict[str, Any] | None = None,
        read_seconds: float,
    ) -> Any:
        headers = {"Accept": "application/json, */*"}
        if body is not None:
            merge = method == "PATCH"
            headers["Content-Type"] = f"application/{'merge-patch+' if merge else ''}json"
        return self._client.call_api(
            path,
            method,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=(5.0, read_seconds),
        )

    def _is_transient(self, error: Any) -> bool:
        """Whether the same request may succeed in a moment."""
        if error.status in _TRANSIENT:
            return True
        unsettled = time.monotonic() < self._unsettled_until
        return unsettled and (error.status in (401, 403) or not _is_status(_text(error)))


def action_of(method: str, path: str, query: dict[str, Any]) -> RequestedAction:
    """What a request wants, from its path."""
    found = _PATH.match(path)
    if found is None:
        return RequestedAction("get", path, "", "")
    verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method, "get")
    if verb == "get" and not found["name"]:
        verb = "watch" if query.get("watch") else "list"
    sub, group = found["sub"], found["group"]
    resource = found["resource"] + (f"/{sub}" if sub else "") + (f".{group}" if group else "")
    return RequestedAction(verb, resource, found["namespace"] or "", found["name"] or "")


def refusal(action: RequestedAction, status: int, text: str, server: str) -> ConfigError:
    """The error for a request that the server refused, with what to do about it."""
    verb, resource, namespace, name = action
    where = f" in namespace {namespace}" if namespace else ""
    said = _said(text)
    if status == 401:
        words = (
            f"{server} does not know who you are (401), asked to {verb} {resource}{where}. Log in "
            f"again, or get a new kubeconfig; its token or certificate may have expired."
        )
    elif status == 403:
        words = f"you may not {verb} {resource}{where}: {said}. {_grant(action, said)}"
    elif status == 404 and "argoproj.io" in resource and not _is_status(text):
        return ConfigError(
            f"{server} has no Argo Workflows: it knows no {resource}. Install it (version 3.7 or "
            f"newer; its quick-start-minimal.yaml or Helm chart), then look with `svdjobs doctor`."
        )
    elif status == 404:
        words = (
            f"there is no {resource} {name!r}{where}. To see which there are: `kubectl get "
            f"{resource} -A`."
        )
    else:
        words = f"{server} refused to {verb} {resource} {name}{where} ({status}): {said}."
    return RefusedError(words, status)


def _grant(action: RequestedAction, said: str) -> str:
    """The commands that allow what was refused."""
    who = re.search(r'User "([^"]+)"', said)
    user = who[1] if who else "USER"
    account = re.fullmatch(r"system:serviceaccount:([^:]+):(.+)", user)
    subject = f"--serviceaccount={account[1]}:{account[2]}" if account else f"--user={user}"
    kind, scope = ("role", f" -n {action.namespace}") if action.namespace else ("clusterrole", "")
    return (
        f"Someone who administers it can allow it with\n"
        f"  kubectl create {kind} svdjobs-{action.verb}{scope} --verb={action.verb} "
        f"--resource={action.resource}\n"
        f"  kubectl create {kind}binding svdjobs-{action.verb}{scope} "
        f"--{kind}=svdjobs-{action.verb} {subject}"
    )


def _text(error: Any) -> str:
    body = error.body
    return body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")


def _is_status(text: str) -> bool:
    """Whether an answer is a Kubernetes Status object: then the API server itself wrote it."""
    try:
        return bool(json.loads(text).get("kind") == "Status")
    except (ValueError, AttributeError):
        return False


def _said(text: str) -> str:
    """The message of the server's answer, shortened."""
    words = str(json.loads(text).get("message", "")) if _is_status(text) else text
    words = " ".join(words.split()).rstrip(".")
    return words if len(words) <= 300 else words[:299] + "…"


def _why(error: BaseException) -> str:
    """The cause of a failed connection, in few words."""
    words = str(error).lower()
    for known in ("connection refused", "name or service not known", "timed out", "no route"):
        if known in words:
            return known
    return type(getattr(error, "reason", None) or error).__name__
