"""What the chart refuses, with the sentence that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Chart

SERVE_FILE = Path(__file__).resolve().parents[2] / "jobs" / "serve.yaml"
GATEWAY = "gateway.networking.k8s.io"
INSTALLED = (
    *("ray.io/v1/RayJob", "ray.io/v1/RayService"),
    *("monitoring.coreos.com/v1/PodMonitor", "monitoring.coreos.com/v1/ServiceMonitor"),
    *("monitoring.coreos.com/v1/PrometheusRule", "gateway.networking.k8s.io/v1/HTTPRoute"),
)
"""What a cluster with every operator knows, in the words of `.Capabilities.APIVersions`."""
ONE_APP = 'apps=[{"name": "shop", "model": "shop@production"}]'
AUTOSCALING = "serving.autoscaling.enabled=true"


def without(*apis: str) -> tuple[str, ...]:
    """What the cluster knows, but for these."""
    return tuple(api for api in INSTALLED if not api.startswith(apis))


# --- operators that are missing -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "settings", "sentences"),
    [
        ("ray.io", [], ["has no KubeRay", "helm install kuberay-operator", "--version 1.7.0"]),
        ("ray.io/v1/RayService", [ONE_APP], ["apps asks for serving", "no ray.io/v1 RayService"]),
        *(
            (
                "monitoring.coreos.com",
                [f"monitoring.{value}.enabled=true"],
                [f"monitoring.{value}.enabled asks for a {kind}", "Install the Prometheus operator"],
            )
            for value, kind in (
                ("podMonitor", "PodMonitor"),
                ("serviceMonitor", "ServiceMonitor"),
                ("prometheusRule", "PrometheusRule"),
            )
        ),
        (GATEWAY, [ONE_APP, "httpRoute.enabled=true"], ["httpRoute.enabled", "Install the Gateway API"]),
        (
            GATEWAY,
            [ONE_APP, 'serving.upgrade.strategy="NewClusterWithIncrementalUpgrade"'],
            ["needs the Gateway API", "or use NewCluster"],
        ),
    ],
)
def test_what_the_cluster_lacks_is_named_with_how_to_install_it(
    chart: Chart, missing: str, settings: list[str], sentences: list[str], helm_version: str
) -> None:
    said = chart.refusal(settings=settings, installed=without(missing), version=helm_version)
    for sentence in sentences:
        assert sentence in said


def test_what_is_not_asked_for_may_be_missing(chart: Chart) -> None:
    kuberay = [api for api in INSTALLED if api.startswith("ray.io")]
    assert chart.render(SERVE_FILE, installed=kuberay).of("RayService")


# --- values that contradict each other ------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["auth.enabled=false"], "auth.enabled is false, so whoever reaches an endpoint could use"),
        (["auth.allowAnonymous=true"], "auth.allowAnonymous is true while auth.enabled asks for API keys"),
        (
            ['auth.source="store"', 'auth.existingSecret="keys"'],
            "auth.existingSecret is keys while auth.source=store keeps the keys in the model store",
        ),
        (['store.url="file:///models"'], "store.url is file:///models: in a pod a folder is only kept if"),
        (
            ['store.url="s3://models"', 'store.persistence.existingClaim="mine"'],
            "store.persistence.existingClaim is mine while store.url is s3://models",
        ),
        (
            ["serviceAccount.create=false", 'serviceAccount.annotations={"a": "b"}'],
            "serviceAccount.annotations need an account of ours",
        ),
        (["serving.worker.minReplicas=2"], "The values start 2 workers and 1 replicas"),
        (["serving.worker.numCpus=0"], "no worker has more than 0"),
        (
            ['apps=[{"name": "shop", "model": "shop", "replicas": 5}]'],
            "replicas take 5 CPUs together, and the workers have 4",
        ),
        (
            ['apps=[{"name": "shop", "model": "shop", "num_cpus": 8}]'],
            "A replica of the app shop takes 8 CPUs, and no worker has more than 4",
        ),
        (
            ['apps=[{"name": "shop", "model": "shop", "num_gpus": 1}]'],
            "The app shop asks for GPUs, and no worker group has any",
        ),
        (
            [
                'apps=[{"name": "shop", "model": "shop", "num_gpus": 1, "replicas": 2}]',
                "serving.worker.gpus=1",
            ],
            "replicas take 2 GPUs together, and the workers have 1",
        ),
        (
            ['serving.workerGroups=[{"name": "cpu"}, {"name": "cpu"}]'],
            "two groups with the name cpu",
        ),
        ([AUTOSCALING, "serving.worker.maxReplicas=0"], "maxReplicas 0 below minReplicas 1"),
        (["serving.drainSeconds=90"], "serving.drainSeconds is not less than"),
        (
            ['serving.upgrade.strategy="NewClusterWithIncrementalUpgrade"'],
            "needs serving.upgrade.gatewayClassName",
        ),
        (
            [
                'serving.upgrade.strategy="NewClusterWithIncrementalUpgrade"',
                'serving.upgrade.gatewayClassName="istio"',
            ],
            "needs serving.autoscaling.enabled=true",
        ),
        (
            [AUTOSCALING, 'serving.upgrade.gatewayClassName="istio"', "ingress.enabled=true"],
            "requests must come through the Gateway that KubeRay makes",
        ),
        (["httpRoute.enabled=true"], "httpRoute.enabled needs httpRoute.parentRefs"),
        (['serving.faultTolerance.mode="redis"'], "needs serving.faultTolerance.redis.address"),
        (
            ['serving.faultTolerance.redis.address="redis:6379"'],
            "redis.address is set while mode is none",
        ),
        (
            ['serving.faultTolerance={"mode": "rocksdb", "rocksdb": {"claimName": "mine"}}'],
            "claimName cannot go with the upgrade strategy NewCluster",
        ),
    ],
)
def test_values_that_cannot_work_are_refused_in_a_sentence(
    chart: Chart, settings: list[str], sentence: str
) -> None:
    apps = [] if settings[0].startswith("apps=") else [ONE_APP]
    assert sentence in chart.refusal(settings=[*apps, *settings])
