"""Jobs on Kubernetes from submission to deletion, against the server that plays the API."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mizzen.cluster import train_job
from mizzen.cluster.config import ClusterConfig
from mizzen.cluster.kube import CONFIG_MAPS, EVENTS, PODS, RAY_CLUSTERS, RAY_JOBS, Kind, Kube
from mizzen.cluster.kube_jobs import KubeJobs
from mizzen.errors import ClusterError, NotFoundError
from mizzen.settings import Settings, read
from mizzen.store import audit
from mizzen.store.runs import RunRecord, Runs
from mizzen.training.job import TrainJob, parse

Pause = Callable[[float], None]
RUN = "forecasts-20261122-080000-abcd"
CONFIG = ClusterConfig(image="example/mizzen:1")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read({"MIZZEN_HOME": str(tmp_path / "home"), "MIZZEN_STORE": f"file://{tmp_path / 'store'}"})


@pytest.fixture
def jobs(kube: Kube, settings: Settings, no_pause: Pause) -> KubeJobs:
    return KubeJobs(kube, settings, no_pause)


def job(**cluster: Any) -> TrainJob:
    content = {
        "name": "forecasts",
        "workload": "forecasting",
        "data": {"dataset": "m1-yearly"},
        "training": {"epochs": 1},
        "scaling": {"workers": 2},
        "cluster": cluster,
    }
    return parse(content, "a test")


def progress(api: Any, deployment: str, status: str = "", **more: Any) -> dict[str, Any]:
    """What the operator writes into the job's status."""
    rayjob: dict[str, Any] = api.objects[RAY_JOBS.path("team", RUN)]
    made = {"jobDeploymentStatus": deployment, "jobStatus": status, "rayClusterName": f"{RUN}-x7k", **more}
    rayjob["status"] = made
    return rayjob


def submitter(api: Any, name: str, attempt: str = "job-1", phase: str = "Succeeded", at: int = 0) -> Any:
    """A pod that submits, as the Kubernetes Job of the same name makes it."""
    state = {"running": {}} if phase == "Running" else {"terminated": {"exitCode": 0}}
    pod = {
        "metadata": {
            "name": name,
            "labels": {"job-name": RUN},
            "ownerReferences": [{"kind": "Job", "name": RUN, "uid": attempt}],
            "creationTimestamp": f"2026-11-22T08:{at:02d}:00Z",
        },
        "spec": {"containers": [{"name": "ray-job-submitter"}]},
        "status": {"phase": phase, "containerStatuses": [{"name": "ray-job-submitter", "state": state}]},
    }
    return api.put(PODS, pod)


def lines(*texts: str) -> list[str]:
    return [f"2026-11-22T08:00:{n:02d}.000000001Z {text}" for n, text in enumerate(texts)]


# --- submission -------------------------------------------------------------------------------------


def test_a_job_is_submitted_and_waits(api: Any, kube: Kube, jobs: KubeJobs) -> None:
    train_job.submit(kube, job(), CONFIG, RUN)
    made = jobs.show(RUN)
    assert (made.name, made.state, made.job, made.workload, made.workers) == (
        *(RUN, "waiting", "forecasts", "forecasting"),
        2,
    )
    assert made.where == "team"
    assert made.created_at == datetime(2026, 11, 22, 8, tzinfo=UTC)
    assert [one.name for one in jobs.list()] == [RUN]


def test_code_of_ones_own_goes_into_a_config_map_that_the_job_owns(
    api: Any, kube: Kube, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "plug.py").write_text("x = 1\n")
    made = train_job.submit(kube, job(working_dir=tmp_path / "code"), CONFIG, RUN)
    code = api.objects[CONFIG_MAPS.path("team", f"{RUN}-code")]
    assert code["metadata"]["ownerReferences"] == [
        {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": RUN, "uid": made["metadata"]["uid"]}
    ]
    archive = zipfile.ZipFile(io.BytesIO(base64.b64decode(code["binaryData"]["code.zip"])))
    assert archive.read("plug.py") == b"x = 1\n"
    assert str(tmp_path) not in str(made)  # where the code was is nobody's business


def test_the_job_is_taken_back_if_its_code_cannot_be_stored(api: Any, kube: Kube, tmp_path: Path) -> None:
    (tmp_path / "plug.py").write_text("x = 1\n")
    refusal = {"reason": "Forbidden", "message": "configmaps is forbidden"}
    api.refusals["POST", "configmaps"] = (403, refusal)
    with pytest.raises(ClusterError, match="`create` `configmaps`"):
        train_job.submit(kube, job(working_dir=tmp_path), CONFIG, RUN)
    assert api.asked("POST", "/rayjobs")
    assert RAY_JOBS.path("team", RUN) not in api.objects


def test_a_queue_without_kueue_is_refused_before_anything_is_made(api: Any, kube: Kube) -> None:
    with pytest.raises(ClusterError, match="no Kueue"):
        train_job.submit(kube, job(queue="gpus"), CONFIG, RUN)
    assert not api.asked("POST", "/rayjobs")


# --- what became of it ------------------------------------------------------------------------------


def test_why_a_job_waits_comes_from_its_pods(api: Any, kube: Kube, jobs: KubeJobs) -> None:
    train_job.submit(kube, job(), CONFIG, RUN)
    progress(api, "Initializing")
    api.put(RAY_CLUSTERS, {"metadata": {"name": f"{RUN}-x7k"}, "status": {"desiredWorkerReplicas": 2}})
    message = "0/1 nodes are available: 1 Insufficient memory. preemption: not helpful."
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    labels = {"ray.io/cluster": f"{RUN}-x7k", "ray.io/node-type": "worker"}
    containers = [{"name": "ray-worker", "resources": {"requests": {"memory": "64Gi", "cpu": "1"}}}]
    api.put(
        PODS,
        {
            "metadata": {"name": "w-1", "labels": labels},
            "spec": {"containers": containers},
            "status": {"phase": "Pending", "conditions": [scheduled]},
        },
    )
    shown = jobs.show(RUN)
    assert shown.state == "waiting"
    assert shown.reason.startswith(
        "a worker (w-1) waits for a node: no node has enough memory left (it asks for 64Gi memory)"
    )
    assert shown.where == f"team/{RUN}-x7k"


def test_what_may_not_be_read_is_left_out(api: Any, kube: Kube, jobs: KubeJobs) -> None:
    train_job.submit(kube, job(), CONFIG, RUN)
    progress(api, "Initializing")
    for plural in ("pods", "events", "jobs", "rayclusters"):
        api.refusals["GET", plural] = (403, {"reason": "Forbidden", "message": f"{plural} is forbidden"})
    assert jobs.show(RUN).reason == "its cluster is being made"


def test_a_queued_job_says_what_kueue_says(api: Any, kube: Kube, jobs: KubeJobs) -> None:
    api.documents["/apis/kueue.x-k8s.io"] = {"preferredVersion": {"version": "v1beta2"}}
    workloads = Kind("workloads", "kueue.x-k8s.io", "v1beta2")
    made = train_job.submit(kube, job(queue="gpus"), CONFIG, RUN)
    api.objects[RAY_JOBS.path("team", RUN)]["spec"]["suspend"] = True
    condition = {
        "type": "QuotaReserved",
        "status": "False",
        "message": "insufficient quota for nvidia.com/gpu",
    }
    labels = {"kueue.x-k8s.io/job-uid": made["metadata"]["uid"]}
    api.put(workloads, {"metadata": {"name": "w", "labels": labels}, "status": {"conditions": [condition]}})
    assert jobs.show(RUN).reason == (
        "it waits in Kueue's queue 'gpus': insufficient quota for nvidia.com/gpu"
    )


def test_a_failed_job_shows_the_line_of_its_log_that_matters(api: Any, kube: Kube, jobs: KubeJobs) -> None:
    train_job.submit(kube, job(), CONFIG, RUN)
    progress(
        api, "Failed", "FAILED", reason="AppFailed", message="Job entrypoint command failed with exit code 1"
    )
    submitter(api, "s-1")
    api.logs["s-1"] = lines("step 1", "error: the data has no column 'price'; saw a, b. Name another.")
    shown = jobs.show(RUN)
    assert (shown.state, shown.reason) == (
        "failed",
        "the data has no column 'price'; saw a, b. Name another.",
    )


def test_a_finished_job_tells_what_it_published(
    api: Any, kube: Kube, jobs: KubeJobs, settings: Settings
) -> None:
    reachable = CONFIG.model_copy(
        update={"store": CONFIG.store.model_copy(update={"url": settings.store_url, "claim": None})}
    )
    train_job.submit(kube, job(), reachable, RUN)
    ended = "2026-11-22T09:00:00Z"
    progress(api, "Complete", "SUCCEEDED", endTime=ended, rayJobInfo={"startTime": "2026-11-22T08:10:00Z"})
    now = datetime(2026, 11, 22, 9, tzinfo=UTC)
    record = RunRecord(
        run_id=RUN,
        place="kubernetes",
        state="succeeded",
        job={},
        created_at=now,
        updated_at=now,
        model="forecasts",
        version=3,
    )
    Runs(settings.store_url).write(record)
    shown = jobs.show(RUN)
    assert (shown.state, shown.model, shown.version) == ("succeeded", "forecasts", 3)
    assert shown.ended_at == now
    assert shown.started_at == datetime(2026, 11, 22, 8, 10, tzinfo=UTC)


def test_an_unknown_job_is_said_to_be_unknown(jobs: KubeJobs) -> None:
    for ask in (jobs.show, jobs.cancel, jobs.delete, lambda name: list(jobs.logs(name, True))):
        with pytest.raises(NotFoundError, match="no job 'nothing' in the namespace 'team'"):
            ask("nothing")


# --- logs -------------------------------------------------------------------------------------------


def test_following_waits_for_the_submitter_and_ends_with_the_job(
    api: Any, kube: Kube, jobs: KubeJobs
) -> None:
    train_job.submit(kube, job(), CONFIG, RUN)
    progress(api, "Initializing")
    api.logs["s-1"] = lines("a", "b")

    def begins() -> dict[str, Any]:
        return {"type": "ADDED", "object": submitter(api, "s-1")}

    def ends() -> None:
        progress(api, "Complete", "SUCCEEDED")

    api.watches["pods"] = [[], ["cut"], [begins]]
    api.log_scripts["s-1"] = [[2, ends]]
    assert list(jobs.logs(RUN, follow=True)) == ["a", "b"]


def test_a_submitter_that_is_replaced_does_not_double_the_log(api: Any, kube: Kube, jobs: KubeJobs) -> None:
    train_job.submit(kube, job(), CONFIG, RUN)
    progress(api, "Running", "RUNNING")
    submitter(api, "s-1", phase="Failed")
    api.logs["s-1"] = lines("submitted", "step 1", "step 1", "step 2")

    def replaced() -> None:
        submitter(api, "s-2", at=5)
        progress(api, "Complete", "SUCCEEDED")

    api.log_scripts["s-1"] = [[4, replaced]]
    api.logs["s-2"] = lines("step 1", "step 1", "step 2", "step 1", "done")
    told = list(jobs.logs(RUN, follow=True))
    assert told == ["submitted", "step 1", "step 1", "step 2", "step 1", "done"]


def test_another_attempt_of_the_job_is_told_whole(api: Any, kube: Kube, jobs: KubeJobs) -> None:
    train_job.submit(kube, job(retries=1), CONFIG, RUN)
    progress(api, "Running", "RUNNING")
    submitter(api, "s-1", phase="Failed")
    api.logs["s-1"] = lines("step 1", "error: lost a node")

    def again() -> None:
        submitter(api, "s-2", attempt="job-2", at=5)
        progress(api, "Complete", "SUCCEEDED")

    api.log_scripts["s-1"] = [[2, again]]
    api.logs["s-2"] = lines("step 1", "done")
    told = list(jobs.logs(RUN, follow=True))
    assert told == ["step 1", "error: lost a node", "--- the job is tried again (s-2) ---", "step 1", "done"]


def test_without_following_the_newest_pods_log_is_told_as_it_stands(
    api: Any, kube: Kube, jobs: KubeJobs
) -> None:
    train_job.submit(kube, job(), CONFIG, RUN)
    progress(api, "Running", "RUNNING")
    submitter(api, "s-1", phase="Failed", at=1)
    submitter(api, "s-2", phase="Running", at=2)
    api.logs.update({"s-1": lines("old"), "s-2": lines("new")})
    assert list(jobs.logs(RUN, follow=False)) == ["new"]


def test_when_the_pods_are_gone_the_store_has_the_log(
    api: Any, kube: Kube, jobs: KubeJobs, settings: Settings
) -> None:
    reachable = CONFIG.model_copy(
        update={"store": CONFIG.store.model_copy(update={"url": settings.store_url, "claim": None})}
    )
    train_job.submit(kube, job(), reachable, RUN)
    progress(api, "Complete", "SUCCEEDED")
    runs, now = Runs(settings.store_url), datetime(2026, 11, 22, 9, tzinfo=UTC)
    runs.write(
        RunRecord(run_id=RUN, place="kubernetes", state="succeeded", job={}, created_at=now, updated_at=now)
    )
    runs.writer(RUN).add(["kept", "for ever"])
    assert list(jobs.logs(RUN, follow=True)) == ["kept", "for ever"]


def test_when_the_node_with_the_log_is_gone_the_store_has_it(
    api: Any, kube: Kube, jobs: KubeJobs, settings: Settings
) -> None:
    reachable = CONFIG.model_copy(
        update={"store": CONFIG.store.model_copy(update={"url": settings.store_url, "claim": None})}
    )
    train_job.submit(kube, job(), reachable, RUN)
    progress(api, "Complete", "SUCCEEDED")
    submitter(api, "s-1")
    api.refusals["GET log", "pods"] = (500, {"reason": "InternalError", "message": "no route to host"})
    runs, now = Runs(settings.store_url), datetime(2026, 11, 22, 9, tzinfo=UTC)
    runs.write(
        RunRecord(run_id=RUN, place="kubernetes", state="succeeded", job={}, created_at=now, updated_at=now)
    )
    runs.writer(RUN).add(["kept"])
    assert list(jobs.logs(RUN, follow=False)) == ["kept"]


def test_a_submitter_that_never_began_is_passed_over(api: Any, kube: Kube, jobs: KubeJobs) -> None:
    train_job.submit(kube, job(), CONFIG, RUN)
    progress(api, "Complete", "SUCCEEDED")
    submitter(api, "s-1", phase="Failed", at=9)
    submitter(api, "s-2", at=5)
    waiting = {"reason": "BadRequest", "message": 'container "ray-job-submitter" is waiting to start'}
    api.log_scripts["s-1"] = [[(400, waiting)]]
    api.logs["s-2"] = lines("a")
    assert list(jobs.logs(RUN, follow=True)) == ["a"]


def test_when_nothing_can_be_read_it_says_where_the_log_is(api: Any, kube: Kube, jobs: KubeJobs) -> None:
    train_job.submit(kube, job(), CONFIG, RUN)
    progress(api, "Complete", "SUCCEEDED")
    with pytest.raises(NotFoundError, match=f"file:///var/lib/mizzen-store, below runs/{RUN}/log"):
        list(jobs.logs(RUN, follow=False))


# --- the end ----------------------------------------------------------------------------------------


def test_a_cancelled_job_ends_and_its_record_stays(api: Any, kube: Kube, jobs: KubeJobs) -> None:
    train_job.submit(kube, job(), CONFIG, RUN)
    progress(api, "Running", "RUNNING")
    jobs.cancel(RUN)
    spec = api.objects[RAY_JOBS.path("team", RUN)]["spec"]
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (1, 0)
    shown = jobs.show(RUN)
    assert shown.state == "cancelled"
    assert shown.reason.startswith("cancelled at 20")
    with pytest.raises(ClusterError, match="has ended already"):
        jobs.cancel(RUN)


def test_on_a_cluster_that_runs_already_cancelling_deletes_the_job(
    api: Any, kube: Kube, jobs: KubeJobs
) -> None:
    train_job.submit(kube, job(), CONFIG, RUN, cluster="shared")
    progress(api, "Running", "RUNNING")
    jobs.cancel(RUN)
    assert RAY_JOBS.path("team", RUN) not in api.objects


def test_cancelling_deletes_a_job_that_a_queue_holds_back(api: Any, kube: Kube, jobs: KubeJobs) -> None:
    train_job.submit(kube, job(), CONFIG, RUN)
    api.objects[RAY_JOBS.path("team", RUN)]["spec"]["suspend"] = True  # as Kueue's webhook does
    jobs.cancel(RUN)
    assert RAY_JOBS.path("team", RUN) not in api.objects


def test_deleting_takes_the_run_out_of_the_store_too(
    api: Any, kube: Kube, jobs: KubeJobs, settings: Settings
) -> None:
    reachable = CONFIG.model_copy(
        update={"store": CONFIG.store.model_copy(update={"url": settings.store_url, "claim": None})}
    )
    train_job.submit(kube, job(), reachable, RUN)
    runs = Runs(settings.store_url)
    runs.writer(RUN).add(["something"])
    with pytest.raises(ClusterError, match=f"mizzen jobs cancel {RUN}"):
        jobs.delete(RUN)
    progress(api, "Complete", "SUCCEEDED")
    jobs.delete(RUN)
    assert RAY_JOBS.path("team", RUN) not in api.objects
    assert list(runs.log(RUN).new_lines()) == []
    (told,) = audit.entries(runs.objects)
    assert (told.action, told.target, told.outcome) == ("job.delete", RUN, "done")
    assert told.details == {"place": "kubernetes"}


def test_a_job_is_cancelled_though_the_audit_log_cannot_be_written(
    api: Any, kube: Kube, jobs: KubeJobs, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    reachable = CONFIG.model_copy(
        update={"store": CONFIG.store.model_copy(update={"url": settings.store_url, "claim": None})}
    )
    train_job.submit(kube, job(), reachable, RUN)
    progress(api, "Running", "RUNNING")
    objects = Runs(settings.store_url).objects
    objects.create("audit", b"no folder")
    jobs.cancel(RUN)
    assert jobs.show(RUN).state == "cancelled"
    assert f"job.cancel {RUN} is missing in the audit log" in caplog.text


def test_events_of_other_objects_are_not_taken_for_the_jobs(api: Any, kube: Kube, jobs: KubeJobs) -> None:
    train_job.submit(kube, job(), CONFIG, RUN)
    progress(api, "Initializing")
    about = {"kind": "Job", "name": "somebody-elses", "uid": "1"}
    message = 'pods "x" is forbidden: exceeded quota: small'
    api.put(
        EVENTS,
        {
            "metadata": {"name": "e"},
            "reason": "FailedCreate",
            "message": message,
            "involvedObject": about,
            "lastTimestamp": "2026-11-22T08:00:01Z",
        },
    )
    assert jobs.show(RUN).reason == "its cluster is being made"
    api.put(
        EVENTS,
        {
            "metadata": {"name": "e2"},
            "reason": "FailedCreate",
            "message": message,
            "involvedObject": {**about, "name": RUN},
            "lastTimestamp": "2026-11-22T08:00:02Z",
        },
    )
    assert jobs.show(RUN).reason == "the namespace's quota is used up: small"
