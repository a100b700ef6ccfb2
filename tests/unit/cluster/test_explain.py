"""One sentence for each way in which a job waits or fails, from what the API tells about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mizzen.cluster.explain import Evidence, reason, state

Object = dict[str, Any]
CREATED = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
RUN, CLUSTER = "forecasts-1", "forecasts-1-x7k2p"


def rayjob(deployment: str = "", job: str = "", spec: Object | None = None, **more: Any) -> Object:
    status = {"jobDeploymentStatus": deployment, "jobStatus": job, "rayClusterName": CLUSTER, **more}
    return {
        "metadata": {
            "name": RUN,
            "uid": "u-job",
            "labels": {},
            "annotations": {},
            "creationTimestamp": CREATED.isoformat(),
        },
        "spec": {"activeDeadlineSeconds": 600, "backoffLimit": 0, **(spec or {})},
        "status": status if deployment else {},
    }


def pod(role: str, **status: Any) -> Object:
    """A pod as KubeRay, or a Job, makes it."""
    labels = {"ray.io/cluster": CLUSTER, "ray.io/node-type": role}
    container = {
        "name": f"ray-{role}",
        "image": "registry.example/mizzen:9",
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
    }
    sidecar = {"name": "metrics", "resources": {"requests": {"cpu": "20m", "memory": "160Mi"}}}
    if role == "submitter":
        labels = {"job-name": RUN}
    return {
        "metadata": {"name": f"{CLUSTER}-{role}-ab12c", "uid": f"u-{role}", "labels": labels},
        "spec": {"containers": [container, sidecar]},
        "status": {"phase": "Pending", **status},
    }


def unschedulable(role: str, message: str) -> Object:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(role, conditions=[condition])


def placed(role: str, container: Object, **status: Any) -> Object:
    """A pod on a node, with the state of its first container."""
    made = pod(role, **status)
    made["spec"]["nodeName"] = "node-1"
    made["status"]["containerStatuses"] = [{"name": f"ray-{role}", **container}]
    return made


def event(about: Object | str, why: str, message: str, minute: int = 1) -> Object:
    name, uid = (
        (about, f"u-{about}")
        if isinstance(about, str)
        else (
            about["metadata"]["name"],
            about["metadata"]["uid"],
        )
    )
    return {
        "metadata": {"name": f"{name}.{why}"},
        "reason": why,
        "message": message,
        "involvedObject": {"name": name, "uid": uid},
        "lastTimestamp": f"2026-11-22T08:{minute:02d}:00Z",
    }


def why(job: Object, *pods: Object, events: tuple[Object, ...] = (), **more: Any) -> str:
    return reason(Evidence(rayjob=job, pods=pods, events=events, now=CREATED + timedelta(seconds=10), **more))


# --- states -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deployment", "job", "expected"),
    [
        ("", "", "waiting"),
        ("Initializing", "", "waiting"),
        ("Running", "", "waiting"),
        ("Running", "PENDING", "waiting"),
        ("Running", "RUNNING", "running"),
        ("Running", "SUCCEEDED", "succeeded"),
        ("Running", "FAILED", "running"),
        ("Complete", "SUCCEEDED", "succeeded"),
        ("Complete", "STOPPED", "cancelled"),
        ("Failed", "FAILED", "failed"),
        ("Failed", "RUNNING", "failed"),
        ("ValidationFailed", "", "failed"),
        ("Retrying", "FAILED", "waiting"),
        ("Suspended", "", "waiting"),
    ],
)
def test_kuberays_two_phases_make_one_state(deployment: str, job: str, expected: str) -> None:
    assert state(rayjob(deployment, job)) == expected


def test_a_job_that_was_cancelled_is_not_said_to_have_failed() -> None:
    job = rayjob("Failed", "RUNNING", reason="DeadlineExceeded")
    job["metadata"]["annotations"]["mizzen.dev/cancelled-at"] = "2026-11-22T08:05:00+00:00"
    assert state(job) == "cancelled"
    assert why(job) == "cancelled at 2026-11-22T08:05:00+00:00"


# --- waiting ----------------------------------------------------------------------------------------

CPU = "0/3 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: true}, 2 Insufficient cpu."
GPU = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes are available."
TAINT = "0/2 nodes are available: 2 node(s) had untolerated taint {dedicated: serving}."
LABELS = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
CLAIM = '0/1 nodes are available: persistentvolumeclaim "mizzen-store" not found.'


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            CPU,
            "a worker (forecasts-1-x7k2p-worker-ab12c) waits for a node: no node has enough cpu left (it asks"
            " for 1.02 cpu)",
        ),
        (GPU, "no node has enough nvidia.com/gpu left"),
        (TAINT, "no node is left but with a taint that it does not tolerate (dedicated)"),
        (LABELS, "no node has the labels"),
        (CLAIM, "its volume claim cannot be used"),
    ],
)
def test_a_pod_without_a_node_says_which_resource_is_short(message: str, words: str) -> None:
    told = why(rayjob("Initializing"), unschedulable("worker", message))
    assert words in told
    assert message in told


def test_the_head_comes_first_and_the_others_are_counted() -> None:
    told = why(
        rayjob("Initializing"),
        unschedulable("worker", GPU),
        unschedulable("worker", GPU),
        unschedulable("head", CPU),
    )
    assert told.startswith("the head (")
    assert told.endswith("(and 2 more pods)")


NOT_FOUND = (
    'Failed to pull image "registry.example/mizzen:9": rpc error: code = NotFound desc = failed to pull and'
    " unpack image: registry.example/mizzen:9: not found"
)
DENIED = 'Failed to pull image "registry.example/mizzen:9": failed to authorize: 401 Unauthorized'
AWAY = 'Failed to pull image "registry.example/mizzen:9": dial tcp: lookup registry.example: no such host'


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (NOT_FOUND, ["not found; check its name and tag"]),
        (DENIED, ["401 Unauthorized; check its name, and the registry's credentials"]),
        (AWAY, ["no such host; check that the nodes can reach the registry"]),
    ],
)
def test_an_image_that_cannot_be_pulled_is_named_with_the_registrys_answer(
    answer: str, words: list[str]
) -> None:
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "registry.example/mizzen:9"'}
    stuck = placed("head", {"state": {"waiting": waiting}})
    told = why(rayjob("Initializing"), stuck, events=(event(stuck, "Failed", answer),))
    assert "the head (forecasts-1-x7k2p-head-ab12c) cannot pull the image registry.example/mizzen:9" in told
    for word in words:
        assert word in told


def test_a_secret_that_is_missing_is_named() -> None:
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "store-keys" not found'}
    told = why(rayjob("Initializing"), placed("head", {"state": {"waiting": waiting}}))
    assert told.endswith('cannot be started: secret "store-keys" not found')


def test_a_volume_that_is_not_mounted_is_named() -> None:
    waiting = placed("head", {"state": {"waiting": {"reason": "ContainerCreating"}}})
    message = 'MountVolume.SetUp failed for volume "code" : configmap "forecasts-1-code" not found'
    told = why(rayjob("Initializing"), waiting, events=(event(waiting, "FailedMount", message),))
    assert told.endswith(f"waits for a volume: {message}")


SECURITY = (
    'Error creating: pods "forecasts-1-abc" is forbidden: violates PodSecurity "restricted:latest":'
    " allowPrivilegeEscalation != false"
)
QUOTA = 'pods "x" is forbidden: exceeded quota: small, requested: cpu=1, used: cpu=4, limited: cpu=4'


@pytest.mark.parametrize(
    ("reason_", "message", "words"),
    [
        ("FailedCreate", SECURITY, 'Pod Security level refuses a pod: PodSecurity "restricted:latest"'),
        ("FailedToCreateHeadPod", QUOTA, "quota is used up: small, requested: cpu=1, used: cpu=4"),
        (
            "FailedToCreateRayCluster",
            "admission webhook denied",
            "cannot be created: admission webhook denied",
        ),
    ],
)
def test_a_refused_pod_is_told_though_the_job_is_said_to_run(reason_: str, message: str, words: str) -> None:
    told = why(rayjob("Running"), events=(event(RUN, reason_, message),))
    assert words in told


def test_a_refusal_that_was_overcome_is_not_told() -> None:
    events = (event(RUN, "FailedCreate", SECURITY, 1), event(RUN, "SuccessfulCreate", "Created pod: x", 2))
    assert "Pod Security" not in why(rayjob("Running"), pod("head"), events=events)


def test_a_clusters_own_condition_tells_a_refusal_too() -> None:
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreateHeadPod",
        "message": QUOTA,
    }
    told = why(rayjob("Initializing"), cluster={"status": {"conditions": [condition]}})
    assert "quota is used up" in told


def test_a_job_that_nobody_looks_at_has_no_operator() -> None:
    job = rayjob()
    fresh = Evidence(rayjob=job, now=CREATED + timedelta(seconds=5))
    old = Evidence(rayjob=job, now=CREATED + timedelta(seconds=90))
    assert reason(fresh) == "its cluster is being made"
    assert reason(old).startswith("the KubeRay operator has not looked at it for 90 s")


def test_a_job_in_a_queue_says_what_kueue_says() -> None:
    job = rayjob("Suspended", spec={"suspend": True})
    assert "no queue of Kueue is named" in why(job)
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"
    assert "does the LocalQueue exist?" in why(job)
    condition = {
        "type": "QuotaReserved",
        "status": "False",
        "reason": "Pending",
        "message": "couldn't assign flavors: insufficient unused quota for nvidia.com/gpu",
    }
    told = why(job, workload={"status": {"conditions": [condition]}})
    assert told == (
        "it waits in Kueue's queue 'gpus': couldn't assign flavors: insufficient unused quota for"
        " nvidia.com/gpu"
    )


def test_a_named_cluster_that_is_not_there_is_told() -> None:
    message = "RayCluster team/shared set in the clusterSelector is not found. It must be created manually"
    told = why(rayjob("Initializing"), events=(event(RUN, "RayClusterNotFound", message),))
    assert "team/shared" in told


def test_a_spec_that_the_operator_refuses_is_told() -> None:
    told = why(rayjob("Initializing"), events=(event(RUN, "InvalidRayJobSpec", "bad: backoffLimit"),))
    assert told == "KubeRay refuses it: bad: backoffLimit"


def test_a_cluster_that_starts_well_says_how_far_it_is() -> None:
    def ready(role: str) -> Object:
        return placed(role, {"state": {"running": {}}}, conditions=[{"type": "Ready", "status": "True"}])

    starting = placed("worker", {"state": {"running": {}}}, phase="Running")
    told = why(
        rayjob("Initializing"),
        *(ready("head"), ready("worker"), starting),
        cluster={"status": {"desiredWorkerReplicas": 2}},
    )
    assert told == "its cluster is starting: the head is ready, 1 of 2 workers are ready"


# --- running and failed -----------------------------------------------------------------------------


def test_a_job_that_runs_well_needs_no_word() -> None:
    well = placed("worker", {"state": {"running": {}}}, phase="Running")
    assert why(rayjob("Running", "RUNNING"), well) == ""


def killed(role: str) -> Object:
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    return placed(role, {"state": {"running": {}}, "lastState": ended}, phase="Running")


def test_a_worker_that_ran_out_of_memory_is_named_with_its_limit() -> None:
    told = why(rayjob("Failed", "FAILED", reason="AppFailed", message="a worker died"), killed("worker"))
    assert told.startswith(
        "a worker (forecasts-1-x7k2p-worker-ab12c) was killed because it used more memory than its limit of"
        " 4Gi"
    )
    assert "cluster.worker_memory" in told
    head = why(rayjob("Failed", "FAILED", reason="AppFailed", message=""), killed("head"))
    assert head.endswith("raise cluster.head_memory")


def test_a_failed_program_is_told_by_its_traceback() -> None:
    message = (
        "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\n"
        'Traceback (most recent call last):\n  File "/opt/ds/engine.py", line 12, in step\n'
        "AssertionError: zero stage 3 needs a GPU\n"
    )
    told = why(rayjob("Failed", "FAILED", reason="AppFailed", message=message))
    assert told == "AssertionError: zero stage 3 needs a GPU (at ds/engine.py:12 in step)"


def test_the_log_is_asked_when_the_message_says_nothing() -> None:
    job = rayjob("Failed", "FAILED", reason="AppFailed", message="Job entrypoint command failed")
    assert why(job, log="step 1\nerror: no such column; saw 'a'") == "no such column; saw 'a'"
    assert why(job) == "the run failed: Job entrypoint command failed; its log tells more"


def test_the_number_of_tries_is_told() -> None:
    job = rayjob("Failed", "FAILED", {"backoffLimit": 1}, reason="AppFailed", message="error: x", failed=2)
    assert why(job) == "x (after 2 tries)"


def test_a_deadline_is_told_and_why_the_job_never_began() -> None:
    begun = rayjob("Failed", "RUNNING", reason="DeadlineExceeded", message="passed")
    assert why(begun) == "stopped at its deadline of 600 s (cluster.deadline_s)"
    never = rayjob("Failed", "", reason="DeadlineExceeded", message="passed")
    told = why(never, unschedulable("worker", GPU))
    assert told.startswith("stopped at its deadline of 600 s (cluster.deadline_s); it never began: a worker")


def test_a_submitter_that_failed_is_told_by_its_pod() -> None:
    job = rayjob(
        "Failed",
        "",
        reason="SubmissionFailed",
        message="Job submission has failed. Reason: BackoffLimitExceeded.",
    )
    assert why(job).startswith("the job could not be handed to Ray: Job submission has failed")
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "token" not found'}
    told = why(job, placed("submitter", {"state": {"waiting": waiting}}))
    assert told == (
        "the job could not be handed to Ray: the submitter (forecasts-1-x7k2p-submitter-ab12c) cannot be"
        ' started: secret "token" not found'
    )


def test_a_refused_rayjob_is_told() -> None:
    job = rayjob("ValidationFailed", reason="ValidationFailed", message="The RayJob spec is invalid: x")
    assert why(job) == "KubeRay refuses the RayJob: The RayJob spec is invalid: x"


def test_a_pod_that_its_node_evicted_is_told() -> None:
    evicted = placed(
        "worker",
        {"state": {}},
        phase="Failed",
        reason="Evicted",
        message="The node was low on resource: ephemeral-storage.",
    )
    told = why(rayjob("Running", "RUNNING"), evicted)
    assert told.endswith(
        "was stopped by its node (Evicted): The node was low on resource: ephemeral-storage."
    )


def test_a_container_that_crashes_again_and_again_is_told() -> None:
    ended = {"terminated": {"reason": "Error", "exitCode": 2}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}
    told = why(
        rayjob("Initializing"), placed("head", {"state": waiting, "lastState": ended, "restartCount": 4})
    )
    assert "exit code 2 (Error), 4 restarts; `kubectl logs" in told


def test_events_of_an_earlier_pod_with_the_same_name_are_not_taken() -> None:
    waiting = placed("head", {"state": {"waiting": {"reason": "ContainerCreating"}}})
    other: Mapping[str, Any] = {**waiting, "metadata": {**waiting["metadata"], "uid": "u-earlier"}}
    told = why(rayjob("Initializing"), waiting, events=(event(dict(other), "FailedMount", "old news"),))
    assert "old news" not in told
