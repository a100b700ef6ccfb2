"""What the client makes, against KubeRay's own schema, Kubernetes' schemas and the restricted profile."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema.validators import Draft202012Validator

from mizzen.cluster import doctor, train_job
from mizzen.cluster.config import ClusterConfig, StorePlace
from mizzen.training.job import TrainJob, parse

CRDS = Path(os.environ.get("MIZZEN_CRD_DIR") or Path(__file__).resolve().parents[4] / "shared" / "crds")
KUBERNETES = ("1.32", "1.37")
Object = dict[str, Any]

PLAIN = ClusterConfig(image="example/mizzen:1")
RICH = ClusterConfig.model_validate(
    {
        "release": "blue",
        "version": "0.1.0",
        "image": "example/mizzen:1",
        "gpu_image": "example/mizzen:1-cuda",
        "image_pull_secrets": ["registry"],
        "store": StorePlace(url="s3://models/store", secret="store-keys"),
        "service_account": "mizzen",
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "env_from": [{"configMapRef": {"name": "more"}}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "volume_mounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
        "labels": {"team": "forecasts"},
        "annotations": {"example.com/owner": "ann"},
        "gpu_worker": {
            "resources": {"requests": {"cpu": 4, "memory": "32Gi"}, "limits": {"cpu": 8, "memory": "64Gi"}},
            "node_selector": {"gpu": "a100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "topology_spread_constraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "ScheduleAnyway",
                }
            ],
            "runtime_class": "nvidia",
        },
        "queue": "gpus",
        "priority_class": "low",
    }
)


def job(scaling: Object, cluster: Object | None = None) -> TrainJob:
    return parse(
        {
            "name": "forecasts",
            "workload": "forecasting",
            "data": {"dataset": "m1-yearly"},
            "training": {"epochs": 1},
            "deepspeed": {"zero_stage": 3, "offload": "optimizer", "extra": {"wall_clock_breakdown": True}},
            "scaling": scaling,
            "cluster": cluster or {},
        },
        "a test",
    )


def made(name: str) -> Object:
    """A RayJob of each kind."""
    on_gpus = job({"workers": 4, "gpus_per_worker": 1, "cpus_per_worker": 6}, {"retries": 3, "queue": "big"})
    variants: dict[str, tuple[TrainJob, ClusterConfig, Object]] = {
        "plain": (job({}), PLAIN, {}),
        "with code": (job({"workers": 2}), PLAIN, {"code": True}),
        "rich": (job({"workers": 3}), RICH, {}),
        "on gpus": (on_gpus, RICH, {"code": True}),
        "on a running cluster": (job({"workers": 2}), RICH, {"cluster": "shared"}),
        "elastic": (job({"workers": [2, 4]}), RICH.model_copy(update={"queue": None}), {}),
        "without metrics": (job({}), PLAIN.model_copy(update={"metrics": False}), {}),
    }
    what, config, options = variants[name]
    return train_job.manifest(what, config, "run-1", "team", **options)


VARIANTS = ("plain", "with code", "rich", "on gpus", "on a running cluster", "elastic", "without metrics")


def pods(manifest: Object) -> dict[str, Object]:
    """The pod templates in a RayJob."""
    spec = manifest["spec"]
    found = {"submitter": spec["submitterPodTemplate"]}
    if "rayClusterSpec" in spec:
        found["head"] = spec["rayClusterSpec"]["headGroupSpec"]["template"]
        for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
            found[group["groupName"]] = group["template"]
    return found


@cache
def crd() -> Draft202012Validator:
    """KubeRay's schema of a RayJob, closed: what the API server would drop is an error."""
    file = CRDS / "ray.io_rayjobs.yaml"
    if not file.is_file():
        pytest.skip(f"no custom resource definitions in {CRDS}; MIZZEN_CRD_DIR names another folder")
    versions = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    [schema] = [v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1"]
    closed = close(schema)
    closed["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(closed)


def close(schema: Any) -> Any:
    """The schema without room for unknown fields."""
    if isinstance(schema, list):
        return [close(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: close(part) for name, part in schema.items()}
    if schema.get("type") == "object" and "properties" in schema and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made


@pytest.mark.parametrize("name", VARIANTS)
def test_a_rayjob_fits_kuberays_schema(name: str) -> None:
    errors = [f"{list(e.absolute_path)}: {e.message[:200]}" for e in crd().iter_errors(made(name))]
    assert errors == []


def test_the_closed_schema_sees_a_field_that_kuberay_does_not_know() -> None:
    wrong = made("plain")
    wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParameters"] = {}
    assert [e.absolute_path[-1] for e in crd().iter_errors(wrong)] == ["headGroupSpec"]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", VARIANTS)
def test_its_pods_fit_kubernetes(name: str, version: str) -> None:
    for role, template in pods(made(name)).items():
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {**template["metadata"], "name": role}
        kubernetes_validate.validate(pod, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_code_and_the_doctors_pod_fit_kubernetes(version: str) -> None:
    rayjob = made("with code")
    rayjob["metadata"]["uid"] = "u-1"
    kubernetes_validate.validate(train_job.code_config_map(rayjob, b"zip"), version, strict=True)
    kubernetes_validate.validate(doctor.probe_pod(RICH, "example/mizzen:1", "doctor"), version, strict=True)


def every_pod() -> list[tuple[str, Object]]:
    """Each pod's spec, with a name for it."""
    found = [(f"{name}: {role}", pod["spec"]) for name in VARIANTS for role, pod in pods(made(name)).items()]
    return [*found, ("doctor", doctor.probe_pod(PLAIN, "example/mizzen:1", "doctor")["spec"])]


@pytest.mark.parametrize(("where", "spec"), every_pod(), ids=[where for where, _ in every_pod()])
def test_a_pod_fits_the_restricted_profile_and_writes_only_where_it_may(where: str, spec: Object) -> None:
    security = spec["securityContext"]
    assert security["runAsNonRoot"]
    assert security["runAsUser"] == 1000
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    # The autoscaler in the head asks the Kubernetes API for pods.
    assert spec["automountServiceAccountToken"] is (where == "elastic: head")
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    kinds = {"emptyDir", "persistentVolumeClaim", "configMap"}
    assert all(set(volume) - {"name"} <= kinds for volume in spec["volumes"])
    for container in spec["containers"]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= {v["name"] for v in spec["volumes"]}


@pytest.mark.parametrize("name", VARIANTS)
def test_kuberays_rules_beyond_its_schema_hold(name: str) -> None:
    """Rules of `ValidateRayJobSpec`, which no schema says."""
    spec = made(name)["spec"]
    if "clusterSelector" in spec:
        assert not {"suspend", "backoffLimit", "rayClusterSpec", "ttlSecondsAfterFinished"} & set(spec)
        return
    assert spec["shutdownAfterJobFinishes"]  # or the time to live is refused
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"]  # token authentication wants to know it
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert "resources" not in group  # not together with num-cpus
