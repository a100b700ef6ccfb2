"""`mizzen doctor --on kubernetes` and `mizzen status`, against the server that plays the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from mizzen.cluster import doctor, service
from mizzen.cluster.doctor import Finding
from mizzen.cluster.kube import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    NODES,
    PODS,
    RAY_CLUSTERS,
    RAY_SERVICES,
    Kube,
    connect,
)

Pause = Callable[[float], None]
STORE = {
    "what": "store",
    "state": "ok",
    "saw": "s3://models, 3 model(s), conditional creates work",
    "remedy": "",
}
RAY = version("ray")


@pytest.fixture
def cluster(api: Any) -> Any:
    """A cluster on which all is well."""
    resources = [{"name": n} for n in ("rayjobs", "rayjobs/status", "rayservices", "rayclusters")]
    api.documents = {
        "/version": {"gitVersion": "v1.36.2"},
        "/apis/ray.io": {"versions": [{"version": "v1"}, {"version": "v1alpha1"}]},
        "/apis/ray.io/v1": {"resources": resources},
        "/apis/monitoring.coreos.com/v1": {"resources": []},
    }
    operator = {"containers": [{"image": "quay.io/kuberay/operator:v1.7.0"}]}
    labels = {"app.kubernetes.io/name": "kuberay-operator"}
    api.put(
        DEPLOYMENTS,
        {
            "metadata": {"name": "kuberay-operator", "namespace": "ray-system", "labels": labels},
            "spec": {"template": {"spec": operator}},
            "status": {"readyReplicas": 1},
        },
    )
    config = {"image": "example/mizzen:1", "ray_version": RAY, "store": {"url": "s3://models"}}
    labels = {"mizzen.dev/config": "jobs", "app.kubernetes.io/instance": "mizzen"}
    api.put(
        CONFIG_MAPS,
        {
            "metadata": {"name": "mizzen-jobs", "labels": labels},
            "data": {"config.yaml": yaml.safe_dump(config)},
        },
    )
    for name, allocatable in (("cpu-1", {"cpu": "4"}), ("gpu-1", {"cpu": "8", "nvidia.com/gpu": "4"})):
        api.put(NODES, {"metadata": {"name": name}, "status": {"allocatable": allocatable}})
    return api


def diagnose(kube: Kube, api: Any, no_pause: Pause, told: str | None = None) -> dict[str, Finding]:
    """All findings by name; the pod that looks from inside prints `told`."""
    text = (
        told
        if told is not None
        else f"{json.dumps({'ray': RAY}, indent=2)}\nwarning: hm\n{json.dumps([STORE])}"
    )

    def pause(seconds: float) -> None:
        for path, pod in api.objects.items():
            if "/pods/mizzen-doctor-" in path:
                pod["status"] = {"phase": "Succeeded"}
                api.logs[pod["metadata"]["name"]] = [
                    f"2026-11-22T08:00:00Z {line}" for line in text.splitlines()
                ]

    return {finding.what: finding for finding in doctor.run_all(kube, sleep=pause)}


def test_where_all_is_well_each_line_says_what_it_saw(cluster: Any, kube: Kube, no_pause: Pause) -> None:
    found = diagnose(kube, cluster, no_pause)
    assert {f.what: f.state for f in found.values() if f.state != "ok"} == {}
    assert found["Kubernetes API"].saw.startswith("v1.36.2 at http://127.0.0.1")
    assert found["KubeRay operator"].saw == "quay.io/kuberay/operator:v1.7.0 in ray-system, 1 ready"
    assert found["GPUs"].saw == "4 on 1 of 2 node(s)"
    assert found["store, from inside"].saw == STORE["saw"]
    assert found["Ray in the image"].saw == f"here: {RAY}, the image: {RAY}"
    assert found["release"].saw == "mizzen, store s3://models"


def test_the_pod_that_looks_from_inside_is_deleted_whatever_happens(
    cluster: Any, kube: Kube, no_pause: Pause
) -> None:
    found = diagnose(kube, cluster, no_pause, told="Traceback: no such command")
    assert found["store, from inside"].state == "missing"
    assert "no such command" in found["store, from inside"].saw
    assert cluster.asked("POST", "/pods")
    assert not [path for path in cluster.objects if "/pods/" in path]


def test_a_pod_that_cannot_start_is_not_waited_for(cluster: Any, kube: Kube) -> None:
    def pause(seconds: float) -> None:
        for path, pod in cluster.objects.items():
            if "/pods/mizzen-doctor-" in path:
                waiting = {"reason": "ErrImagePull", "message": "not found"}
                pod["status"] = {
                    "phase": "Pending",
                    "containerStatuses": [{"name": "mizzen", "state": {"waiting": waiting}}],
                }

    found = {f.what: f for f in doctor.run_all(kube, sleep=pause)}
    assert "cannot pull the image example/mizzen:1" in found["store, from inside"].saw
    assert len(cluster.asked("GET", "/events")) <= 3


def test_what_one_may_not_do_is_listed_with_the_role_that_allows_it(
    cluster: Any, kube: Kube, no_pause: Pause
) -> None:
    def allowed(attributes: dict[str, Any]) -> bool:
        assert attributes["namespace"] in ("team", "")
        denied = attributes["resource"] == "rayjobs" and attributes["verb"] == "create"
        return not denied and attributes.get("subresource") != "log" and attributes["verb"] != "delete"

    cluster.allowed = allowed
    found = diagnose(kube, cluster, no_pause)
    permissions = found["permissions"]
    assert permissions.state == "missing"
    assert "`mizzen train` lacks create rayjobs.ray.io, delete rayjobs.ray.io" in permissions.saw
    assert "get pods/log" in permissions.saw
    assert "rbac.subjects" in permissions.remedy
    assert found["store, from inside"].saw == "not looked at: you may not delete pods"
    assert not cluster.asked("POST", "/pods")


def test_an_empty_cluster_says_what_to_install(api: Any, kube: Kube, no_pause: Pause) -> None:
    api.documents = {"/version": {"gitVersion": "v1.36.2"}}
    api.refusals["GET", "rayclusters"] = (404, b"404 page not found\n")
    found = diagnose(kube, api, no_pause)
    assert found["KubeRay CRDs"].state == "missing"
    assert "helm install kuberay-operator" in found["KubeRay CRDs"].remedy
    assert found["release"].state == "missing"
    assert "helm install mizzen" in found["release"].remedy
    assert "leave monitoring.podMonitor" in found["Prometheus operator"].saw
    assert "store, from inside" not in found


def test_what_one_may_not_see_is_said_to_be_unknown(cluster: Any, kube: Kube, no_pause: Pause) -> None:
    for plural in ("nodes", "deployments"):
        cluster.refusals["GET", plural] = (403, {"reason": "Forbidden", "message": f"{plural} is forbidden"})
    found = diagnose(kube, cluster, no_pause)
    assert found["GPUs"].state == "warning"
    assert "may not list nodes" in found["GPUs"].saw
    assert "its version is unknown" in found["KubeRay operator"].saw


def test_an_operator_that_is_not_seen_need_not_be_missing(cluster: Any, kube: Kube, no_pause: Pause) -> None:
    del cluster.objects[DEPLOYMENTS.path("ray-system", "kuberay-operator")]
    operator = diagnose(kube, cluster, no_pause)["KubeRay operator"]
    assert operator.state == "warning"
    assert "outside the cluster" in operator.remedy
    assert "helm install kuberay-operator" in operator.remedy


def test_an_old_operator_and_another_ray_are_warned_of(cluster: Any, kube: Kube, no_pause: Pause) -> None:
    path = DEPLOYMENTS.path("ray-system", "kuberay-operator")
    [container] = cluster.objects[path]["spec"]["template"]["spec"]["containers"]
    container["image"] = "quay.io/kuberay/operator:v1.6.1"
    cluster.put(RAY_CLUSTERS, {"metadata": {"name": "old"}, "spec": {"rayVersion": "2.9.0"}})
    found = diagnose(kube, cluster, no_pause)
    assert (found["KubeRay operator"].state, found["Ray versions"].state) == ("warning", "warning")
    assert "cluster old: 2.9.0" in found["Ray versions"].saw


def test_without_valid_credentials_nothing_else_is_asked(kubeconfig: Path, no_pause: Pause) -> None:
    found = list(doctor.run_all(connect(kubeconfig=kubeconfig, context="other"), sleep=no_pause))
    assert [(f.what, f.state) for f in found] == [("Kubernetes API", "missing")]
    assert "Log in again" in found[0].remedy


# --- status -----------------------------------------------------------------------------------------


def test_the_status_of_every_release_is_told(api: Any, kube: Kube) -> None:
    for name in ("blue", "green"):
        labels = {"app.kubernetes.io/part-of": "mizzen", "app.kubernetes.io/instance": name}
        api.put(RAY_SERVICES, {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": {}})
    api.put(RAY_SERVICES, {"metadata": {"name": "somebody-elses"}})
    assert [s.release for s in service.status(kube)] == ["blue", "green"]
    assert [s.release for s in service.status(kube, "green")] == ["green"]


def test_a_service_is_explained_by_its_own_pods_and_events(api: Any, kube: Kube) -> None:
    labels = {"app.kubernetes.io/part-of": "mizzen", "app.kubernetes.io/instance": "blue"}
    made = api.put(
        RAY_SERVICES, {"metadata": {"name": "blue", "labels": labels}, "spec": {}, "status": {"x": 1}}
    )
    owner = [{"uid": made["metadata"]["uid"]}]
    api.put(RAY_CLUSTERS, {"metadata": {"name": "blue-1", "ownerReferences": owner}, "spec": {}})
    pod = api.put(
        PODS,
        {
            "metadata": {"name": "w", "labels": {"ray.io/cluster": "blue-1", "ray.io/node-type": "worker"}},
            "spec": {"containers": [{"name": "ray-worker", "image": "x:1"}], "nodeName": "n"},
            "status": {
                "phase": "Pending",
                "containerStatuses": [
                    {"name": "ray-worker", "state": {"waiting": {"reason": "ErrImagePull"}}}
                ],
            },
        },
    )
    about = {"name": "w", "uid": pod["metadata"]["uid"]}
    message = 'Failed to pull image "x:1": not found'
    api.put(
        EVENTS, {"metadata": {"name": "e"}, "reason": "Failed", "message": message, "involvedObject": about}
    )
    [found] = service.status(kube)
    assert found.reason == "a worker (w) cannot pull the image x:1: not found; check its name and tag"
    api.refusals["GET", "pods"] = (403, {"reason": "Forbidden", "message": "no"})
    [found] = service.status(kube)
    assert found.reason == "it is not ready: its cluster is starting"
