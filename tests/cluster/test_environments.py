"""The environments: values that say only what is different there, and what else each of them needs.

That their values lint, render and fit every schema is tested with the chart's other scenarios: each of them
is a `scenario`. No cluster is started.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Chart, Rendered

ROOT = Path(__file__).resolve().parents[2] / "deploy" / "environments"
TERRAFORM = ROOT.parent / "terraform" / "eks"
NAMES = ("kind", "production", "staging")
KIND_CONFIG: Mapping[str, set[str]] = {
    "": {"kind", "apiVersion", "name", "nodes", "networking", "featureGates", "runtimeConfig"},
    "networking": {"apiServerAddress", "apiServerPort", "podSubnet", "serviceSubnet", "disableDefaultCNI"},
    "nodes": {"role", "image", "labels", "extraMounts", "extraPortMappings", "kubeadmConfigPatches"},
}
"""The keys of kind's configuration that we know; kind refuses others."""


def load(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text())


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no section, by its path."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_each_environment_is_a_scenario(chart: Chart) -> None:
    assert sorted(path.parent.name for path in ROOT.glob("*/values.yaml")) == list(NAMES)


def test_every_scenario_that_the_chart_promises_is_there(chart: Chart) -> None:
    names = {path.name.removesuffix("-values.yaml") for path in (chart.path / "ci").glob("*-values.yaml")}
    assert names >= {"airgapped", "gpu", "laptop", "production"}


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_says_only_what_is_different(chart: Chart, name: str) -> None:
    defaults = dict(leaves(load(chart.path / "values.yaml")))
    own = dict(leaves(load(ROOT / name / "values.yaml")))
    # A limit is said together with its request, though one of them is the default's.
    same = {path for path, value in own.items() if path in defaults and defaults[path] == value}
    assert not {path for path in same if ".resources." not in path}


def test_staging_serves_candidates_and_production_what_is_in_production(chart: Chart) -> None:
    aliases = {
        name: {app["model"].partition("@")[2] for app in load(ROOT / name / "values.yaml")["apps"]}
        for name in NAMES
    }
    assert aliases == {"kind": {"production"}, "staging": {"candidate"}, "production": {"production"}}


def test_nothing_in_production_stands_on_one_node_alone(chart: Chart) -> None:
    rendered = chart.render(ROOT / "production" / "values.yaml")
    cluster = rendered.one("RayService")["spec"]["rayClusterConfig"]
    assert cluster["gcsFaultToleranceOptions"]["backend"] == "rocksdb"
    cpu = cluster["workerGroupSpecs"][0]
    assert cpu["minReplicas"] >= 2
    apart = cpu["template"]["spec"]["topologySpreadConstraints"]
    assert ("kubernetes.io/hostname", "DoNotSchedule") in {
        (one["topologyKey"], one["whenUnsatisfiable"]) for one in apart
    }
    for app in load(ROOT / "production" / "values.yaml")["apps"]:
        assert app["replicas"]["min"] >= 2 or app.get("num_gpus"), app["name"]
    assert rendered.of("PodDisruptionBudget")


def test_the_operator_of_production_has_what_its_values_ask_for(chart: Chart) -> None:
    gates = {
        gate["name"]: gate["enabled"]
        for gate in load(ROOT / "production/kuberay-values.yaml")["featureGates"]
    }
    assert gates == {"GCSFaultToleranceEmbeddedStorage": True}
    assert load(ROOT / "production" / "values.yaml")["serving"]["faultTolerance"]["mode"] == "rocksdb"


@pytest.mark.parametrize("name", ["production", "staging"])
def test_what_terraform_made_goes_on_top(
    chart: Chart, with_jobs: Callable[[Rendered], Rendered], name: str, tmp_path: Path
) -> None:
    made = {
        "image": {"repository": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/mizzen"},
        "store": {"url": "s3://mizzen-store/store"},
        "env": [{"name": "AWS_REGION", "value": "eu-central-1"}],
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/x"}},
        "jobs": {"gpuWorker": {"nodeSelector": {"mizzen.dev/nodes": "gpu"}}},
    }
    output = (TERRAFORM / "outputs.tf").read_text().partition('output "helm_values"')[2]
    assert set(re.findall(r"^    (\w+) +=", output, re.M)) == set(made), "terraform says something else now"
    file = tmp_path / "eks-values.yaml"
    file.write_text(yaml.safe_dump(made))
    rendered = chart.render(ROOT / name / "values.yaml", file)
    assert not rendered.of("PersistentVolumeClaim")
    accounts = set()
    for pod in with_jobs(rendered).pods:
        assert pod.main["image"].startswith(made["image"]["repository"]), pod.where
        # The head of what serves holds no replica, so it needs no store.
        if pod.is_ray and (pod.role == "worker" or "RayJob" in pod.where):
            environment = {variable["name"]: variable.get("value") for variable in pod.main["env"]}
            assert environment["MIZZEN_STORE"] == "s3://mizzen-store/store"
            assert environment["AWS_REGION"] == "eu-central-1"
            accounts.add(pod.spec["serviceAccountName"])
    for account in rendered.of("ServiceAccount"):
        if account["metadata"]["name"] in accounts:
            assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]


def test_gpu_pods_go_where_terraform_has_gpus(chart: Chart) -> None:
    nodes = (TERRAFORM / "nodes.tf").read_text()
    assert '"mizzen.dev/nodes" = "gpu"' in nodes
    for pod in chart.render(ROOT / "production" / "values.yaml").pods:
        if "nvidia.com/gpu" in pod.main["resources"]["limits"]:
            assert pod.spec["nodeSelector"] == {"mizzen.dev/nodes": "gpu"}
            assert {t["key"] for t in pod.spec["tolerations"]} >= {"nvidia.com/gpu"}


def test_the_kind_cluster_is_one_node_that_only_this_machine_reaches() -> None:
    config = load(ROOT / "kind" / "cluster.yaml")
    assert (config["apiVersion"], config["kind"]) == ("kind.x-k8s.io/v1alpha4", "Cluster")
    assert config.keys() <= KIND_CONFIG[""]
    assert config["networking"].keys() <= KIND_CONFIG["networking"]
    [node] = config["nodes"]
    assert node.keys() <= KIND_CONFIG["nodes"]
    assert config["networking"]["apiServerAddress"] == "127.0.0.1"
    assert not config["networking"].get("disableDefaultCNI"), "kind's own network enforces policies"


SMALL = (ROOT / "kind" / "values.yaml", ROOT.parents[1] / "helm" / "mizzen" / "ci" / "laptop-values.yaml")
"""Values for one small node."""


@pytest.mark.parametrize("values", SMALL, ids=["kind", "laptop"])
def test_what_is_asked_for_on_a_laptop_fits_on_it(
    chart: Chart, with_jobs: Callable[[Rendered], Rendered], values: Path
) -> None:
    rendered = with_jobs(chart.render(values))
    serving, training = asked(rendered, "RayService"), asked(rendered, "RayJob")
    assert serving["memory"] <= 3 * 1024
    assert serving["memory"] + training["memory"] <= 7 * 1024
    # Of four CPUs the node's own pods take nearly one, and an upgrade starts a second cluster.
    assert 2 * serving["cpu"] + training["cpu"] <= 3.0


def asked(rendered: Rendered, kind: str) -> dict[str, float]:
    """CPUs and mebibytes that pods of a `kind` ask for together; of RayJobs, the one that needs no GPU."""
    total = {"cpu": 0.0, "memory": 0.0}
    for pod in rendered.pods:
        if pod.where.partition("/")[0] != kind or "gpus" in pod.where:
            continue
        count = 2 if pod.role == "worker" and kind == "RayJob" else 1
        for container in pod.containers:
            requests = container["resources"]["requests"]
            total["cpu"] += count * cpus(requests["cpu"])
            total["memory"] += count * mebibytes(requests["memory"])
    return total


def cpus(quantity: str | int) -> float:
    """A quantity of CPUs."""
    text = str(quantity)
    return float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)


def mebibytes(quantity: str) -> float:
    """A quantity of memory."""
    match = re.fullmatch(r"([0-9.]+)(Mi|Gi)", quantity)
    assert match is not None, quantity
    return float(match[1]) * {"Mi": 1, "Gi": 1024}[match[2]]
