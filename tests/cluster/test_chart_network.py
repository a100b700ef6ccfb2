"""Who may connect to which port of the release's pods, worked out as Kubernetes would from its policies.

Selectors of Services, budgets and spread constraints are checked here as well: whatever chooses pods must
choose some. No packet is sent; that the network plug-in enforces policies is not seen here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from mizzen.cluster.pods import AUTOSCALER_LABEL

if TYPE_CHECKING:
    from conftest import Chart, Manifest, Pod, Rendered

OWN = "ml"
"""The namespace of the release."""
SERVE, METRICS = 8000, (8080, 9101, 9464)
INTERNAL = (6379, 8265, 10001, 8500, 30000, 52365)
"""GCS, dashboard and job submission, client, Serve's fallback proxy, replicas' direct ports, Ray's agent."""
APP = '[{"name":"a","model":"a@production"}]'


@dataclass(frozen=True)
class Peer:
    """Somebody who tries to connect: a pod of some namespace."""

    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)


STRANGER = Peer("shop", {"app": "shop"})
NEIGHBOUR = Peer(OWN, {"app": "something-else"})
INGRESS = Peer("ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx"})
PROMETHEUS = Peer("monitoring", {"app.kubernetes.io/name": "prometheus"})
OPERATOR = Peer("kuberay-system", {"app.kubernetes.io/name": "kuberay-operator"})


def chooses(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels; an empty one takes all."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        value = labels.get(rule["key"])
        holds = {
            "In": value in rule.get("values", []),
            "NotIn": value not in rule.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not holds[rule["operator"]]:
            return False
    return True


def admits(rule: Mapping[str, Any], peer: Peer, port: int) -> bool:
    """Whether one ingress rule lets `peer` connect to `port`; `from` or `ports` left out means all."""
    if "ports" in rule and not any(p["port"] <= port <= p.get("endPort", p["port"]) for p in rule["ports"]):
        return False
    return not rule.get("from") or any(_is(one, peer) for one in rule["from"])


def _is(one: Mapping[str, Any], peer: Peer) -> bool:
    if "ipBlock" in one:
        return False  # of pods, the cluster compares labels
    namespace = {"kubernetes.io/metadata.name": peer.namespace}
    if "namespaceSelector" in one:
        if not chooses(one["namespaceSelector"], namespace):
            return False
    elif peer.namespace != OWN:
        return False
    return chooses(one.get("podSelector", {}), peer.labels)


def may_connect(rendered: Rendered, peer: Peer, pod: Pod, port: int) -> bool:
    """Whether the policies let `peer` connect to `port` of `pod`."""
    labels = as_made(pod)
    policies = [
        policy["spec"]
        for policy in rendered.of("NetworkPolicy")
        if "Ingress" in policy["spec"]["policyTypes"] and chooses(policy["spec"]["podSelector"], labels)
    ]
    rules = [rule for policy in policies for rule in policy.get("ingress", [])]
    return not policies or any(admits(rule, peer, port) for rule in rules)


def as_made(pod: Pod) -> dict[str, str]:
    """The pod's labels with those that KubeRay adds."""
    if not pod.is_ray:
        return dict(pod.labels)
    group = "headgroup" if pod.role == "head" else pod.where.rpartition(": ")[2]
    return {**pod.labels, "ray.io/node-type": pod.role, "ray.io/group": group, "ray.io/is-ray-node": "yes"}


def own_pods(rendered: Rendered, component: str) -> list[Pod]:
    """The release's pods of one component."""
    return [pod for pod in rendered.pods if pod.labels["app.kubernetes.io/component"] == component]


def test_strangers_reach_no_port_of_any_pod(chart: Chart) -> None:
    rendered = chart.render(settings=[f"apps={APP}"])
    for pod in rendered.pods:
        for port in (SERVE, *METRICS, *INTERNAL, 8404, 44217, 44227):
            for peer in (STRANGER, NEIGHBOUR):
                assert not may_connect(rendered, peer, pod, port), f"{peer} reaches {port} of {pod.where}"


def test_no_rule_lets_everybody_in(rendered: Rendered) -> None:
    for policy in rendered.of("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            name = policy["metadata"]["name"]
            assert rule.get("from"), f"{name} lets in everybody"
            assert rule.get("ports"), f"{name} opens every port"
            for peer in rule["from"]:
                assert any(selector for selector in peer.values()), f"{name} lets in every pod: {peer}"


def test_every_pod_is_behind_a_policy(rendered: Rendered) -> None:
    for pod in rendered.pods:
        assert not may_connect(rendered, STRANGER, pod, 22), f"no policy chooses {pod.where}"


def test_the_ingress_controller_reaches_endpoints_and_nothing_else(rendered: Rendered) -> None:
    for pod in own_pods(rendered, "serving"):
        assert may_connect(rendered, INGRESS, pod, SERVE), pod.where
        for port in (*METRICS, *INTERNAL):
            assert not may_connect(rendered, INGRESS, pod, port), f"{port} of {pod.where}"
    for pod in own_pods(rendered, "job"):
        for port in (SERVE, *METRICS, *INTERNAL):
            assert not may_connect(rendered, INGRESS, pod, port), f"{port} of {pod.where}"


def test_prometheus_reaches_metrics_and_nothing_else(rendered: Rendered) -> None:
    for pod in rendered.pods:
        for container in pod.containers:
            for port in container.get("ports", []):
                reachable = may_connect(rendered, PROMETHEUS, pod, port["containerPort"])
                assert reachable is (port["containerPort"] in METRICS), f"{port} of {pod.where}"


def test_the_operator_reaches_the_dashboard_and_the_proxies_health(rendered: Rendered) -> None:
    for pod in own_pods(rendered, "serving"):
        assert may_connect(rendered, OPERATOR, pod, 8265 if pod.role == "head" else SERVE), pod.where
        assert not may_connect(rendered, OPERATOR, pod, 6379), pod.where
    for pod in own_pods(rendered, "job"):
        if pod.role == "head":
            assert may_connect(rendered, OPERATOR, pod, 8265), pod.where


@pytest.mark.parametrize("component", ["serving", "job"])
def test_the_pods_of_one_cluster_reach_each_other(rendered: Rendered, component: str) -> None:
    pods = own_pods(rendered, component)
    for one in pods:
        for other in pods:
            for port in INTERNAL:
                assert may_connect(rendered, Peer(OWN, as_made(one)), other, port), (one.where, other.where)


def test_jobs_do_not_reach_into_serving_nor_serving_into_jobs(rendered: Rendered) -> None:
    for one, other in (("job", "serving"), ("serving", "job")):
        for pod in own_pods(rendered, one):
            for target in own_pods(rendered, other):
                for port in INTERNAL:
                    assert not may_connect(rendered, Peer(OWN, as_made(pod)), target, port), target.where


def test_the_chart_s_own_test_reaches_the_endpoints(rendered: Rendered) -> None:
    for tester in own_pods(rendered, "test"):
        for pod in own_pods(rendered, "serving"):
            assert may_connect(rendered, Peer(OWN, tester.labels), pod, SERVE)


def test_without_network_policies_everybody_reaches_everything(chart: Chart) -> None:
    rendered = chart.render(settings=[f"apps={APP}", "networkPolicy.enabled=false"])
    assert not rendered.of("NetworkPolicy")
    assert all(may_connect(rendered, STRANGER, pod, 6379) for pod in rendered.pods)


def test_restricted_egress_leaves_dns_each_other_and_what_is_named(chart: Chart) -> None:
    rule = '[{"to":[{"ipBlock":{"cidr":"10.1.2.3/32"}}],"ports":[{"protocol":"TCP","port":443}]}]'
    settings = [f"apps={APP}", "networkPolicy.egress.restricted=true", f"networkPolicy.egress.rules={rule}"]
    rendered = chart.render(settings=settings)
    closed = [p for p in rendered.of("NetworkPolicy") if "Egress" in p["spec"]["policyTypes"]]
    for pod in rendered.pods:
        labels = as_made(pod)
        chosen = [p["spec"] for p in closed if chooses(p["spec"]["podSelector"], labels)]
        assert chosen, f"{pod.where} may connect to anywhere"
        rules = [rule for spec in chosen for rule in spec.get("egress", [])]
        assert any({port.get("port") for port in rule.get("ports", [])} >= {53} for rule in rules), pod.where
        assert any({"ipBlock": {"cidr": "10.1.2.3/32"}} in rule.get("to", []) for rule in rules), pod.where
        for rule in rules:
            open_to_all = not rule.get("to") and {p.get("port") for p in rule.get("ports", [])} != {53}
            assert not open_to_all, f"{pod.where}: {rule}"


# --- whatever chooses pods ------------------------------------------------------------------------


def selectors(manifest: Manifest) -> Iterator[Mapping[str, Any]]:
    """The selectors of pods in a manifest."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Service":
        yield {"matchLabels": spec["selector"]}
    elif manifest["kind"] in ("PodDisruptionBudget", "PodMonitor"):
        yield spec["selector"]
    elif manifest["kind"] == "NetworkPolicy":
        yield spec["podSelector"]


def test_every_selector_chooses_pods_of_this_release_alone(rendered: Rendered) -> None:
    for manifest in rendered.manifests:
        for selector in selectors(manifest):
            name = f"{manifest['kind']}/{manifest['metadata']['name']}"
            serves = not name.endswith(("-serving", "-endpoints")) or rendered.of("RayService")
            if serves:
                made = [as_made(pod) for pod in rendered.pods]
                # Jobs come later: the head of an elastic one has a label that the chart's own pods have not.
                made += [{**labels, AUTOSCALER_LABEL: "true"} for labels in made]
                assert any(chooses(selector, labels) for labels in made), f"{name} chooses none"
            for pod in rendered.pods:
                other = {**as_made(pod), "app.kubernetes.io/instance": "another-release"}
                assert not chooses(selector, other), f"{name} chooses pods of another release"


def test_spread_constraints_count_the_pod_s_own_kind(rendered: Rendered) -> None:
    for pod in rendered.pods:
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            assert chooses(constraint["labelSelector"], as_made(pod)), pod.where
            assert constraint["labelSelector"] != {}


def test_a_budget_lets_one_worker_go_and_keeps_the_others(rendered: Rendered) -> None:
    for budget in rendered.of("PodDisruptionBudget"):
        chosen = [pod for pod in rendered.pods if chooses(budget["spec"]["selector"], as_made(pod))]
        assert {(pod.role, pod.labels["app.kubernetes.io/component"]) for pod in chosen} == {
            ("worker", "serving")
        }
        groups = rendered.one("RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        workers = sum(group["minReplicas"] for group in groups)
        assert workers > 1, "with one worker the node could never be drained"
        assert budget["spec"]["minAvailable"] == workers - 1


def test_monitors_read_ports_that_pods_have(rendered: Rendered) -> None:
    for monitor in rendered.of("PodMonitor"):
        for pod in rendered.pods:
            if pod.is_ray and chooses(monitor["spec"]["selector"], as_made(pod)):
                ports = {port["name"] for c in pod.containers for port in c.get("ports", [])}
                wanted = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
                # A job has no ingress.
                missing = wanted - ports - ({"haproxy"} if "RayJob" in pod.where else set())
                assert not missing, f"{pod.where} has no {missing}"
