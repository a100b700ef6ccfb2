"""How a service stands, from the RayService's status and its pods; also where KubeRay says Ready."""

from __future__ import annotations

from typing import Any

import yaml

from mizzen.cluster.service import ServiceEvidence, ServiceStatus, explain, gather

Object = dict[str, Any]
TRACEBACK = """\
Deploying app 'ratings' failed with exception:
Traceback (most recent call last):
  File "/opt/ray/serve/_private/application_state.py", line 1312, in build_serve_application
    app = call_user_app_builder_with_args_if_necessary(import_attr(import_path), args)
ModuleNotFoundError: No module named 'mizzen.serving.ap'
"""


def application(name: str) -> Object:
    return {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": "mizzen.serving.app:build",
        "args": {
            "app": {"name": name, "model": f"{name}@production"},
            "store_url": "s3://m",
            "watch_every_s": 15,
        },
    }


def rayservice(
    active: Object | None = None, pending: Object | None = None, ready: str = "True", **more: Any
) -> Object:
    status = {
        "conditions": [
            {"type": "Ready", "status": ready, "reason": "NonZeroServeEndpoints", "message": "", **more}
        ],
        "activeServiceStatus": {"rayClusterName": "mizzen-abc", "applicationStatuses": active or {}},
        "numServeEndpoints": 2,
    }
    if pending is not None:
        status["pendingServiceStatus"] = {"rayClusterName": "mizzen-def", "applicationStatuses": pending}
    labels = {"app.kubernetes.io/instance": "blue"}
    return {
        "metadata": {"name": "mizzen", "namespace": "team", "uid": "u-1", "labels": labels},
        "spec": {"serveConfigV2": yaml.safe_dump({"applications": [application("ratings")]})},
        "status": status,
    }


def seen(service: Object, *pods: Object, events: tuple[Object, ...] = ()) -> ServiceStatus:
    return explain(ServiceEvidence(service, pods=pods, events=events))


def state(status: str, message: str = "", **deployments: Object) -> Object:
    return {"ratings": {"status": status, "message": message, "serveDeploymentStatuses": deployments}}


def test_a_service_that_answers_is_healthy() -> None:
    found = seen(rayservice(state("RUNNING", Endpoint={"status": "HEALTHY"})))
    assert found.healthy
    assert (found.release, found.cluster, found.num_endpoints) == ("blue", "mizzen-abc", 2)
    assert found.address == "http://mizzen-serve-svc.team:8000"
    [app] = found.apps
    assert (app.name, app.model, app.route_prefix, app.state) == (
        "ratings",
        "ratings@production",
        "/ratings",
        "running",
    )


def test_canary_and_shadow_are_told_as_the_serve_file_names_them() -> None:
    app = application("ratings")
    beside = {"canary": {"model": "ratings@candidate", "weight": 0.1}, "shadow": {"model": "r@3", "share": 1}}
    app["args"]["app"].update(beside)
    service = rayservice(state("RUNNING"))
    service["spec"]["serveConfigV2"] = yaml.safe_dump({"applications": [app]})
    (told,) = seen(service).apps
    assert told.beside == ("canary ratings@candidate (0.1 of requests)", "shadow r@3 (1 of requests)")


def test_an_app_that_failed_to_deploy_says_why_though_the_service_is_ready() -> None:
    found = seen(rayservice(state("DEPLOY_FAILED", TRACEBACK)))
    assert found.ready
    assert not found.healthy
    [app] = found.apps
    assert app.state == "failed"
    assert app.reason.startswith("ModuleNotFoundError: No module named 'mizzen.serving.ap'")


def test_an_app_without_a_version_yet_says_so_in_our_own_words() -> None:
    message = (
        "The deployment failed to start 3 times in a row. Error:\n"
        'Traceback (most recent call last):\n  File "/opt/mizzen/store/store.py", line 9, in resolve\n'
        "mizzen.errors.NotFoundError: 'ratings' has no alias 'production'. Train it first."
    )
    found = seen(
        rayservice(state("DEPLOYING", Endpoint={"status": "UPDATING", "message": message}), ready="False")
    )
    [app] = found.apps
    assert (app.state, app.reason) == ("starting", "'ratings' has no alias 'production'. Train it first.")


def test_an_unhealthy_deployment_makes_a_running_app_unhealthy() -> None:
    ill = {"status": "UNHEALTHY", "message": "A replica's health check failed."}
    [app] = seen(rayservice(state("RUNNING", Endpoint=ill))).apps
    assert (app.state, app.reason) == ("unhealthy", "A replica's health check failed.")


def test_an_app_that_serve_does_not_know_yet_waits() -> None:
    [app] = seen(rayservice({})).apps
    assert (app.state, app.reason) == ("waiting", "Ray Serve has not taken it up yet")


def test_an_upgrade_whose_pods_are_refused_is_told_while_the_old_cluster_answers() -> None:
    def event(reason: str, second: int, message: str, cluster: str = "mizzen-def") -> Object:
        return {
            "metadata": {"name": f"{cluster}.{second}"},
            "involvedObject": {"kind": "RayCluster", "name": cluster, "uid": f"u-{cluster}"},
            "reason": reason,
            "message": message,
            "lastTimestamp": f"2026-01-02T03:04:{second:02d}Z",
        }

    old = {"metadata": {"name": "mizzen-abc-head"}, "status": {"phase": "Running"}}
    service = rayservice(state("RUNNING"), {})
    refused = event("FailedToCreateHeadPod", 5, 'pods "x" is forbidden: exceeded quota: team')
    earlier = event("FailedToCreateWorkerPod", 1, "timed out", "mizzen-abc")
    made = event("CreatedWorkerPod", 2, "Created worker Pod", "mizzen-abc")
    found = seen(service, old, events=(refused, earlier, made))
    assert found.reason == 'a pod cannot be created: pods "x" is forbidden: exceeded quota: team'
    assert not found.healthy
    assert seen(service, old, events=(earlier, made)).reason == ""


def test_an_upgrade_that_fails_is_told_while_the_old_cluster_answers() -> None:
    found = seen(rayservice(state("RUNNING"), state("DEPLOY_FAILED", TRACEBACK)))
    assert found.next_cluster == "mizzen-def"
    [app] = found.apps
    assert app.state == "failed"
    assert app.reason.startswith("in the cluster that is to take over: ModuleNotFoundError")


def test_an_upgrade_that_goes_well_leaves_the_app_running() -> None:
    [app] = seen(rayservice(state("RUNNING"), state("RUNNING"))).apps
    assert (app.state, app.reason) == ("running", "")


def test_pods_that_wait_are_the_reason() -> None:
    message = "0/1 nodes are available: 1 Insufficient cpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    labels = {"ray.io/cluster": "mizzen-abc", "ray.io/node-type": "worker"}
    containers = [{"name": "ray-worker", "resources": {"requests": {"cpu": "16"}}}]
    pod = {
        "metadata": {"name": "w", "uid": "w", "labels": labels},
        "spec": {"containers": containers},
        "status": {"phase": "Pending", "conditions": [condition]},
    }
    found = seen(rayservice({}, ready="False"), pod)
    assert found.reason.startswith(
        "a worker (w) waits for a node: no node has enough cpu left (it asks for 16 cpu)"
    )


def test_a_service_that_kuberay_refuses_says_why() -> None:
    refused = rayservice(
        {}, ready="False", reason="ValidationFailed", message="rocksdb requires a feature gate"
    )
    assert seen(refused).reason == "KubeRay refuses the RayService: rocksdb requires a feature gate"


def test_a_service_that_nobody_looks_at_has_no_operator() -> None:
    untouched = rayservice()
    del untouched["status"]
    assert "operator has not looked at it" in seen(untouched).reason


def test_pods_that_may_not_be_created_are_told() -> None:
    event = {
        "metadata": {"name": "e"},
        "reason": "FailedToCreateHeadPod",
        "message": 'violates PodSecurity "restricted:latest"',
        "involvedObject": {"name": "mizzen-abc"},
    }
    assert "violates PodSecurity" in seen(rayservice({}, ready="False"), events=(event,)).reason


def test_only_what_belongs_to_a_service_is_gathered() -> None:
    def owned(name: str, uid: str) -> Object:
        return {"metadata": {"name": name, "ownerReferences": [{"uid": uid}]}}

    def member(name: str, cluster: str) -> Object:
        return {"metadata": {"name": name, "labels": {"ray.io/cluster": cluster}}}

    about = [{"metadata": {}, "involvedObject": {"name": name}} for name in ("p1", "p2", "mine", "mizzen")]
    found = gather(
        rayservice(),
        [owned("mine", "u-1"), owned("theirs", "u-2")],
        [member("p1", "mine"), member("p2", "theirs")],
        about,
    )
    assert [c["metadata"]["name"] for c in found.clusters] == ["mine"]
    assert [p["metadata"]["name"] for p in found.pods] == ["p1"]
    assert [e["involvedObject"]["name"] for e in found.events] == ["p1", "mine", "mizzen"]
