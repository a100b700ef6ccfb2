"""What the Kubernetes API answers when it does not do what was asked, as errors that say what to do.

Pure functions from a status and a body to an exception; nothing is asked here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mizzen.errors import ClusterError, InputError, MizzenError, NotFoundError

KUBERAY_INSTALL = (
    "Install the KubeRay operator (1.7 or newer): `helm repo add kuberay https://ray-project.github.io/"
    "kuberay-helm && helm install kuberay-operator kuberay/kuberay-operator`."
)


class AwayError(ClusterError):
    """The API could not be reached, or has too much to do: whoever follows something asks again."""


@dataclass(frozen=True)
class Request:
    """What was asked of the API."""

    verb: str
    plural: str
    group: str
    namespace: str
    name: str | None
    host: str

    @property
    def resource(self) -> str:
        """As it stands in a Role."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def target(self) -> str:
        """For people."""
        named = f" {self.name!r}" if self.name else ""
        return f"{self.resource}{named} in the namespace {self.namespace!r}"


def refused(request: Request, status: int | None, body: Any) -> MizzenError:
    """The error behind an answer with `status` and `body` (a `Status` object, or any text)."""
    reason, message = _status(body)
    saw = f"HTTP {status}{f' {reason}' if reason else ''}: {message}" if message else f"HTTP {status}"
    what = f"cannot {request.verb} {request.target}"
    if status == 401:
        return ClusterError(
            f"{request.host} does not accept your credentials",
            saw=saw,
            remedy="Log in again, and check with `kubectl auth whoami`.",
        )
    if status == 403:
        return _forbidden(request, what, saw, message)
    if status == 404:
        return _missing(request, what, saw, reason, message)
    if status == 409:
        exists = reason == "AlreadyExists"
        return ClusterError(
            f"{request.target} is there already" if exists else f"{what}: somebody else changed it",
            saw=saw,
            remedy="Delete it first, or use another name." if exists else "Try again.",
        )
    if status == 410:
        return ClusterError(what, saw=saw, remedy="The list is too old; ask again.")
    if status in (400, 422):
        return InputError(
            f"the API refuses this: {what}", saw=saw, remedy="Correct the fields that are named."
        )
    if status == 429:
        return AwayError(what, saw=saw, remedy="The API server is overloaded; try again in a while.")
    return AwayError(what, saw=saw, remedy="Try again; if it stays, look at the API server's health.")


def unreachable(request: Request, cause: BaseException) -> AwayError:
    """The error behind a connection that failed."""
    return AwayError(
        f"cannot reach the Kubernetes API at {request.host}",
        saw=f"{type(cause).__name__}: {cause}",
        remedy="Check your network, VPN and proxy, and the context with `kubectl config current-context`.",
    )


def _forbidden(request: Request, what: str, saw: str, message: str) -> ClusterError:
    if "exceeded quota" in message:
        return ClusterError(
            what, saw=saw, remedy="Delete what is not needed, ask for less, or have the ResourceQuota raised."
        )
    if "PodSecurity" in message or "admission webhook" in message:
        return ClusterError(
            what, saw=saw, remedy="A policy of the cluster refuses it; the message names the rule."
        )
    where = f"the namespace {request.namespace!r}" if request.namespace != "*" else "all namespaces"
    return ClusterError(
        what,
        saw=saw,
        remedy=f"You may not `{request.verb}` `{request.resource}` in {where}. Have a RoleBinding made for"
        " you to the chart's Role for jobs (`kubectl get role -l app.kubernetes.io/name=mizzen`), and"
        f" check with `kubectl auth can-i {request.verb} {request.resource} -n {request.namespace}`.",
    )


def _missing(request: Request, what: str, saw: str, reason: str, message: str) -> MizzenError:
    if reason == "NotFound" and "could not find the requested resource" not in message:
        if f'namespaces "{request.namespace}" not found' in message:
            return NotFoundError(f"no namespace {request.namespace!r}", saw=saw, remedy="Check --namespace.")
        return NotFoundError(f"no {request.target}", saw=saw)
    remedy = KUBERAY_INSTALL if request.group == "ray.io" else "Install what brings this kind of object."
    return ClusterError(f"{what}: the cluster does not know {request.resource}", saw=saw, remedy=remedy)


def _status(body: Any) -> tuple[str, str]:
    """`reason` and `message` of a `Status` object; any other text is the message."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        found = json.loads(text)
    except ValueError:
        return "", " ".join(text.split())[:300]
    if not isinstance(found, dict):
        return "", text[:300]
    return str(found.get("reason") or ""), str(found.get("message") or "")
