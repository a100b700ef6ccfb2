"""The pods of a training job: head, workers, submitter, to the *restricted* Pod Security Standard.

Non-root, a read-only root file system with the writable folders mounted, no capabilities, no token of a
service account. What they run is KubeRay's to say; which of them there are is said in `train_job`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mizzen.cluster.code_archive import CODE_FILE
from mizzen.cluster.config import ClusterConfig, Pods, Resources
from mizzen.cluster.kube import Object

HOME = "/var/lib/mizzen"
CODE_FOLDER = "/etc/mizzen/code"
METRICS_PORT = 9464
AGENT_PORT = 52365
"""Of Ray's agent on each node; it answers for the node's raylet and, through it, for the head."""
RAY_PORTS = ({"containerPort": 8080, "name": "metrics"},)
HEAD_PORTS = (
    {"containerPort": 6379, "name": "gcs-server"},
    {"containerPort": 8265, "name": "dashboard"},
    {"containerPort": 10001, "name": "client"},
    *RAY_PORTS,
)
RUN_LABEL = "mizzen.dev/run"
AUTOSCALER_LABEL = "mizzen.dev/autoscaler"
"""Of heads whose autoscaler asks the Kubernetes API for pods: the chart's network policies let it."""
IDLE_TIMEOUT_S = 120
"""A worker's pod that nobody trains on is removed after this time; a restart of all workers is shorter."""


@dataclass(frozen=True)
class Recipe:
    """What all pods of one job share."""

    config: ClusterConfig
    image: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)
    priority_class: str | None = None
    code: str | None = None
    """The ConfigMap with the job's own code, if it has any; only the head needs it."""


def head(recipe: Recipe, resources: Resources, autoscaler: bool = False) -> Object:
    """The pod template of the head, where the job's driver runs; `autoscaler` says that Ray's runs there too.

    Then the token of its service account is mounted: KubeRay lets that account make and remove pods.
    """
    made = _ray_pod(recipe, recipe.config.head, resources, "ray-head", HEAD_PORTS, code=recipe.code)
    if autoscaler:
        made["metadata"]["labels"][AUTOSCALER_LABEL] = "true"
        made["spec"]["automountServiceAccountToken"] = True
    return made


def autoscaler(recipe: Recipe) -> Object:
    """How the autoscaler's container is made, which KubeRay adds to the head: it inherits nothing."""
    return {
        "idleTimeoutSeconds": IDLE_TIMEOUT_S,
        "upscalingMode": "Default",
        "imagePullPolicy": recipe.config.image_pull_policy,
        "env": [{"name": "HOME", "value": "/tmp"}],
        "resources": recipe.config.autoscaler.model_dump(),
        "securityContext": container_security(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }


def worker(recipe: Recipe, pods: Pods, resources: Resources) -> Object:
    """The pod template of the workers."""
    return _ray_pod(recipe, pods, resources, "ray-worker", RAY_PORTS, code=None)


def submitter(recipe: Recipe) -> Object:
    """The pod template that submits the job to the head and follows its log."""
    config = recipe.config
    container = {
        "name": "ray-job-submitter",
        **_image(config, recipe.image),
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
        "resources": config.submitter.model_dump(),
        "securityContext": container_security(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    spec = {
        **_pod_basics(recipe),
        **_placement(recipe, config.head),
        "restartPolicy": "Never",
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}],
        "containers": [container],
    }
    return {"metadata": _metadata(recipe, "submitter"), "spec": spec}


def one_off(config: ClusterConfig, image: str, name: str, command: list[str]) -> Object:
    """A pod that runs `command` once with the store at hand, as the job's pods have it."""
    recipe = Recipe(config, image, {RUN_LABEL: name})
    container = {
        "name": "mizzen",
        **_image(config, image),
        "command": command,
        "env": _environment(config),
        **_env_from(config),
        "resources": config.submitter.model_dump(),
        "securityContext": container_security(),
        "volumeMounts": [*_mounts(config)],
    }
    spec = {
        **_pod_basics(recipe),
        **_placement(recipe, config.head),
        "restartPolicy": "Never",
        "volumes": _volumes(config, config.head),
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def pod_security() -> Object:
    """The pod's half of the restricted profile."""
    return {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Object:
    """The container's half; KubeRay copies it to the init container that it adds."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _ray_pod(
    recipe: Recipe,
    pods: Pods,
    resources: Resources,
    name: str,
    ports: tuple[dict[str, Any], ...],
    code: str | None,
) -> Object:
    config = recipe.config
    mounts, volumes = _mounts(config), _volumes(config, pods)
    environment = _environment(config)
    if code:
        mounts.append({"name": "code", "mountPath": CODE_FOLDER, "readOnly": True})
        volumes.append({"name": "code", "configMap": {"name": code}})
        environment.append({"name": "MIZZEN_CODE", "value": f"{CODE_FOLDER}/{CODE_FILE}"})
    ray = {
        "name": name,
        **_image(config, recipe.image),
        "env": environment,
        **_env_from(config),
        "ports": [dict(port) for port in ports],
        "resources": resources.model_dump(),
        "securityContext": container_security(),
        "volumeMounts": mounts,
        # KubeRay's own probes need bash, wget and grep in the image
        "readinessProbe": _probe(period_s=5, failures=10),
        "livenessProbe": _probe(period_s=10, failures=60),  # a restart would end the job
    }
    spec = {
        **_pod_basics(recipe),
        **_placement(recipe, pods),
        "terminationGracePeriodSeconds": 60,
        "shareProcessNamespace": config.metrics,
        "volumes": volumes,
        "containers": [ray, *([_metrics(recipe)] if config.metrics else [])],
    }
    return {"metadata": _metadata(recipe, name.removeprefix("ray-")), "spec": spec}


def _probe(period_s: int, failures: int) -> Object:
    return {
        "httpGet": {"path": "/api/healthz", "port": AGENT_PORT},
        "initialDelaySeconds": 5,
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _metrics(recipe: Recipe) -> Object:
    """It sees the other container's processes, or it would take their series for those of dead ones."""
    return {
        "name": "metrics",
        **_image(recipe.config, recipe.image),
        "command": ["mizzen", "metrics", "--host", "0.0.0.0", "--port", str(METRICS_PORT), "--logs"],
        "env": [{"name": "MIZZEN_HOME", "value": HOME}, {"name": "HOME", "value": HOME}],
        "ports": [{"containerPort": METRICS_PORT, "name": "mizzen-metrics"}],
        "resources": recipe.config.metrics_resources.model_dump(),
        "securityContext": container_security(),
        "volumeMounts": [{"name": "home", "mountPath": HOME}, {"name": "tmp", "mountPath": "/tmp"}],
    }


def _pod_basics(recipe: Recipe) -> Object:
    config = recipe.config
    account = {"serviceAccountName": config.service_account} if config.service_account else {}
    secrets = [{"name": name} for name in config.image_pull_secrets]
    return {
        **account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        **({"imagePullSecrets": secrets} if secrets else {}),
        **({"priorityClassName": recipe.priority_class} if recipe.priority_class else {}),
    }


def _placement(recipe: Recipe, pods: Pods) -> Object:
    own = {"labelSelector": {"matchLabels": {RUN_LABEL: recipe.labels[RUN_LABEL]}}}
    spread = [{**own, **constraint} for constraint in pods.topology_spread_constraints]
    wanted = {
        "nodeSelector": pods.node_selector,
        "tolerations": list(pods.tolerations),
        "affinity": pods.affinity,
        "topologySpreadConstraints": spread,
        "runtimeClassName": pods.runtime_class,
    }
    return {name: value for name, value in wanted.items() if value}


def _metadata(recipe: Recipe, role: str) -> Object:
    labels = {**recipe.labels, "mizzen.dev/role": role}
    return {"labels": labels, **({"annotations": dict(recipe.annotations)} if recipe.annotations else {})}


def _image(config: ClusterConfig, image: str) -> Object:
    return {"image": image, "imagePullPolicy": config.image_pull_policy}


def _environment(config: ClusterConfig) -> list[Object]:
    own = {
        "MIZZEN_HOME": HOME,
        "HOME": HOME,
        "MIZZEN_STORE": config.store.url,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return [*({"name": name, "value": value} for name, value in own.items()), *map(dict, config.env)]


def _env_from(config: ClusterConfig) -> Object:
    secret = [{"secretRef": {"name": config.store.secret}}] if config.store.secret else []
    sources = [*secret, *map(dict, config.env_from)]
    return {"envFrom": sources} if sources else {}


def _mounts(config: ClusterConfig) -> list[Object]:
    mounts: list[Object] = [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "home", "mountPath": HOME},
    ]
    if config.store.claim:
        mounts.append({"name": "store", "mountPath": config.store.mount_path})
    return [*mounts, *map(dict, config.volume_mounts)]


def _volumes(config: ClusterConfig, pods: Pods) -> list[Object]:
    volumes: list[Object] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": pods.tmp_size}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pods.shm_size}},
        {"name": "home", "emptyDir": {"sizeLimit": pods.home_size}},
    ]
    if config.store.claim:
        volumes.append({"name": "store", "persistentVolumeClaim": {"claimName": config.store.claim}})
    return [*volumes, *map(dict, config.volumes)]
