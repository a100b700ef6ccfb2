"""The checks behind `mizzen doctor --on kubernetes`; each looks at one thing and returns what it found.

They change nothing but one short-lived pod, which looks at the store from inside and is deleted again.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

from mizzen.cluster import pod_troubles, pods, streams
from mizzen.cluster.config import INSTANCE_LABEL, ClusterConfig, Resources, load
from mizzen.cluster.findings import Finding
from mizzen.cluster.kube import (
    ACCESS_REVIEWS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    NODES,
    PODS,
    RAY_CLUSTERS,
    RAY_JOBS,
    RAY_SERVICES,
    Kind,
    Kube,
)
from mizzen.cluster.refusals import KUBERAY_INSTALL
from mizzen.errors import ClusterError, MizzenError

OLDEST_OPERATOR = (1, 7)
GPU = "nvidia.com/gpu"
DOCUMENT = re.compile(r"^[\[{]", re.MULTILINE)
PROBE_S = 300.0
POLL_S = 1.0
ROLE = (
    "Have a RoleBinding made for you to the chart's Role for jobs (`rbac.subjects` in the values, or `kubectl"
    " get role -l app.kubernetes.io/name=mizzen`)."
)
NEEDED: tuple[tuple[str, tuple[str, ...], Kind], ...] = (
    ("mizzen train", ("create", "delete"), RAY_JOBS),
    ("mizzen train", ("create",), CONFIG_MAPS),
    ("mizzen train", ("list",), CONFIG_MAPS),
    ("mizzen jobs", ("get", "list", "patch", "delete"), RAY_JOBS),
    ("mizzen jobs show", ("get",), RAY_CLUSTERS),
    ("mizzen jobs show", ("list",), EVENTS),
    ("mizzen jobs logs", ("get", "list", "watch"), PODS),
    ("mizzen jobs logs", ("get",), streams.LOGS),
    ("mizzen status", ("list",), RAY_SERVICES),
    ("mizzen status", ("list",), RAY_CLUSTERS),
)
"""Which verb needs what."""
PROBE_VERBS: tuple[tuple[str, tuple[str, ...], Kind], ...] = (("mizzen doctor", ("create", "delete"), PODS),)


def run_all(
    kube: Kube,
    release: str | None = None,
    image: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Finding]:
    """All findings, as they come: the API, the operator, what one may do, versions, GPUs, the store."""
    try:
        yield api(kube)
    except MizzenError as cause:
        yield Finding("Kubernetes API", "missing", cause.saw or cause.what, cause.remedy or "")
        return  # nothing else could be asked
    yield _guarded("KubeRay CRDs", lambda: custom_resources(kube))
    yield _guarded("KubeRay operator", lambda: operator(kube))
    yield _guarded("permissions", lambda: permissions(kube))
    config: ClusterConfig | None = None
    try:
        config = load(kube, release)
        yield Finding("release", "ok", f"{config.release}, store {config.store.url}")
    except MizzenError as cause:
        yield Finding("release", "warning" if image else "missing", str(cause), cause.remedy or "")
    yield _guarded("Ray versions", lambda: ray_versions(kube, config))
    yield _guarded("GPUs", lambda: gpus(kube))
    yield _guarded("Prometheus operator", lambda: prometheus(kube))
    used = config or (ClusterConfig() if image else None)
    if used is not None and (image or used.image):
        yield from from_inside(kube, used, image or used.image or "", sleep)


def api(kube: Kube) -> Finding:
    """The API server."""
    found = kube.discover("/version") or {}
    saw = f"{found.get('gitVersion', 'unknown version')} at {kube.host}, namespace {kube.namespace}"
    return Finding("Kubernetes API", "ok", saw)


def custom_resources(kube: Kube) -> Finding:
    """KubeRay's kinds of objects, and which versions of them are served."""
    group = kube.discover("/apis/ray.io")
    if group is None:
        return Finding("KubeRay CRDs", "missing", "no API group ray.io", KUBERAY_INSTALL)
    versions = [v["version"] for v in group.get("versions", [])]
    served = kube.discover("/apis/ray.io/v1") or {}
    kinds = {r["name"] for r in served.get("resources", []) if "/" not in r["name"]}
    lacking = sorted({"rayjobs", "rayservices", "rayclusters"} - kinds)
    if lacking:
        saw = f"versions {', '.join(versions)}; not in v1: {', '.join(lacking)}"
        return Finding("KubeRay CRDs", "missing", saw, KUBERAY_INSTALL)
    return Finding("KubeRay CRDs", "ok", f"{', '.join(sorted(kinds))} ({', '.join(versions)})")


def operator(kube: Kube) -> Finding:
    """The operator that acts on them; it may run in any namespace."""
    try:
        found = kube.find(DEPLOYMENTS, "app.kubernetes.io/name=kuberay-operator", namespace="*")
    except ClusterError:
        return Finding(
            "KubeRay operator",
            "warning",
            "you may not list deployments in all namespaces, so its version is unknown",
            "Ask whoever runs the cluster; a job that stays without any status has no operator.",
        )
    if not found:
        return Finding(
            "KubeRay operator",
            "warning",
            "no deployment with the label of its chart",
            f"It may have been installed otherwise, or run outside the cluster. If not: {KUBERAY_INSTALL}",
        )
    deployment = found[0]
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    ready = (deployment.get("status") or {}).get("readyReplicas") or 0
    saw = f"{image} in {deployment['metadata']['namespace']}, {ready} ready"
    if not ready:
        return Finding(
            "KubeRay operator", "missing", saw, "See `kubectl describe` of its deployment and pods."
        )
    tag = re.search(r":v?(\d+)\.(\d+)", image)
    old = tag is not None and (int(tag[1]), int(tag[2])) < OLDEST_OPERATOR
    return Finding("KubeRay operator", "warning" if old else "ok", saw, "Upgrade it to 1.7 or newer.")


def permissions(kube: Kube) -> Finding:
    """What the user may do, verb by verb."""
    lacking: dict[str, list[str]] = {}
    for what, verbs, kind in NEEDED:
        for verb in verbs:
            if not allowed(kube, verb, kind):
                name = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
                lacking.setdefault(what, []).append(f"{verb} {name}")
    if not lacking:
        return Finding("permissions", "ok", f"all that training, jobs and status need in {kube.namespace}")
    saw = "; ".join(f"`{what}` lacks {', '.join(sorted(set(some)))}" for what, some in lacking.items())
    return Finding("permissions", "missing", saw, ROLE)


def allowed(kube: Kube, verb: str, kind: Kind) -> bool:
    """Whether the user may do that in the namespace (SelfSubjectAccessReview)."""
    plural, _, subresource = kind.plural.partition("/")
    attributes = {
        "namespace": kube.namespace if kind.namespaced else "",
        "verb": verb,
        "group": kind.group,
        "resource": plural,
        **({"subresource": subresource} if subresource else {}),
    }
    review = kube.create(
        ACCESS_REVIEWS,
        {
            "apiVersion": ACCESS_REVIEWS.api_version,
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        },
    )
    return bool((review.get("status") or {}).get("allowed"))


def ray_versions(kube: Kube, config: ClusterConfig | None) -> Finding:
    """Ray here, in the release, and in the clusters that run: all must be the same."""
    found = {"here": version("ray")}
    if config is not None:
        found["the release"] = config.ray_version
    for cluster in kube.find(RAY_CLUSTERS):
        found[f"cluster {cluster['metadata']['name']}"] = str(cluster["spec"].get("rayVersion") or "unknown")
    return _same_ray("Ray versions", found)


def _same_ray(what: str, found: dict[str, str]) -> Finding:
    saw = ", ".join(f"{where}: {number}" for where, number in found.items())
    if len(set(found.values())) == 1:
        return Finding(what, "ok", saw)
    return Finding(
        what,
        "warning",
        saw,
        f"Install ray=={found.get('the release') or found.get('the image') or found['here']} here, or upgrade"
        " the release to an image with yours.",
    )


def gpus(kube: Kube) -> Finding:
    """GPUs that the nodes offer; none is fine."""
    try:
        nodes = kube.find(NODES)
    except ClusterError:
        return Finding(
            "GPUs",
            "warning",
            "you may not list nodes, so they cannot be counted",
            "Ask whoever runs the cluster; jobs without GPUs need none.",
        )
    offers = {
        node["metadata"]["name"]: int((node.get("status", {}).get("allocatable") or {}).get(GPU, 0))
        for node in nodes
    }
    with_gpus = {name: number for name, number in offers.items() if number}
    if not with_gpus:
        return Finding("GPUs", "ok", f"none on {len(nodes)} node(s); training and serving use the CPU")
    return Finding("GPUs", "ok", f"{sum(with_gpus.values())} on {len(with_gpus)} of {len(nodes)} node(s)")


def prometheus(kube: Kube) -> Finding:
    """The Prometheus operator; without it the chart's monitors must stay off."""
    if kube.discover("/apis/monitoring.coreos.com/v1") is None:
        return Finding(
            "Prometheus operator",
            "ok",
            "not there; leave monitoring.podMonitor, serviceMonitor and prometheusRule off",
        )
    return Finding("Prometheus operator", "ok", "there; the chart's monitors and rules can be switched on")


# --- from inside ----------------------------------------------------------------------------------


def from_inside(
    kube: Kube, config: ClusterConfig, image: str, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Finding]:
    """Runs `mizzen doctor` in a pod like those of a job: the store, and what is in the image."""
    lacking = [verb for _, verbs, kind in PROBE_VERBS for verb in verbs if not allowed(kube, verb, kind)]
    if lacking:
        yield Finding(
            "store, from inside",
            "warning",
            f"not looked at: you may not {' and '.join(lacking)} pods",
            "Ask somebody who may; training fails at once, with the reason, if the store does not work.",
        )
        return
    name = f"mizzen-doctor-{secrets.token_hex(3)}"
    try:
        text = _output(kube, probe_pod(config, image, name), sleep)
        told, checks = _parsed(text)
    except MizzenError as cause:
        yield Finding("store, from inside", "missing", cause.saw or cause.what, cause.remedy or "")
        return
    yield _same_ray("Ray in the image", {"here": version("ray"), "the image": told.get("ray", "none")})
    for check in checks:
        if check["what"] == "store":
            yield Finding("store, from inside", check["state"], check["saw"], check["remedy"])
        elif check["what"] in ("workloads", "ONNX Runtime", "ingress") and check["state"] != "ok":
            yield Finding(f"{check['what']}, in the image", check["state"], check["saw"], check["remedy"])


def probe_pod(config: ClusterConfig, image: str, name: str) -> dict[str, Any]:
    """The pod that looks around; it ends by itself should nobody delete it."""
    command = ["sh", "-c", "mizzen version --json && mizzen doctor --json"]
    pod = pods.one_off(config, image, name, command)
    pod["metadata"]["labels"] = {
        "app.kubernetes.io/name": "mizzen",
        INSTANCE_LABEL: config.release,
        "app.kubernetes.io/component": "job",
        "app.kubernetes.io/part-of": "mizzen",
        "app.kubernetes.io/managed-by": "mizzen",
    }
    pod["spec"]["activeDeadlineSeconds"] = int(PROBE_S)
    container = pod["spec"]["containers"][0]
    container["resources"] = Resources(
        requests={"cpu": "100m", "memory": "512Mi"}, limits={"cpu": "2", "memory": "2Gi"}
    ).model_dump()
    return pod


def _output(kube: Kube, pod: dict[str, Any], sleep: Callable[[float], None]) -> str:
    """What the pod prints; it is deleted whatever happens."""
    name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
    kube.create(PODS, pod)
    try:
        trouble = ""
        for _ in range(int(PROBE_S / POLL_S)):
            found = kube.get(PODS, name)
            if found.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                return "\n".join(streams.tail(kube, name, container, 1000))
            events = kube.find(EVENTS, fields=f"involvedObject.name={name}")
            trouble = pod_troubles.trouble(found, events)
            if "cannot" in trouble:  # no image, no configuration: waiting longer does not help
                break
            sleep(POLL_S)
        raise ClusterError(
            "the pod that looks from inside did not run", saw=trouble or "it did not end in time"
        )
    finally:
        kube.delete(PODS, name)


def _parsed(text: str) -> tuple[dict[str, str], Sequence[dict[str, Any]]]:
    """The two JSON documents that the pod prints, whatever libraries print in between."""
    decoder, at = json.JSONDecoder(), 0
    found: list[Any] = []
    while len(found) < 2 and (start := DOCUMENT.search(text, at)):
        try:
            value, at = decoder.raw_decode(text, start.start())
            found.append(value)
        except ValueError:
            at = start.end()
    if len(found) != 2 or not isinstance(found[0], dict) or not isinstance(found[1], list):
        raise ClusterError(
            "`mizzen doctor` in the image did not answer",
            saw=pod_troubles.brief(text[-500:]) or "nothing",
            remedy="Check that the image has Mizzen in it, as deploy/docker makes it.",
        )
    return found[0], found[1]


def _guarded(what: str, check: Callable[[], Finding]) -> Finding:
    """A check that cannot be made is a finding too."""
    try:
        return check()
    except MizzenError as cause:
        return Finding(what, "missing", str(cause), cause.remedy or "")
