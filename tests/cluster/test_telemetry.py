"""Traces and log lines of a release: variables for a collector, and containers that print what pods log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from mizzen.cluster.config import ClusterConfig, parse
from mizzen.cluster.pod_logs import CONTAINER
from mizzen.cluster.pods import RUN_LABEL, Recipe, head, worker

if TYPE_CHECKING:
    from conftest import Chart, Rendered

ONE_APP = 'apps=[{"name": "shop", "model": "shop@production"}]'


def ray_containers(made: Rendered) -> list[dict[str, Any]]:
    """Ray's own container in each pod of the serving cluster."""
    cluster = made.one("RayService")["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"]["containers"][0] for group in groups]


def jobs_config(made: Rendered) -> ClusterConfig:
    """What the client makes jobs with."""
    [told] = [m for m in made.of("ConfigMap") if "mizzen.dev/config" in m["metadata"]["labels"]]
    return parse(told["data"]["config.yaml"], "the chart")


def tracing_of(environment: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Variables of OpenTelemetry."""
    return {one["name"]: one["value"] for one in environment if one["name"].startswith("OTEL_")}


def test_nothing_is_traced_unless_a_collector_is_named(chart: Chart, helm_version: str) -> None:
    made = chart.render(settings=[ONE_APP], version=helm_version)
    assert all(not tracing_of(one["env"]) for one in ray_containers(made))
    assert jobs_config(made).env == ()


def test_serving_and_jobs_send_spans_to_the_collector_that_is_named(chart: Chart, helm_version: str) -> None:
    settings = [
        ONE_APP,
        'tracing.endpoint="http://collector.monitoring:4318"',
        'tracing.sampler="parentbased_traceidratio"',
        "tracing.samplerArg=0.1",
        'env=[{"name": "OTEL_BSP_SCHEDULE_DELAY", "value": "1000"}]',
    ]
    made = chart.render(settings=settings, version=helm_version, namespace="ml")
    wanted = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.monitoring:4318",
        "OTEL_SERVICE_NAME": "mizzen",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.namespace.name=ml",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
        "OTEL_BSP_SCHEDULE_DELAY": "1000",
    }
    containers = ray_containers(made)
    assert len(containers) > 1
    assert all(tracing_of(one["env"]) == wanted for one in containers)
    assert tracing_of(jobs_config(made).env) == wanted


@pytest.mark.parametrize(
    "wrong", ['tracing.endpoint="collector:4318"', 'tracing.sampler="some"', 'tracing.samplerArg="half"']
)
def test_a_collector_or_sampler_that_cannot_be_is_refused(chart: Chart, wrong: str) -> None:
    assert "tracing" in chart.refusal(settings=[wrong])


def test_the_metrics_containers_of_serving_and_of_jobs_print_log_lines(chart: Chart) -> None:
    cluster = chart.render(settings=[ONE_APP]).one("RayService")["spec"]["rayClusterConfig"]
    pods = [cluster["headGroupSpec"]["template"], *(one["template"] for one in cluster["workerGroupSpecs"])]
    config = ClusterConfig(image="example/mizzen:1")
    recipe = Recipe(config, "example/mizzen:1", {RUN_LABEL: "shop-1"})
    pods += [
        head(recipe, config.head.resources),
        worker(recipe, config.cpu_worker, config.cpu_worker.resources),
    ]
    for pod in pods:
        [printing] = [one for one in pod["spec"]["containers"] if one["name"] == CONTAINER]
        assert printing["command"][:2] == ["mizzen", "metrics"]
        assert "--logs" in printing["command"]
        # Both see the same files: those of the processes beside, and how far they were read.
        ray = pod["spec"]["containers"][0]
        home = {"name": "home", "mountPath": "/var/lib/mizzen"}
        assert home in printing["volumeMounts"]
        assert home in ray["volumeMounts"]
