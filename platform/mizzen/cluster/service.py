"""What the Mizzen releases in a namespace serve, and why something does not answer.

The RayService alone says too little: it stays Ready on its old replicas while a new configuration fails, and
names no reason while its pods wait. It changes nothing; the chart makes RayServices, not this client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from mizzen.cluster import pod_troubles, tracebacks
from mizzen.cluster.config import INSTANCE_LABEL
from mizzen.cluster.explain import last_refusal
from mizzen.cluster.kube import EVENTS, PODS, RAY_CLUSTERS, RAY_SERVICES, Kube
from mizzen.cluster.pod_troubles import brief

SELECTOR = "app.kubernetes.io/part-of=mizzen"
AppState = Literal["running", "starting", "failed", "unhealthy", "waiting", "stopping"]
STATES: dict[str, AppState] = {
    "RUNNING": "running",
    "DEPLOYING": "starting",
    "NOT_STARTED": "starting",
    "DEPLOY_FAILED": "failed",
    "UNHEALTHY": "unhealthy",
    "DELETING": "stopping",
}
"""Ray Serve's words for an application, and ours."""

Object = Mapping[str, Any]


@dataclass(frozen=True)
class AppStatus:
    """One served application."""

    name: str
    model: str
    """As the serve file names it: `NAME@ALIAS`."""
    route_prefix: str
    state: AppState
    reason: str = ""
    """One sentence if it is not simply running."""
    beside: tuple[str, ...] = ()
    """Its canary and its shadow, if it has them, as the serve file names them."""


@dataclass(frozen=True)
class ServiceStatus:
    """One RayService."""

    name: str
    release: str
    ready: bool
    """Whether KubeRay says so: some replicas answer; not that what was asked for last is there."""
    reason: str
    """One sentence if something is wrong with it as a whole."""
    apps: tuple[AppStatus, ...]
    cluster: str
    """The RayCluster that answers now."""
    next_cluster: str
    """The one that is being made ready, during an upgrade."""
    num_endpoints: int
    """Pods that requests are sent to."""
    address: str
    """Inside the cluster."""

    @property
    def healthy(self) -> bool:
        """Whether all that was asked for is there."""
        return self.ready and not self.reason and all(app.state == "running" for app in self.apps)


@dataclass(frozen=True)
class ServiceEvidence:
    """What the API tells about one RayService; parts that may not be read are empty."""

    rayservice: Object
    clusters: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    events: Sequence[Object] = ()


def status(kube: Kube, release: str | None = None) -> list[ServiceStatus]:
    """All services of the Mizzen releases in the namespace. Raises `ClusterError`."""
    labels = SELECTOR + (f",{INSTANCE_LABEL}={release}" if release else "")
    services = kube.find(RAY_SERVICES, labels)
    if not services:
        return []
    clusters = kube.may_find(RAY_CLUSTERS)
    pods, events = kube.may_find(PODS, "ray.io/cluster"), kube.may_find(EVENTS)
    return [explain(gather(service, clusters, pods, events)) for service in services]


def gather(
    service: Object, clusters: Sequence[Object], pods: Sequence[Object], events: Sequence[Object]
) -> ServiceEvidence:
    """What of a namespace's objects belongs to one RayService."""
    uid = service["metadata"].get("uid")
    own = [c for c in clusters if _owner(c) == uid]
    names = {c["metadata"]["name"] for c in own}
    own_pods = [p for p in pods if (p["metadata"].get("labels") or {}).get("ray.io/cluster") in names]
    about = {service["metadata"]["name"], *names, *(p["metadata"]["name"] for p in own_pods)}
    told = [e for e in events if (e.get("involvedObject") or {}).get("name") in about]
    return ServiceEvidence(service, own, own_pods, told)


def explain(evidence: ServiceEvidence) -> ServiceStatus:
    """How a service stands."""
    service = evidence.rayservice
    about, found = service["metadata"], service.get("status") or {}
    active, pending = found.get("activeServiceStatus") or {}, found.get("pendingServiceStatus") or {}
    conditions = {c["type"]: c for c in found.get("conditions") or []}
    next_cluster = pending.get("rayClusterName") or ""
    return ServiceStatus(
        name=about["name"],
        release=(about.get("labels") or {}).get(INSTANCE_LABEL, about["name"]),
        ready=conditions.get("Ready", {}).get("status") == "True",
        reason=_trouble(evidence, conditions, active, next_cluster),
        apps=tuple(_app(app, active, pending) for app in applications(service)),
        cluster=active.get("rayClusterName") or "",
        next_cluster=next_cluster,
        num_endpoints=found.get("numServeEndpoints") or 0,
        address=f"http://{about['name']}-serve-svc.{about['namespace']}:8000",
    )


def applications(service: Object) -> list[dict[str, Any]]:
    """The applications that the RayService asks for."""
    config = yaml.safe_load((service.get("spec") or {}).get("serveConfigV2") or "") or {}
    return list(config.get("applications") or [])


def _app(app: Mapping[str, Any], active: Object, pending: Object) -> AppStatus:
    name = app.get("name", "default")
    asked = (app.get("args") or {}).get("app") or {}
    now = (active.get("applicationStatuses") or {}).get(name)
    then = (pending.get("applicationStatuses") or {}).get(name)
    state, reason = _judged(now)
    if then is not None:  # the next cluster shows what was asked for last
        next_state, next_reason = _judged(then)
        if next_state != "running" and next_reason:
            reason = f"in the cluster that is to take over: {next_reason}"
            state = next_state if now is None or next_state == "failed" else state
        elif now is None:
            state, reason = next_state, next_reason
    return AppStatus(
        name=name,
        model=str(asked.get("model", "")),
        route_prefix=str(app.get("route_prefix", "")),
        state=state,
        reason=reason,
        beside=tuple(
            f"{role} {other.get('model', '')} ({other.get(share, '')} of requests)"
            for role, share in (("canary", "weight"), ("shadow", "share"))
            if (other := asked.get(role))
        ),
    )


def _judged(found: Object | None) -> tuple[AppState, str]:
    """The state of an application as Ray Serve tells it, with the reason if it is not running."""
    if found is None:
        return "waiting", "Ray Serve has not taken it up yet"
    state = STATES.get(found.get("status") or "", "waiting")
    deployments = found.get("serveDeploymentStatuses") or {}
    ill = {name: d for name, d in deployments.items() if d.get("status") == "UNHEALTHY"}
    if state == "running" and not ill:
        return state, ""
    messages = [found.get("message") or "", *((d.get("message") or "") for d in deployments.values())]
    line = next((line for text in messages if (line := tracebacks.relevant(text))), "")
    said = line or next((text for text in messages if text), "")
    if ill and state == "running":
        state = "unhealthy"
    return state, brief(said, 500)


def _trouble(
    evidence: ServiceEvidence, conditions: Mapping[str, Object], active: Object, next_cluster: str
) -> str:
    ready = conditions.get("Ready", {})
    if ready.get("reason") == "ValidationFailed":
        return f"KubeRay refuses the RayService: {brief(ready.get('message', ''))}"
    troubles = [text for pod in evidence.pods if (text := pod_troubles.trouble(pod, evidence.events))]
    if troubles:
        others = len(troubles) - 1
        return troubles[0] + (f" (and {others} more pod{'s' if others > 1 else ''})" if others else "")
    refusal = last_refusal(evidence.events)
    if refusal:  # during an upgrade, too: then the pods of the old cluster go on
        return f"a pod cannot be created: {brief(refusal)}"
    if not evidence.rayservice.get("status"):
        return "the KubeRay operator has not looked at it: is it installed, running, and watching here?"
    if ready.get("status") != "True":
        starting = next_cluster or active.get("rayClusterName") or ""
        told = brief(ready.get("message", ""))
        return f"it is not ready: {told or 'its cluster is starting'}" + (
            f" ({starting})" if starting else ""
        )
    return ""


def _owner(thing: Object) -> str | None:
    owners = thing["metadata"].get("ownerReferences") or []
    return str(owners[0].get("uid")) if owners else None
