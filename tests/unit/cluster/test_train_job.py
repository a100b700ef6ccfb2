"""The RayJob of a training job: what of the job file and of the release goes where."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import yaml

from mizzen import tracing
from mizzen.cluster import train_job
from mizzen.cluster.config import ClusterConfig, parse
from mizzen.errors import JobError
from mizzen.training import job as jobs

CONFIG = ClusterConfig(image="example/mizzen:1")
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
Object = dict[str, Any]


def job(**sections: Any) -> jobs.TrainJob:
    content = {
        "name": "forecasts",
        "workload": "forecasting",
        "data": {"dataset": "m1-yearly"},
        "training": {"epochs": 1},
        **sections,
    }
    return jobs.parse(content, "a test")


def made(what: jobs.TrainJob, config: ClusterConfig = CONFIG, **options: Any) -> Object:
    return train_job.manifest(what, config, "run-1", "team", **options)


def head(manifest: Object) -> Object:
    spec: Object = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]
    return spec


def workers(manifest: Object) -> Object:
    [group] = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return dict(group)


def ray_of(group: Object) -> Object:
    container: Object = group["template"]["spec"]["containers"][0]
    return container


def environment(container: Object) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def variables(manifest: Object) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load(manifest["spec"]["runtimeEnvYAML"])["env_vars"]
    return found


def test_the_job_arrives_as_it_was_written() -> None:
    wanted = job(
        deepspeed={
            "zero_stage": 2,
            "offload": "optimizer",
            "extra": {"zero_optimization": {"overlap_comm": True}},
        },
        scaling={"workers": 2},
    )
    arrived = json.loads(variables(made(wanted))["MIZZEN_JOB"])
    assert jobs.parse(arrived, "MIZZEN_JOB") == wanted
    assert made(wanted)["spec"]["entrypoint"] == "python -m mizzen.cluster.entry --run run-1"


def test_nothing_in_the_job_is_read_by_the_shell_that_submits_it() -> None:
    nasty = 'a $(touch x) `id` "quoted" \\ back ${HOME} é\n'
    wanted = job(deepspeed={"extra": {"comment": nasty}})
    text = variables(made(wanted))["MIZZEN_JOB"]
    assert "$" not in text
    assert "`" not in text
    assert text.isascii()
    assert json.loads(text)["deepspeed"]["extra"]["comment"] == nasty


def test_the_command_line_that_kuberay_makes_hands_it_on_unchanged() -> None:
    """KubeRay puts the JSON between double quotes as Go's `strconv.Quote` does, and has bash run the line."""
    nasty = "$HOME `id` \\ 'x' \"y\" !! é % \t"
    given = yaml.safe_load(made(job(deepspeed={"extra": {"comment": nasty}}))["spec"]["runtimeEnvYAML"])
    text = json.dumps(given)
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    shell = subprocess.run(["bash", "-ce", f"printf %s {quoted}"], capture_output=True, text=True, check=True)
    assert shell.stdout == text
    assert json.loads(given["env_vars"]["MIZZEN_JOB"])["deepspeed"]["extra"]["comment"] == nasty


def test_there_is_one_pod_a_worker_with_room_for_one_worker() -> None:
    group = workers(made(job(scaling={"workers": 3, "cpus_per_worker": 2.5})))
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (3, 3, 3)
    assert group["rayStartParams"]["num-cpus"] == "3"
    assert ray_of(group)["resources"]["requests"]["cpu"] == "2.5"
    assert head(made(job()))["rayStartParams"]["num-cpus"] == "0"


def test_an_elastic_job_begins_with_the_fewest_workers_and_may_ask_for_the_most() -> None:
    manifest = made(job(scaling={"workers": [2, 5]}))
    group = workers(manifest)
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 5)
    assert manifest["metadata"]["annotations"][train_job.WORKERS_NOTE] == "2 to 5"
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["securityContext"]["readOnlyRootFilesystem"] is True
    assert "enableInTreeAutoscaling" not in made(job())["spec"]["rayClusterSpec"]


def test_only_the_head_of_an_elastic_job_gets_a_token_of_the_kubernetes_api() -> None:
    elastic, fixed = made(job(scaling={"workers": [1, 2]})), made(job(scaling={"workers": 2}))
    groups = [head(elastic), workers(elastic), head(fixed), workers(fixed)]
    pods = [group["template"] for group in groups]
    assert [pod["spec"]["automountServiceAccountToken"] for pod in pods] == [True, False, False, False]
    labelled = ["mizzen.dev/autoscaler" in pod["metadata"]["labels"] for pod in pods]
    assert labelled == [True, False, False, False]


def test_an_elastic_job_does_not_wait_in_a_queue_of_kueue() -> None:
    elastic = job(scaling={"workers": [1, 2]}, cluster={"queue": "gpus"})
    with pytest.raises(JobError, match=r"Kueue.*1 to 2 workers.*'gpus'"):
        made(elastic)
    assert made(job(scaling={"workers": [2, 2]}, cluster={"queue": "gpus"}))


@pytest.mark.parametrize(("cpus", "told"), [(0.25, 1), (0.5, 1), (0.75, 0.75), (1.5, 1.5)])
def test_two_workers_never_fit_into_one_pod(cpus: float, told: float) -> None:
    manifest = made(job(scaling={"cpus_per_worker": cpus}))
    arrived = json.loads(variables(manifest)["MIZZEN_JOB"])["scaling"]["cpus_per_worker"]
    assert arrived == told
    assert 2 * arrived > int(workers(manifest)["rayStartParams"]["num-cpus"]) >= arrived


def test_the_releases_cpus_hold_unless_the_job_says_its_own() -> None:
    text = "image: x\ncpu_worker: {resources: {requests: {cpu: 200m}, limits: {cpu: 2}}}"
    small = parse(text, "a test")
    assert ray_of(workers(made(job(), small)))["resources"] == {
        "requests": {"cpu": "200m"},
        "limits": {"cpu": "2"},
    }
    asked = ray_of(workers(made(job(scaling={"cpus_per_worker": 4}), small)))["resources"]
    assert asked == {"requests": {"cpu": "4"}, "limits": {"cpu": "4"}}


def test_memory_of_the_job_file_wins() -> None:
    manifest = made(job(cluster={"worker_memory": "20Gi", "head_memory": "12Gi"}))
    for group, memory in ((workers(manifest), "20Gi"), (head(manifest), "12Gi")):
        resources = ray_of(group)["resources"]
        assert (resources["requests"]["memory"], resources["limits"]["memory"]) == (memory, memory)


def test_a_job_on_gpus_takes_the_image_the_nodes_and_the_devices_for_them() -> None:
    config = CONFIG.model_copy(update={"gpu_image": "example/mizzen:cuda"})
    manifest = made(job(scaling={"workers": 2, "gpus_per_worker": 1}), config)
    group = workers(manifest)
    assert group["groupName"] == "gpu"
    assert ray_of(group)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert ray_of(group)["image"] == ray_of(head(manifest))["image"] == "example/mizzen:cuda"
    assert "nvidia.com/gpu" not in ray_of(head(manifest))["resources"]["limits"]
    assert group["template"]["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_the_image_of_the_job_wins_and_one_is_needed() -> None:
    assert ray_of(head(made(job(cluster={"image": "mine:2"}))))["image"] == "mine:2"
    with pytest.raises(JobError, match=r"no container image.*--image"):
        made(job(), ClusterConfig())


def test_lengths_of_life_and_tries_come_from_the_job() -> None:
    spec = made(job(cluster={"retries": 2, "deadline_s": 600, "ttl_s": 90}))["spec"]
    told = (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"])
    assert told == (2, 600, 90)
    assert spec["shutdownAfterJobFinishes"]
    assert spec["jobId"] == "run-1"


def test_machines_are_soon_free_again() -> None:
    # An hour, say, would keep the next job and an upgrade waiting on a small cluster, and GPUs idle on any.
    assert made(job())["spec"]["ttlSecondsAfterFinished"] <= 300


def test_how_a_job_has_ended_can_be_scraped_before_its_machines_go() -> None:
    with pytest.raises(JobError, match=r"cluster\.ttl_s.*60"):
        job(cluster={"ttl_s": 59})
    assert made(job(cluster={"ttl_s": 60}))["spec"]["ttlSecondsAfterFinished"] == 60


def test_the_queue_and_the_priority_come_from_the_job_or_the_release() -> None:
    config = CONFIG.model_copy(update={"queue": "all", "priority_class": "low"})
    manifest = made(job(), config)
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "all"
    assert head(manifest)["template"]["spec"]["priorityClassName"] == "low"
    own = made(job(cluster={"queue": "mine", "priority_class": "high"}), config)
    assert own["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "mine"
    assert workers(own)["template"]["spec"]["priorityClassName"] == "high"


def test_a_cluster_that_runs_already_is_taken_as_it_is() -> None:
    config = CONFIG.model_copy(update={"queue": "all"})
    manifest = made(job(), config, cluster="shared")
    spec = manifest["spec"]
    assert spec["clusterSelector"] == {"ray.io/cluster": "shared"}
    assert not {"rayClusterSpec", "backoffLimit", "ttlSecondsAfterFinished", "suspend"} & set(spec)
    assert "kueue.x-k8s.io/queue-name" not in manifest["metadata"]["labels"]
    assert variables(manifest)["MIZZEN_STORE"] == "file:///var/lib/mizzen-store"


@pytest.mark.parametrize(
    ("cluster", "code", "field"),
    [
        ({"retries": 1}, False, "cluster.retries"),
        ({"queue": "q"}, False, "cluster.queue"),
        ({}, True, "cluster.working_dir"),
    ],
)
def test_what_a_running_cluster_cannot_do_is_refused(cluster: Object, code: bool, field: str) -> None:
    with pytest.raises(JobError, match="does not go together with a cluster that runs already") as caught:
        made(job(cluster=cluster), cluster="shared", code=code)
    assert caught.value.field == field


def test_code_of_ones_own_is_mounted_in_the_head_alone() -> None:
    manifest = made(job(), code=True)
    assert environment(ray_of(head(manifest)))["MIZZEN_CODE"] == "/etc/mizzen/code/code.zip"
    volumes = {v["name"]: v for v in head(manifest)["template"]["spec"]["volumes"]}
    assert volumes["code"]["configMap"] == {"name": "run-1-code"}
    assert "MIZZEN_CODE" not in environment(ray_of(workers(manifest)))


def test_the_store_is_a_claim_or_an_address_with_a_secret() -> None:
    group = workers(made(job()))
    mounts = {m["mountPath"]: m["name"] for m in ray_of(group)["volumeMounts"]}
    assert mounts["/var/lib/mizzen-store"] == "store"
    config = parse("image: x\nstore: {url: 's3://models', secret: keys}", "a test")
    there = ray_of(workers(made(job(), config)))
    assert there["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert environment(there)["MIZZEN_STORE"] == "s3://models"
    assert "/var/lib/mizzen-store" not in {m["mountPath"] for m in there["volumeMounts"]}


def test_the_object_store_fits_into_shared_memory_and_the_pods_request() -> None:
    config = parse(
        "image: x\ncpu_worker: {shm_size: 4Gi, resources: {requests: {memory: 2Gi}}}\n"
        "head: {shm_size: 1Gi, resources: {requests: {memory: 8Gi}}}",
        "a test",
    )
    manifest = made(job(), config)
    assert workers(manifest)["rayStartParams"]["object-store-memory"] == str(2**30)
    assert head(manifest)["rayStartParams"]["object-store-memory"] == str(2**30 * 9 // 10)


def test_series_are_exported_beside_ray_unless_switched_off() -> None:
    pod = workers(made(job()))["template"]["spec"]
    assert [c["name"] for c in pod["containers"]] == ["ray-worker", "metrics"]
    assert pod["shareProcessNamespace"] is True
    silent = workers(made(job(), CONFIG.model_copy(update={"metrics": False})))["template"]["spec"]
    assert [c["name"] for c in silent["containers"]] == ["ray-worker"]


def test_a_spread_without_a_selector_spreads_the_jobs_own_pods() -> None:
    text = (
        "image: x\ncpu_worker: {resources: {}, topology_spread_constraints: [{maxSkew: 1, topologyKey: zone,"
        " whenUnsatisfiable: DoNotSchedule}]}"
    )
    spec = workers(made(job(), parse(text, "a test")))["template"]["spec"]
    [constraint] = spec["topologySpreadConstraints"]
    assert constraint["labelSelector"] == {"matchLabels": {"mizzen.dev/run": "run-1"}}


def test_everything_is_labelled() -> None:
    manifest = made(job(), CONFIG.model_copy(update={"release": "blue", "labels": {"team": "t"}}))
    for thing in (manifest, head(manifest)["template"], manifest["spec"]["submitterPodTemplate"]):
        labels = thing["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "blue"
        assert labels["app.kubernetes.io/component"] == "job"
        assert labels["mizzen.dev/run"] == "run-1"
        assert labels["team"] == "t"


def test_the_run_lies_below_the_span_of_who_submits_it(trace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "TRACEPARENT" not in variables(made(job()))
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    trace()
    assert variables(made(job()))["TRACEPARENT"] == TRACEPARENT
    with tracing.span("submit") as span:
        assert variables(made(job()))["TRACEPARENT"] == span.traceparent
