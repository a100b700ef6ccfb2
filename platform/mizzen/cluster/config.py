"""What a Mizzen release says about jobs: images, the store, resources, placement.

The chart writes it into the ConfigMap `<fullname>-jobs`; the client reads it there. The defaults are those of
a plain installation, so that a manifest can be made without any cluster. It holds names of Secrets, never
their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field

from mizzen.errors import ClusterError, InputError, NotFoundError
from mizzen.files import validate
from mizzen.workloads.contract import Fields

if TYPE_CHECKING:
    from mizzen.cluster.kube import Kube

CONFIG_LABEL = "mizzen.dev/config=jobs"
CONFIG_KEY = "config.yaml"
RAY_VERSION = "2.60.0"
INSTANCE_LABEL = "app.kubernetes.io/instance"

Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value),
    Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi|e[0-9]+)?$"),
]
"""An amount as Kubernetes writes it: `500m`, `2`, `4Gi`."""
Native = dict[str, Any]
"""A piece of a pod's specification in Kubernetes' own words, handed on as it is."""


class Resources(Fields):
    """What a container asks for, and what it may use at most."""

    requests: dict[str, Quantity] = Field(default_factory=dict)
    limits: dict[str, Quantity] = Field(default_factory=dict)


class Pods(Fields):
    """How pods of one kind are made and where they may run."""

    resources: Resources
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Native, ...] = ()
    affinity: Native = Field(default_factory=dict)
    topology_spread_constraints: tuple[Native, ...] = ()
    """A constraint without `labelSelector` spreads the pods of one job."""
    runtime_class: str | None = None
    """The RuntimeClass of GPU pods, where the cluster needs one named."""
    shm_size: Quantity = "1Gi"
    """`/dev/shm`, in memory: Ray's object store. It counts against the container's memory limit."""
    tmp_size: Quantity = "10Gi"
    home_size: Quantity = "20Gi"
    """The writable folder of Mizzen itself: prepared data, checkpoints, caches."""


class StorePlace(Fields):
    """Where the model store is, seen from a pod."""

    url: str = Field("file:///var/lib/mizzen-store", pattern=r"^[a-z0-9+]+://[^\s\"'`$\\]+$")
    secret: str | None = None
    """A Secret whose keys become environment variables: AWS_ACCESS_KEY_ID and so on."""
    claim: str | None = None
    """A PersistentVolumeClaim that is mounted at `mount_path`, for a `file://` store."""
    mount_path: str = "/var/lib/mizzen-store"


def _pods(cpu: str, memory: str, cpu_limit: str, memory_limit: str, **more: Any) -> Pods:
    resources = Resources(
        requests={"cpu": cpu, "memory": memory}, limits={"cpu": cpu_limit, "memory": memory_limit}
    )
    return Pods(resources=resources, **more)


class ClusterConfig(Fields):
    """What jobs of a release are made with; a job's own `cluster` section wins over it."""

    release: str = "mizzen"
    """The Helm release: `app.kubernetes.io/instance` of everything that belongs to it."""
    version: str | None = None
    """The chart's application version: `app.kubernetes.io/version`."""
    image: str | None = None
    """Of the head, of CPU workers and of the submitter."""
    gpu_image: str | None = None
    """Of all pods of a job that trains on GPUs; default: `image`."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    ray_version: str = RAY_VERSION
    """The version of Ray in the images."""

    store: StorePlace = StorePlace(claim="mizzen-store")
    service_account: str | None = None
    """Of the jobs' pods; its token is mounted nowhere. Default: the namespace's `default`."""
    env: tuple[Native, ...] = ()
    env_from: tuple[Native, ...] = ()
    volumes: tuple[Native, ...] = ()
    volume_mounts: tuple[Native, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    """More labels of the job and of its pods."""
    annotations: dict[str, str] = Field(default_factory=dict)

    head: Pods = _pods("500m", "2Gi", "4", "8Gi")
    """Where a job's driver runs: data is prepared, the model exported and evaluated."""
    cpu_worker: Pods = _pods("1", "2Gi", "4", "8Gi")
    """CPUs are raised to what the job's `scaling.cpus_per_worker` asks for."""
    gpu_worker: Pods = _pods(
        *("4", "32Gi", "16", "64Gi"),
        shm_size="8Gi",
        home_size="100Gi",
        tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
    )
    """GPUs come from the job's `scaling.gpus_per_worker`."""
    submitter: Resources = Resources(
        requests={"cpu": "100m", "memory": "256Mi"}, limits={"cpu": "1", "memory": "1Gi"}
    )
    autoscaler: Resources = Resources(
        requests={"cpu": "100m", "memory": "384Mi"}, limits={"cpu": "500m", "memory": "768Mi"}
    )
    """Of Ray's autoscaler in the head of an elastic job."""
    metrics: bool = True
    """A container beside Ray that exports the run's series on port 9464."""
    metrics_resources: Resources = Resources(
        requests={"cpu": "20m", "memory": "64Mi"}, limits={"cpu": "200m", "memory": "256Mi"}
    )

    queue: str | None = None
    """Kueue's local queue for jobs that name none."""
    priority_class: str | None = None


def parse(text: str, where: str) -> ClusterConfig:
    """The configuration in the YAML `text`; `where` is named in errors. Raises `InputError`."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as cause:
        raise InputError(
            f"{where} is not YAML: {cause}", remedy="Upgrade the release with its chart."
        ) from None
    return validate(ClusterConfig, content or {}, InputError, where)


def load(kube: Kube, release: str | None = None) -> ClusterConfig:
    """The configuration of the release in the namespace of `kube`.

    Raises `NotFoundError` if there is none, `ClusterError` if several could be meant.
    """
    found = {_instance(one): one for one in kube.config_maps(CONFIG_LABEL)}
    names = ", ".join(sorted(found)) or "none"
    if release is not None and release not in found:
        raise NotFoundError(
            f"no Mizzen release {release!r} in the namespace {kube.namespace!r}", saw=f"releases: {names}"
        )
    if not found:
        raise NotFoundError(
            f"no Mizzen release in the namespace {kube.namespace!r}",
            remedy="Install the chart there (`helm install mizzen helm/mizzen`), name its namespace with"
            " --namespace, or go without it and name an image with --image.",
        )
    if release is None and len(found) > 1:
        raise ClusterError(
            f"several Mizzen releases in the namespace {kube.namespace!r}",
            saw=names,
            remedy="Say which with --release.",
        )
    chosen = found[release] if release is not None else next(iter(found.values()))
    name = chosen["metadata"]["name"]
    return parse((chosen.get("data") or {}).get(CONFIG_KEY, ""), f"the ConfigMap {name!r}")


def _instance(config_map: Mapping[str, Any]) -> str:
    labels = config_map["metadata"].get("labels") or {}
    return str(labels.get(INSTANCE_LABEL) or config_map["metadata"]["name"])
