"""A training job as a RayJob of KubeRay: the manifest, and its submission.

The job's own cluster has a head, where the driver runs (it prepares data, exports, evaluates, publishes)
and which offers no CPUs to Ray, and one pod a training worker, with just so many CPUs that one worker fits.
An elastic job begins with the fewest workers, and Ray's autoscaler in the head asks for pods up to the most.
Or the job goes to a cluster that runs already (`cluster`), which it takes as it is. What happens inside is
said in `entry`.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import yaml

from mizzen import tracing
from mizzen.cluster import code_archive, pods
from mizzen.cluster.config import INSTANCE_LABEL, ClusterConfig, Pods, Resources
from mizzen.cluster.kube import CONFIG_MAPS, KUEUE, RAY_JOBS, Kube, Object
from mizzen.cluster.quantities import amount, larger
from mizzen.errors import ClusterError, JobError, MizzenError, NotFoundError
from mizzen.training.job import TrainJob

ENTRYPOINT = "python -m mizzen.cluster.entry --run {run_id}"
QUEUE_LABEL = f"{KUEUE}/queue-name"
CLUSTER_LABEL = "ray.io/cluster"
NAME_LABEL = "app.kubernetes.io/name"
GPU = "nvidia.com/gpu"
SELECTOR = "app.kubernetes.io/part-of=mizzen,app.kubernetes.io/component=job"
"""Chooses the RayJobs that Mizzen has made."""
JOB_LABEL, WORKLOAD_LABEL = "mizzen.dev/job", "mizzen.dev/workload"
STORE_NOTE, MODEL_NOTE, WORKERS_NOTE = "mizzen.dev/store", "mizzen.dev/model", "mizzen.dev/workers"
GONE_WITHIN_S = 60.0
"""KubeRay removes what belongs to a RayJob before it lets go of it."""
CANCELLED_NOTE = "mizzen.dev/cancelled-at"


def manifest(
    job: TrainJob,
    config: ClusterConfig,
    run_id: str,
    namespace: str,
    cluster: str | None = None,
    code: bool = False,
) -> Object:
    """The RayJob that trains `job` under the name `run_id`; `code` says that code of its own comes with it.

    `cluster` names a RayCluster that runs already. Raises `JobError` if the job cannot run like that.
    """
    if cluster is not None:
        _check_selected(job, cluster, code)
    spec: Object = {
        "submissionMode": "K8sJobMode",
        "jobId": run_id,
        "entrypoint": ENTRYPOINT.format(run_id=run_id),
        "runtimeEnvYAML": yaml.safe_dump({"env_vars": _variables(job, config)}, width=1_000_000),
        "activeDeadlineSeconds": job.cluster.deadline_s,
    }
    recipe = _recipe(job, config, run_id, cluster, code)
    spec["submitterPodTemplate"] = pods.submitter(recipe)
    if cluster is not None:
        spec["clusterSelector"] = {CLUSTER_LABEL: cluster}
    else:
        spec["backoffLimit"] = job.cluster.retries
        spec["shutdownAfterJobFinishes"] = True
        spec["ttlSecondsAfterFinished"] = job.cluster.ttl_s
        spec["rayClusterSpec"] = _ray_cluster(job, config, recipe)
    metadata = {
        "name": run_id,
        "namespace": namespace,
        "labels": {NAME_LABEL: "mizzen", **recipe.labels, **_queue(job, config, cluster)},
        "annotations": {**recipe.annotations, **_notes(job, config)},
    }
    return {"apiVersion": RAY_JOBS.api_version, "kind": "RayJob", "metadata": metadata, "spec": spec}


def code_config_map(rayjob: Mapping[str, Any], files: bytes) -> Object:
    """The ConfigMap with the job's own code, which goes when the RayJob goes (if that has been created)."""
    about = rayjob["metadata"]
    owner = {"apiVersion": RAY_JOBS.api_version, "kind": "RayJob", "name": about["name"]}
    owners = [{**owner, "uid": about["uid"]}] if "uid" in about else []
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": code_name(about["name"]),
            "namespace": about["namespace"],
            "labels": dict(about["labels"]),
            **({"ownerReferences": owners} if owners else {}),
        },
        "binaryData": {code_archive.CODE_FILE: base64.b64encode(files).decode("ascii")},
    }


def code_name(run_id: str) -> str:
    """The name of the ConfigMap with a run's own code."""
    return f"{run_id}-code"


def submit(
    kube: Kube, job: TrainJob, config: ClusterConfig, run_id: str, cluster: str | None = None
) -> Object:
    """Create the RayJob, and with it the job's own code if it names a `working_dir`.

    The RayJob comes first and owns the code, so that nothing is left when it goes; if the code cannot be
    created, the RayJob is taken back. Raises `JobError` or `ClusterError`.
    """
    folder = job.cluster.working_dir
    files = code_archive.pack(folder) if folder else None
    made = manifest(job, config, run_id, kube.namespace, cluster, code=files is not None)
    if QUEUE_LABEL in made["metadata"]["labels"]:
        _check_kueue(kube)
    rayjob = kube.create(RAY_JOBS, made)
    if files is not None:
        try:
            kube.create(CONFIG_MAPS, code_config_map(rayjob, files))
        except MizzenError:
            kube.delete(RAY_JOBS, run_id)
            raise
    return rayjob


def make_room(kube: Kube, run_id: str) -> None:
    """Remove the RayJob of a run that has ended, so that the run can go on under its id.

    Record, log and checkpoints are in the store. Raises `ClusterError` if it is not gone after a while.
    """
    deadline_s = time.monotonic() + GONE_WITHIN_S
    try:
        kube.delete(RAY_JOBS, run_id)
        while time.monotonic() < deadline_s:
            kube.get(RAY_JOBS, run_id)
            time.sleep(1.0)
    except NotFoundError:
        return
    raise ClusterError(
        f"the RayJob {run_id} is being deleted still", saw=f"{GONE_WITHIN_S:.0f} s",
        remedy="Try again in a while; see its finalizers if it stays.",
    )  # fmt: skip


def _variables(job: TrainJob, config: ClusterConfig) -> dict[str, str]:
    """KubeRay writes these between double quotes into a shell's command line, where `$` and backticks work.

    JSON can say both without them. A worker that takes half a CPU or less would leave room for a second one
    in its pod, so it tells Ray that it takes one.
    """
    content = job.model_dump(mode="json", exclude_unset=True, exclude={"cluster": {"working_dir"}})
    if job.scaling.cpus_per_worker <= 0.5:
        content["scaling"]["cpus_per_worker"] = 1
    text = json.dumps(content, separators=(",", ":"))
    traceparent = tracing.handed_on()
    return {
        "MIZZEN_JOB": text.replace("$", "\\u0024").replace("`", "\\u0060"),
        "MIZZEN_STORE": config.store.url,
        **({"TRACEPARENT": traceparent} if traceparent else {}),
    }


def _check_selected(job: TrainJob, cluster: str, code: bool) -> None:
    wrong = [
        ("cluster.retries", job.cluster.retries > 0, "KubeRay tries again on a new cluster only"),
        (
            "cluster.queue",
            job.cluster.queue is not None,
            "Kueue admits only jobs with a cluster of their own",
        ),
        ("cluster.working_dir", code, "files cannot be added to pods that run"),
    ]
    for field, given, why in wrong:
        if given:
            raise JobError(
                f"{field} does not go together with a cluster that runs already: {why}",
                saw=f"--cluster {cluster}",
                field=field,
                remedy="Leave one of them out.",
            )


def _check_kueue(kube: Kube) -> None:
    if kube.discover(f"/apis/{KUEUE}") is None:
        raise ClusterError(
            "the job names a queue of Kueue, and the cluster has no Kueue",
            saw=f"no API group {KUEUE}",
            remedy="Install Kueue, or take cluster.queue (and the release's jobs.queue) away.",
        )


def _recipe(
    job: TrainJob, config: ClusterConfig, run_id: str, cluster: str | None, code: bool
) -> pods.Recipe:
    on_gpu = job.scaling.gpus_per_worker > 0
    image = job.cluster.image or (config.gpu_image if on_gpu else None) or config.image
    if image is None:
        raise JobError(
            "no container image to run the job in",
            remedy="Name one with --image or cluster.image in the job file, or install the chart.",
            field="cluster.image",
        )
    return pods.Recipe(
        config=config,
        image=image,
        labels=_labels(job, config, run_id),
        annotations=config.annotations,
        priority_class=job.cluster.priority_class or config.priority_class,
        code=code_name(run_id) if code and cluster is None else None,
    )


def _labels(job: TrainJob, config: ClusterConfig, run_id: str) -> dict[str, str]:
    """Of the job and its pods. Without a name: KubeRay's services find the head by a name of its own."""
    return {
        **config.labels,
        INSTANCE_LABEL: config.release,
        **({"app.kubernetes.io/version": config.version} if config.version else {}),
        "app.kubernetes.io/component": "job",
        "app.kubernetes.io/part-of": "mizzen",
        "app.kubernetes.io/managed-by": "mizzen",
        JOB_LABEL: job.name,
        WORKLOAD_LABEL: job.workload,
        pods.RUN_LABEL: run_id,
    }


def _queue(job: TrainJob, config: ClusterConfig, cluster: str | None) -> dict[str, str]:
    queue = None if cluster else job.cluster.queue or config.queue
    if queue and job.scaling.is_elastic:
        raise JobError(
            "Kueue does not admit a job whose cluster scales itself",
            saw=f"{job.scaling} workers, and the queue {queue!r}",
            field="scaling.workers",
            remedy="Give one number of workers, or take cluster.queue (and the release's jobs.queue) away.",
        )
    return {QUEUE_LABEL: queue} if queue else {}


def _notes(job: TrainJob, config: ClusterConfig) -> dict[str, str]:
    return {
        STORE_NOTE: config.store.url,
        MODEL_NOTE: job.model_name,
        WORKERS_NOTE: str(job.scaling),
    }


def _ray_cluster(job: TrainJob, config: ClusterConfig, recipe: pods.Recipe) -> Object:
    on_gpu = job.scaling.gpus_per_worker > 0
    kind = config.gpu_worker if on_gpu else config.cpu_worker
    head_resources = with_memory(config.head.resources, job.cluster.head_memory)
    worker_resources = worker_pod_resources(job, kind)
    return {
        "rayVersion": config.ray_version,
        "authOptions": {"mode": "token"},
        **_autoscaling(job, recipe),
        "headGroupSpec": {
            "rayStartParams": {
                "num-cpus": "0",
                "num-gpus": "0",
                **_object_store(config.head, head_resources),
            },
            "template": pods.head(recipe, head_resources, autoscaler=job.scaling.is_elastic),
        },
        "workerGroupSpecs": [
            {
                "groupName": "gpu" if on_gpu else "cpu",
                # Not the most: KubeRay starts the job once all of these are there.
                "replicas": job.scaling.min_workers,
                "minReplicas": job.scaling.min_workers,
                "maxReplicas": job.scaling.max_workers,
                "rayStartParams": {
                    "num-cpus": str(math.ceil(job.scaling.cpus_per_worker)),
                    **_object_store(kind, worker_resources),
                },
                "template": pods.worker(recipe, kind, worker_resources),
            }
        ],
    }


def _autoscaling(job: TrainJob, recipe: pods.Recipe) -> Object:
    if not job.scaling.is_elastic:
        return {}
    return {"enableInTreeAutoscaling": True, "autoscalerOptions": pods.autoscaler(recipe)}


def worker_pod_resources(job: TrainJob, kind: Pods) -> Resources:
    """Of a worker's pod: the release's, but for what the job file says itself."""
    resources = with_memory(kind.resources, job.cluster.worker_memory)
    requests, limits = dict(resources.requests), dict(resources.limits)
    cpus = f"{job.scaling.cpus_per_worker:g}"
    if "cpus_per_worker" in job.scaling.model_fields_set:
        requests["cpu"] = cpus
    if "cpu" in limits:
        limits["cpu"] = larger(limits["cpu"], larger(cpus, requests.get("cpu", "0")))
    if job.scaling.gpus_per_worker:
        requests[GPU] = limits[GPU] = str(job.scaling.gpus_per_worker)
    return Resources(requests=requests, limits=limits)


def with_memory(resources: Resources, memory: str | None) -> Resources:
    """The same with `memory`, if it is given."""
    if memory is None:
        return resources
    return Resources(
        requests={**resources.requests, "memory": memory}, limits={**resources.limits, "memory": memory}
    )


def _object_store(kind: Pods, resources: Resources) -> dict[str, str]:
    """Ray's object store must fit into `/dev/shm`, or Ray keeps it on disk; KubeRay wants it below the
    memory that the pod requests."""
    room = amount(kind.shm_size) * 9 / 10
    if "memory" in resources.requests:
        room = min(room, amount(resources.requests["memory"]) / 2)
    return {"object-store-memory": str(int(room))}
