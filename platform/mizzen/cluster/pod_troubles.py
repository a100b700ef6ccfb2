"""Why a pod does not run, in one sentence, from the pod's own conditions and its events.

Pure functions over what the API tells; nothing is asked here, and nothing is known of jobs or services.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from mizzen.cluster.quantities import amount

Object = Mapping[str, Any]
PULL_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "RegistryUnavailable",
)
CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
MOUNT_REASONS = ("FailedMount", "FailedAttachVolume")
INSUFFICIENT = re.compile(r"[Ii]nsufficient ([a-z0-9./-]*[a-z0-9])")
TAINT = re.compile(r"untolerated taint\(?s?\)? ?\{([^}:]+)")
CAUSE = re.compile(r"(?:rpc error: code = \w+ desc = )+")


def trouble(pod: Object, events: Iterable[Object]) -> str:
    """One sentence about what keeps `pod` from running, or an empty text."""
    own = of(pod, events)
    return _scheduling(pod, own) or _containers(pod, own) or _volumes(pod, own) or _evicted(pod)


def killed_for_memory(pod: Object) -> str:
    """One sentence if the main container of `pod` was killed because it used more memory than its limit."""
    main = [c["name"] for c in pod.get("spec", {}).get("containers", [])[:1]]
    for status in (s for s in _statuses(pod) if s["name"] in main):
        for state in (status.get("state") or {}, status.get("lastState") or {}):
            ended = state.get("terminated") or {}
            if ended.get("reason") == "OOMKilled":
                limit = _container(pod, status["name"]).get("resources", {}).get("limits", {}).get("memory")
                return (
                    f"{named(pod)} was killed because it used more memory than its limit"
                    f"{f' of {limit}' if limit else ''} (OOMKilled)"
                )
    return ""


def of(involved: Object, events: Iterable[Object]) -> list[Object]:
    """The events about one object, the latest first."""
    about = involved["metadata"]
    own = [
        event
        for event in events
        if (event.get("involvedObject") or {}).get("name") == about["name"]
        and (event.get("involvedObject") or {}).get("uid") in (None, "", about.get("uid"))
    ]
    return sorted(own, key=when, reverse=True)


def when(event: Object) -> str:
    """The time of an event, as text that sorts."""
    series = (event.get("series") or {}).get("lastObservedTime")
    found = event.get("lastTimestamp") or series or event.get("eventTime") or event.get("firstTimestamp")
    return str(found or event["metadata"].get("creationTimestamp") or "")


def named(pod: Object) -> str:
    """The pod for people: what it is for, and its name."""
    labels = pod["metadata"].get("labels") or {}
    role = {"head": "the head", "worker": "a worker"}.get(labels.get("ray.io/node-type", ""))
    if role is None and ("job-name" in labels or "batch.kubernetes.io/job-name" in labels):
        role = "the submitter"
    return f"{role or 'the pod'} ({pod['metadata']['name']})"


def requests(pod: Object) -> dict[str, Decimal]:
    """What the containers of a pod ask for together."""
    total: dict[str, Decimal] = {}
    for container in pod.get("spec", {}).get("containers", []):
        given = container.get("resources") or {}
        wanted = {**(given.get("limits") or {}), **(given.get("requests") or {})}
        for name, quantity in wanted.items():
            total[name] = total.get(name, Decimal(0)) + amount(str(quantity))
    return total


def readable(name: str, quantity: Decimal) -> str:
    """`2.5 cpu`, `8Gi memory`, `1 nvidia.com/gpu`."""
    if name in ("memory", "ephemeral-storage"):
        return f"{float(quantity / 2**30):.4g}Gi {name}"
    return f"{float(quantity):.4g} {name}"


def brief(text: str, limit: int = 300) -> str:
    """`text` on one line, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _scheduling(pod: Object, events: Sequence[Object]) -> str:
    conditions = {c["type"]: c for c in pod.get("status", {}).get("conditions") or []}
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "True" or pod.get("spec", {}).get("nodeName"):
        return ""
    said = next((e.get("message", "") for e in events if e.get("reason") == "FailedScheduling"), "")
    message = scheduled.get("message") or said
    if scheduled.get("reason") == "SchedulingGated":
        return f"{named(pod)} is held back by a scheduling gate: {brief(message)}"
    if not message:
        return ""
    wanted = requests(pod)
    short = list(dict.fromkeys(INSUFFICIENT.findall(message)))
    if short:
        asked = ", ".join(readable(name, wanted[name]) for name in short if name in wanted)
        what = f"no node has enough {' and '.join(short)} left"
        what += f" (it asks for {asked})" if asked else ""
    elif "persistentvolumeclaim" in message.lower():
        what = "its volume claim cannot be used"
    elif TAINT.search(message):
        what = f"no node is left but with a taint that it does not tolerate ({TAINT.findall(message)[0]})"
    elif "affinity/selector" in message:
        what = "no node has the labels that its node selector or affinity asks for"
    else:
        what = "no node fits"
    return f"{named(pod)} waits for a node: {what}; the scheduler says: {brief(message)}"


def _containers(pod: Object, events: Sequence[Object]) -> str:
    for status in _statuses(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in PULL_REASONS:
            return _pull(pod, status, message, events)
        if reason in CONFIG_REASONS:
            return f"{named(pod)} cannot be started: {brief(message or reason)}"
        if reason == "CrashLoopBackOff":
            return _crash(pod, status)
    return killed_for_memory(pod) if pod.get("status", {}).get("phase") != "Succeeded" else ""


def _pull(pod: Object, status: Object, message: str, events: Sequence[Object]) -> str:
    image = _container(pod, status["name"]).get("image", status.get("image", ""))
    told = [e.get("message", "") for e in events if e.get("reason") in ("Failed", "InspectFailed")]
    answer = next((m for m in told if "ailed to pull" in m or "nspect" in m or "not present" in m), message)
    cause = CAUSE.sub("", answer.split(f'"{image}": ', 1)[-1])
    lower = cause.lower()
    if any(word in lower for word in ("unauthorized", "denied", "forbidden", "401", "403", "authentication")):
        advice = "check its name, and the registry's credentials (imagePullSecrets)"
    elif any(word in lower for word in ("not found", "manifest unknown", "not present", "invalid")):
        advice = "check its name and tag"
    else:
        advice = "check that the nodes can reach the registry"
    return f"{named(pod)} cannot pull the image {image}: {brief(cause)}; {advice}"


def _crash(pod: Object, status: Object) -> str:
    memory = killed_for_memory(pod)
    if memory:
        return memory
    ended = (status.get("lastState") or {}).get("terminated") or {}
    return (
        f"{named(pod)} crashes again and again: the container {status['name']} ended with exit code"
        f" {ended.get('exitCode', '?')} ({ended.get('reason', 'unknown')}),"
        f" {status.get('restartCount', 0)} restarts; `kubectl logs {pod['metadata']['name']} -c"
        f" {status['name']} --previous` tells more"
    )


def _volumes(pod: Object, events: Sequence[Object]) -> str:
    if pod.get("status", {}).get("phase") != "Pending":
        return ""
    for event in events:
        if event.get("reason") in MOUNT_REASONS:
            return f"{named(pod)} waits for a volume: {brief(event.get('message', ''))}"
        if event.get("reason") == "FailedCreatePodSandBox":
            return f"{named(pod)} gets no sandbox on its node: {brief(event.get('message', ''))}"
    return ""


def _evicted(pod: Object) -> str:
    status = pod.get("status", {})
    if status.get("phase") == "Failed" and status.get("reason"):
        return (
            f"{named(pod)} was stopped by its node ({status['reason']}): {brief(status.get('message', ''))}"
        )
    return ""


def _statuses(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _container(pod: Object, name: str) -> Object:
    spec = pod.get("spec", {})
    every = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    return next((c for c in every if c.get("name") == name), {})
