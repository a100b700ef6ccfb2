"""What the chart makes of each choice that its values offer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from mizzen.cluster.doctor import NEEDED, PROBE_VERBS
from mizzen.cluster.pods import AUTOSCALER_LABEL
from mizzen.serving.spec import App, load

if TYPE_CHECKING:
    from conftest import Chart, Rendered

REPOSITORY = Path(__file__).resolve().parents[2]
SERVE_FILE = REPOSITORY / "jobs" / "serve.yaml"
PRODUCTION = REPOSITORY / "helm" / "mizzen" / "ci" / "production-values.yaml"
KUBERAY = ("ray.io/v1/RayJob", "ray.io/v1/RayService")
GATEWAY = "gateway.networking.k8s.io/v1/HTTPRoute"
"""What the cluster knows, in the words of `.Capabilities.APIVersions`."""
ONE_APP = 'apps=[{"name": "shop", "model": "shop@production"}]'
AUTOSCALING = "serving.autoscaling.enabled=true"


def service(made: Rendered) -> dict[str, Any]:
    """The RayService's specification."""
    return dict(made.one("RayService")["spec"])


# --- what is served -------------------------------------------------------------------------------


def test_a_serve_file_is_a_values_file(chart: Chart, helm_version: str) -> None:
    config = yaml.safe_load(service(chart.render(SERVE_FILE, version=helm_version))["serveConfigV2"])
    served = [App.model_validate(one["args"]["app"]) for one in config["applications"]]
    assert tuple(served) == load(SERVE_FILE).apps
    assert [one["route_prefix"] for one in config["applications"]] == [app.route_prefix for app in served]


def test_large_and_small_numbers_arrive_as_they_are(chart: Chart, helm_version: str) -> None:
    app = {
        "name": "shop",
        "model": "shop@3",
        "max_request_bytes": 1_073_741_824,
        "num_cpus": 0.25,
        "batching": {"wait_s": 0.0005},
    }
    settings = [f"apps=[{json.dumps(app)}]"]
    config = yaml.safe_load(service(chart.render(settings=settings, version=helm_version))["serveConfigV2"])
    assert config["applications"][0]["args"]["app"] == app


def test_replicas_follow_their_alias_in_the_store_that_the_release_names(chart: Chart) -> None:
    made = service(chart.render(settings=[ONE_APP, 'store.url="s3://models/shop"']))
    (one,) = yaml.safe_load(made["serveConfigV2"])["applications"]
    assert one["import_path"] == "mizzen.serving.app:build"
    assert one["args"]["store_url"] == "s3://models/shop"
    assert one["args"]["watch_every_s"] == 15


def test_without_apps_there_is_only_what_jobs_need(chart: Chart) -> None:
    made = chart.render()
    serving = {"RayService", "Ingress", "HTTPRoute", "PodDisruptionBudget", "Pod"}
    assert not serving & {manifest["kind"] for manifest in made.manifests}
    assert {"ConfigMap", "PersistentVolumeClaim", "Role", "NetworkPolicy"} <= {
        m["kind"] for m in made.manifests
    }


# --- keys and tokens ------------------------------------------------------------------------------


def names_of_secrets(made: Rendered) -> set[str]:
    """Secrets that the release makes."""
    return {one["metadata"]["name"] for one in made.of("Secret")}


def variables(container: dict[str, Any]) -> dict[str, str]:
    """Environment variables that are plain values."""
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}


def test_endpoints_want_a_key_unless_that_is_switched_off_twice(chart: Chart) -> None:
    closed = chart.render(settings=[ONE_APP])
    opened = chart.render(settings=[ONE_APP, "auth.enabled=false", "auth.allowAnonymous=true"])
    for made, wanted in ((closed, True), (opened, False)):
        assert ("mizzen-api-keys" in names_of_secrets(made)) is wanted
        for pod in made.pods:
            serves = pod.where.startswith("RayService") and pod.role != "head"
            told = variables(dict(pod.main)).get("MIZZEN_API_KEYS")
            # Endpoints that are told nothing do not start; so nobody opens them by forgetting a variable.
            assert told == (
                "/etc/mizzen/api-keys" if wanted and pod.role != "head" else "none" if serves else None
            )
            mounted = "api-keys" in {volume["name"] for volume in pod.spec["volumes"]}
            assert mounted is (wanted and pod.role != "head")


def test_keys_in_the_store_need_no_secret_and_a_test_only_where_it_has_a_key(chart: Chart) -> None:
    made = chart.render(settings=[ONE_APP, 'auth.source="store"'])
    assert "mizzen-api-keys" not in names_of_secrets(made)
    assert "Pod" not in {manifest["kind"] for manifest in made.manifests}
    for pod in made.pods:
        assert variables(dict(pod.main)).get("MIZZEN_API_KEYS") == (None if pod.role == "head" else "store")
        assert "api-keys" not in {volume["name"] for volume in pod.spec["volumes"]}
    tested = chart.render(settings=[ONE_APP, 'auth.source="store"', 'tests.existingSecret="a-key"'])
    (test,) = tested.of("Pod")
    (container,) = test["spec"]["containers"]
    assert variables(container)["MIZZEN_API_KEYS"] == "/etc/mizzen/api-keys"
    assert {"name": "api-keys", "secret": {"secretName": "a-key", "defaultMode": 288}} in test["spec"][
        "volumes"
    ]
    assert not names_of_secrets(tested) & {"a-key", "mizzen-api-keys"}


def test_the_head_holds_nothing_that_only_replicas_need(chart: Chart) -> None:
    for settings in ([], ['store.url="s3://models"', 'store.existingSecret="mine"']):
        made = chart.render(settings=[ONE_APP, *settings])
        head, worker = (next(pod for pod in made.pods if pod.role == role) for role in ("head", "worker"))
        assert not {"store", "api-keys"} & {volume["name"] for volume in head.spec["volumes"]}
        assert not head.main.get("envFrom")
        assert bool(worker.main.get("envFrom")) is bool(settings)
        assert ("store" in {volume["name"] for volume in worker.spec["volumes"]}) is not bool(settings)


def test_existing_secrets_are_used_and_none_is_made(chart: Chart) -> None:
    made = chart.render(PRODUCTION)
    assert not names_of_secrets(made)
    assert service(made)["rayClusterConfig"]["authOptions"] == {
        "mode": "token",
        "secretName": "mizzen-ray-token",
    }


def test_the_token_of_ray_does_not_change_its_name_with_the_cluster(chart: Chart) -> None:
    made = chart.render(settings=[ONE_APP])
    name = service(made)["rayClusterConfig"]["authOptions"]["secretName"]
    (kept,) = [one for one in made.of("Secret") if one["metadata"]["name"] == name]
    assert list(kept["data"]) == ["auth_token"]


# --- upgrades and fault tolerance -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "installed", "strategy"),
    [
        ([], (*KUBERAY, GATEWAY), "NewCluster"),
        (['serving.upgrade.strategy="None"'], (*KUBERAY, GATEWAY), "None"),
        (['serving.upgrade.gatewayClassName="istio"'], (*KUBERAY, GATEWAY), "NewCluster"),
        (
            [AUTOSCALING, 'serving.upgrade.gatewayClassName="istio"'],
            (*KUBERAY, GATEWAY),
            "NewClusterWithIncrementalUpgrade",
        ),
        ([AUTOSCALING, 'serving.upgrade.gatewayClassName="istio"'], KUBERAY, "NewCluster"),
    ],
)
def test_steps_are_taken_only_where_the_cluster_can_take_them(
    chart: Chart, settings: list[str], installed: tuple[str, ...], strategy: str
) -> None:
    made = service(chart.render(settings=[ONE_APP, *settings], installed=installed))
    assert made["upgradeStrategy"]["type"] == strategy
    assert ("clusterUpgradeOptions" in made["upgradeStrategy"]) is (
        strategy == "NewClusterWithIncrementalUpgrade"
    )


def test_a_new_version_of_the_chart_alone_replaces_no_pod(chart: Chart) -> None:
    for pod in chart.render(settings=[ONE_APP]).pods:
        if pod.is_ray:
            assert not {"app.kubernetes.io/version", "helm.sh/chart"} & set(pod.labels)


def test_the_head_keeps_the_label_by_which_kuberay_finds_it(chart: Chart) -> None:
    # The service `…-head-svc` of a RayService selects app.kubernetes.io/name=kuberay, whatever a pod says.
    for pod in chart.render(settings=[ONE_APP]).pods:
        if pod.is_ray:
            assert "app.kubernetes.io/name" not in pod.labels


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ([], None),
        (
            ['serving.faultTolerance={"mode": "redis", "redis": {"address": "redis:6379"}}'],
            {"backend": "redis", "redisAddress": "redis:6379"},
        ),
        (
            [
                'serving.faultTolerance={"mode": "redis", "redis": {"address": "redis:6379",'
                ' "existingSecret": "redis", "passwordKey": "pass"}}'
            ],
            {
                "backend": "redis",
                "redisAddress": "redis:6379",
                "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "pass"}}},
            },
        ),
        (
            ['serving.faultTolerance.mode="rocksdb"'],
            {"backend": "rocksdb", "storage": {"size": "1Gi"}},
        ),
        (
            ['serving.faultTolerance={"mode": "rocksdb", "rocksdb": {"storageClassName": "fast"}}'],
            {"backend": "rocksdb", "storage": {"size": "1Gi", "storageClassName": "fast"}},
        ),
        (
            [
                'serving.faultTolerance={"mode": "rocksdb", "rocksdb": {"claimName": "mine"}}',
                'serving.upgrade.strategy="None"',
            ],
            {"backend": "rocksdb", "storage": {"claimName": "mine"}},
        ),
    ],
)
def test_the_state_of_the_head_is_kept_where_the_values_say(
    chart: Chart, settings: list[str], options: dict[str, Any] | None
) -> None:
    made = service(chart.render(settings=[ONE_APP, *settings]))
    assert made["rayClusterConfig"].get("gcsFaultToleranceOptions") == options


# --- workers --------------------------------------------------------------------------------------


def test_a_group_says_only_what_is_different(chart: Chart) -> None:
    groups = (
        'serving.workerGroups=[{"name": "cpu"}, {"name": "gpu", "gpus": 2, "minReplicas": 0,'
        ' "maxReplicas": 3, "numCpus": 8}]'
    )
    made = service(chart.render(settings=[ONE_APP, groups, AUTOSCALING, 'gpuImage.repository="cuda"']))
    cpu, gpu = made["rayClusterConfig"]["workerGroupSpecs"]
    assert (cpu["minReplicas"], cpu["maxReplicas"]) == (1, 1)
    assert (gpu["replicas"], gpu["minReplicas"], gpu["maxReplicas"]) == (0, 0, 3)
    assert (cpu["rayStartParams"]["num-gpus"], gpu["rayStartParams"]["num-gpus"]) == ("0", "2")
    container = gpu["template"]["spec"]["containers"][0]
    assert container["image"] == "cuda:0.1.0-cuda"
    for part in ("requests", "limits"):
        assert container["resources"][part]["nvidia.com/gpu"] == 2
    assert "nvidia.com/gpu" not in cpu["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_without_autoscaling_there_are_as_many_workers_as_the_values_say(chart: Chart) -> None:
    settings = [ONE_APP, "serving.worker.maxReplicas=5"]
    (group,) = service(chart.render(settings=settings))["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (1, 1, 1)


def test_only_a_head_that_asks_for_workers_holds_a_token_of_the_cluster(chart: Chart) -> None:
    for settings, wanted in (([ONE_APP], False), ([ONE_APP, AUTOSCALING], True)):
        made = chart.render(settings=settings)
        tokens = {pod.role: pod.spec["automountServiceAccountToken"] for pod in made.pods}
        assert tokens == {"head": wanted, "worker": False, "Pod": False}


def test_the_cloud_gives_the_store_to_pods_that_need_it_alone(chart: Chart) -> None:
    settings = [ONE_APP, 'serviceAccount.annotations={"cloud": "role"}']
    accounts = {
        one["metadata"]["name"]: one["metadata"].get("annotations")
        for one in chart.render(settings=settings).of("ServiceAccount")
    }
    assert accounts == {"mizzen": {"cloud": "role"}, "mizzen-head": None, "mizzen-submitter": None}


def test_workers_that_count_alone_are_not_protected_from_a_drain(chart: Chart) -> None:
    apps = 'apps=[{"name": "shop", "model": "shop", "replicas": 3}]'
    assert not chart.render(settings=[ONE_APP]).of("PodDisruptionBudget")
    budget = chart.render(settings=[apps, "serving.worker.minReplicas=3"]).one("PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 2
    given = chart.render(
        settings=[apps, "serving.worker.minReplicas=3", "podDisruptionBudget.minAvailable=1"]
    ).one("PodDisruptionBudget")
    assert given["spec"]["minAvailable"] == 1


# --- the store and names --------------------------------------------------------------------------


def test_a_claim_is_made_only_for_a_store_that_needs_one(chart: Chart) -> None:
    claim = chart.render().one("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert not chart.render(settings=['store.url="gs://models"']).of("PersistentVolumeClaim")
    mine = chart.render(settings=[ONE_APP, 'store.persistence.existingClaim="mine"'])
    assert not mine.of("PersistentVolumeClaim")
    for pod in mine.pods:
        if pod.role == "worker":
            assert {"name": "store", "persistentVolumeClaim": {"claimName": "mine"}} in pod.spec["volumes"]


def test_endpoints_may_write_into_the_lake_of_a_volume_and_not_to_its_models(chart: Chart) -> None:
    for pod in chart.render(settings=[ONE_APP]).pods:
        if pod.role == "worker":
            mounts = [mount for mount in pod.main["volumeMounts"] if mount["name"] == "store"]
            assert mounts == [
                {"name": "store", "mountPath": "/var/lib/mizzen-store", "readOnly": True},
                {"name": "store", "mountPath": "/var/lib/mizzen-store/lake", "subPath": "lake"},
            ]


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("mizzen", "mizzen"),
        ("ml", "ml-mizzen"),
        ("7th.floor", "m7th-floor-mizzen"),
        ("a" * 46, "a" * 46),
        ("a" * 53, "a" * 47),
    ],
)
def test_names_are_such_that_kuberay_takes_them(chart: Chart, release: str, name: str) -> None:
    expected = name if len(release) < 46 else f"{release}-mizzen"[:47].rstrip("-")
    made = chart.render(settings=[ONE_APP], release=release)
    assert made.one("RayService")["metadata"]["name"] == expected


# --- the network ----------------------------------------------------------------------------------


def policies(made: Rendered) -> dict[str, dict[str, Any]]:
    """Network policies by the last part of their names."""
    return {one["metadata"]["name"].removeprefix("mizzen-"): one["spec"] for one in made.of("NetworkPolicy")}


def test_every_pod_is_closed_but_to_those_that_are_named(chart: Chart) -> None:
    found = policies(chart.render(settings=[ONE_APP, 'networkPolicy.clientNamespaces=["shop"]']))
    assert "ingress" not in found["default-deny"]
    (rule,) = found["endpoints"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8000}]
    namespaces = [peer["namespaceSelector"]["matchLabels"] for peer in rule["from"][1:]]
    assert namespaces == [
        {"kubernetes.io/metadata.name": "ingress-nginx"},
        {"kubernetes.io/metadata.name": "shop"},
    ]
    (rule,) = found["operator"]["ingress"]
    assert {port["port"] for port in rule["ports"]} == {8265, 8000}


def test_pods_that_serve_and_pods_that_train_do_not_reach_each_other(chart: Chart) -> None:
    found = policies(chart.render(settings=[ONE_APP]))
    for component in ("serving", "job"):
        own = found[component]["podSelector"]["matchLabels"]
        assert own["app.kubernetes.io/component"] == component
        (rule,) = found[component]["ingress"]
        assert [peer["podSelector"]["matchLabels"] for peer in rule["from"]] == [own]


def test_nobody_is_let_in_by_an_empty_list(chart: Chart) -> None:
    # In a NetworkPolicy, `from: []` would mean everybody.
    empty = ["ingressControllers", "monitoring", "operator"]
    found = policies(chart.render(settings=[ONE_APP, *(f"networkPolicy.{name}=[]" for name in empty)]))
    for spec in found.values():
        for rule in spec.get("ingress", []):
            assert rule["from"]


def test_connections_of_the_pods_can_be_closed_too(chart: Chart) -> None:
    assert "Egress" not in policies(chart.render(settings=[ONE_APP]))["default-deny"]["policyTypes"]
    closed = policies(chart.render(settings=[ONE_APP, AUTOSCALING, "networkPolicy.egress.restricted=true"]))
    assert "Egress" in closed["default-deny"]["policyTypes"]
    for spec in closed.values():
        for rule in spec.get("egress", []):
            assert rule["to"]
    assert closed["egress-head"]["podSelector"]["matchLabels"]["ray.io/node-type"] == "head"
    # Of jobs, those heads alone that `mizzen train` gives an autoscaler.
    assert closed["egress-job-head"]["podSelector"]["matchLabels"][AUTOSCALER_LABEL] == "true"
    assert closed["egress-job-head"]["egress"] == closed["egress-head"]["egress"]


def rights(made: Rendered) -> set[tuple[str, str, str]]:
    """What the role allows: group, resource, verb."""
    return {
        (group, resource, verb)
        for rule in made.one("Role")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(("settings", "more"), [([], set()), (["rbac.doctor=true"], {("", "pods")})])
def test_the_submitter_may_change_only_what_the_client_changes(
    chart: Chart, settings: list[str], more: set[tuple[str, str]]
) -> None:
    allowed = rights(chart.render(settings=settings))
    writing = {one for one in allowed if one[2] not in ("get", "list", "watch")}
    changed = {(group, resource) for group, resource, _ in writing}
    assert changed == {("ray.io", "rayjobs"), ("", "configmaps"), *more}
    assert not {one for one in allowed if "*" in one or one[1] == "secrets"}


def test_the_submitter_may_do_all_that_the_client_says_it_needs(chart: Chart) -> None:
    allowed = rights(chart.render(settings=["rbac.doctor=true"]))
    for _, verbs, kind in (*NEEDED, *PROBE_VERBS):
        for verb in verbs:
            assert (kind.group, kind.plural, verb) in allowed
