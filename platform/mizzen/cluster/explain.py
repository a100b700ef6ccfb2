"""Why a job on Kubernetes waits or failed: one sentence from what the API tells about it.

Pure functions; `kube_jobs` collects the evidence. A RayJob's phase alone tells little: a refused submitter or
a full cluster leave it at `Running` or `Initializing` without a word (see the pods and the events), and a
deadline that passes leaves its job status at RUNNING.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mizzen.cluster import pod_troubles, tracebacks
from mizzen.cluster.pod_troubles import brief
from mizzen.cluster.train_job import CANCELLED_NOTE, QUEUE_LABEL
from mizzen.store.runs import State

Object = Mapping[str, Any]
SILENCE_S = 30.0
"""A RayJob without any status after that has no operator."""
REFUSALS = ("FailedCreate", "FailedToCreateHeadPod", "FailedToCreateWorkerPod", "FailedToCreateRayCluster")
SUCCESSES = ("SuccessfulCreate", "CreatedHeadPod", "CreatedWorkerPod", "CreatedRayCluster")
BAD_SPECS = (
    "InvalidRayJobSpec",
    "InvalidRayJobMetadata",
    "InvalidRayClusterSpec",
    "InvalidRayClusterMetadata",
)


@dataclass(frozen=True)
class Evidence:
    """What the API tells about one job; parts that may not be read are empty."""

    rayjob: Object
    cluster: Object | None = None
    pods: Sequence[Object] = ()
    """Head, workers, submitter."""
    events: Sequence[Object] = ()
    workload: Object | None = None
    """Kueue's."""
    log: str = ""
    """The end of the run's log, for a failed job."""
    now: datetime | None = None


def state(rayjob: Object) -> State:
    """Where a job stands."""
    status = rayjob.get("status") or {}
    deployment, job = status.get("jobDeploymentStatus") or "", status.get("jobStatus") or ""
    if job == "SUCCEEDED":
        return "succeeded"
    if _note(rayjob, CANCELLED_NOTE) or job == "STOPPED":
        return "cancelled"
    if deployment in ("Failed", "ValidationFailed", "Complete"):
        return "failed"
    if deployment == "Running" and job in ("RUNNING", "FAILED"):
        return "running"
    return "waiting"


def reason(evidence: Evidence) -> str:
    """One sentence about what a job waits for, why it failed or was cancelled; empty if all is well."""
    where = state(evidence.rayjob)
    if where == "failed":
        return _failed(evidence)
    if where == "waiting":
        return _waiting(evidence)
    if where == "cancelled":
        at = _note(evidence.rayjob, CANCELLED_NOTE)
        return f"cancelled at {at}" if at else "stopped"
    return _pods(evidence) if where == "running" else ""


def at_a_glance(rayjob: Object) -> str:
    """What the RayJob alone says about a job that failed or was cancelled; nothing is asked for it."""
    return reason(Evidence(rayjob)) if state(rayjob) in ("failed", "cancelled") else ""


# --- failed ---------------------------------------------------------------------------------------


def _failed(evidence: Evidence) -> str:
    status, spec = evidence.rayjob.get("status") or {}, evidence.rayjob.get("spec") or {}
    why, message = status.get("reason") or "", status.get("message") or ""
    tries = _tries(status, spec)
    if status.get("jobDeploymentStatus") == "ValidationFailed" or why == "ValidationFailed":
        return f"KubeRay refuses the RayJob: {brief(message)}"
    if why in ("DeadlineExceeded", "PreRunningDeadlineExceeded"):
        return _deadline(evidence, spec)
    memory = next(filter(None, map(pod_troubles.killed_for_memory, evidence.pods)), "")
    if memory:
        advice = "raise cluster.worker_memory or lower training.micro_batch_size"
        if "the head" in memory:
            advice = "raise cluster.head_memory"
        return f"{memory}; {advice}{tries}"
    if why == "SubmissionFailed":
        trouble = _refused(evidence) or _pods(evidence) or tracebacks.relevant(evidence.log)
        return f"the job could not be handed to Ray: {trouble or brief(message)}{tries}"
    line = tracebacks.relevant(message) or tracebacks.relevant(evidence.log)
    if line:
        return f"{brief(line, 500)}{tries}"
    last = next((text for text in reversed(message.splitlines()) if text.strip()), "")
    return f"the run failed{f': {brief(last)}' if last else ''}{tries}; its log tells more"


def _deadline(evidence: Evidence, spec: Object) -> str:
    limit = spec.get("activeDeadlineSeconds")
    sentence = f"stopped at its deadline of {limit} s (cluster.deadline_s)"
    if not ((evidence.rayjob.get("status") or {}).get("jobStatus") or ""):
        why = _refused(evidence) or _pods(evidence)
        return f"{sentence}; it never began{f': {why}' if why else ''}"
    return sentence


def _tries(status: Object, spec: Object) -> str:
    failed, allowed = status.get("failed") or 0, spec.get("backoffLimit") or 0
    return f" (after {failed} tries)" if allowed and failed > 1 else ""


# --- waiting --------------------------------------------------------------------------------------


def _waiting(evidence: Evidence) -> str:
    return (
        _invalid(evidence)
        or _queued(evidence)
        or _ignored(evidence)
        or _refused(evidence)
        or _no_such_cluster(evidence)
        or _pods(evidence)
        or _retrying(evidence)
        or _starting(evidence)
    )


def _invalid(evidence: Evidence) -> str:
    bad = _latest(evidence, BAD_SPECS)
    return f"KubeRay refuses it: {brief(bad)}" if bad else ""


def _queued(evidence: Evidence) -> str:
    spec = evidence.rayjob.get("spec") or {}
    queue = (evidence.rayjob["metadata"].get("labels") or {}).get(QUEUE_LABEL)
    if not spec.get("suspend"):
        return ""
    if not queue:
        return "it is suspended (spec.suspend is true), and no queue of Kueue is named that would start it"
    workload = evidence.workload or {}
    conditions = {c["type"]: c for c in (workload.get("status") or {}).get("conditions") or []}
    for kind in ("Evicted", "QuotaReserved", "Admitted"):
        found = conditions.get(kind, {})
        if found.get("message") and (found.get("status") == "True") == (kind == "Evicted"):
            return f"it waits in Kueue's queue {queue!r}: {brief(found['message'])}"
    told = _latest(evidence, ("Pending", "Inadmissible"))
    ending = brief(told) if told else "Kueue has not looked at it yet; does the LocalQueue exist?"
    return f"it waits in Kueue's queue {queue!r}: {ending}"


def _ignored(evidence: Evidence) -> str:
    status = evidence.rayjob.get("status") or {}
    created = time_of(evidence.rayjob["metadata"].get("creationTimestamp"))
    age_s = ((evidence.now or datetime.now(UTC)) - created).total_seconds() if created else 0.0
    if status.get("jobDeploymentStatus") or age_s < SILENCE_S:
        return ""
    return (
        f"the KubeRay operator has not looked at it for {age_s:.0f} s: is it installed, running, and watching"
        " this namespace?"
    )


def _refused(evidence: Evidence) -> str:
    """Objects that may not be created: Pod Security, quotas, policies. The RayJob itself does not tell."""
    message = last_refusal(evidence.events) or _replica_failure(evidence)
    if not message:
        return ""
    if "violates PodSecurity" in message:
        return f"the namespace's Pod Security level refuses a pod: {brief(message.split('violates ', 1)[1])}"
    if "exceeded quota" in message:
        return f"the namespace's quota is used up: {brief(message.split('exceeded quota: ', 1)[-1])}"
    return f"a pod or cluster cannot be created: {brief(message)}"


def last_refusal(events: Sequence[Object]) -> str:
    """Why something could not be created. It counts until a later attempt of the same maker succeeds."""
    last: dict[str, Object] = {}
    for event in sorted(events, key=pod_troubles.when):
        if event.get("reason") in (*REFUSALS, *SUCCESSES):
            last[(event.get("involvedObject") or {}).get("uid", "")] = event
    refusals = [event for event in last.values() if event.get("reason") in REFUSALS]
    return str(refusals[-1].get("message", "")) if refusals else ""


def _replica_failure(evidence: Evidence) -> str:
    conditions = ((evidence.cluster or {}).get("status") or {}).get("conditions") or []
    failures = [c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True"]
    return str(failures[0].get("message", "")) if failures else ""


def _no_such_cluster(evidence: Evidence) -> str:
    message = _latest(evidence, ("RayClusterNotFound",))
    return f"the cluster that it was sent to is not there: {brief(message)}" if message else ""


def _pods(evidence: Evidence) -> str:
    order = {"head": 0, "worker": 1}
    pods = sorted(evidence.pods, key=lambda pod: order.get(_node_type(pod), 2))
    found = [text for pod in pods if (text := pod_troubles.trouble(pod, evidence.events))]
    if not found:
        return ""
    others = len(found) - 1
    return found[0] + (f" (and {others} more pod{'s' if others > 1 else ''})" if others else "")


def _retrying(evidence: Evidence) -> str:
    status = evidence.rayjob.get("status") or {}
    failed = status.get("failed") or 0
    return f"it is tried again after {failed} failure(s)" if failed else ""


def _starting(evidence: Evidence) -> str:
    if not evidence.cluster and not evidence.pods:
        return "its cluster is being made"
    ready = [pod for pod in evidence.pods if _is_ready(pod)]
    heads = sum(_node_type(pod) == "head" for pod in ready)
    workers = sum(_node_type(pod) == "worker" for pod in ready)
    wanted = ((evidence.cluster or {}).get("status") or {}).get("desiredWorkerReplicas", "?")
    head = "is ready" if heads else "is starting"
    return f"its cluster is starting: the head {head}, {workers} of {wanted} workers are ready"


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _node_type(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get("ray.io/node-type", ""))


# --- small things ---------------------------------------------------------------------------------


def time_of(text: str | None) -> datetime | None:
    """A time of the API."""
    return datetime.fromisoformat(text) if text else None


def _note(thing: Object, name: str) -> str:
    return str((thing["metadata"].get("annotations") or {}).get(name, ""))


def _latest(evidence: Evidence, reasons: Sequence[str]) -> str:
    """The newest event's message with one of `reasons`, about the job and what it made."""
    found = [event for event in evidence.events if event.get("reason") in reasons]
    return str(max(found, key=pod_troubles.when).get("message", "")) if found else ""
