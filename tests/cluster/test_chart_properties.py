"""What holds for every pod and every name of a release, whatever values made it.

The pods are found by their shape, wherever a template stands, so that a new one is looked at too; RayJobs
that the client makes are among them. What a cluster does with them is not seen here.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from mizzen.cluster import config
from mizzen.serving.spec import ServeSpec

if TYPE_CHECKING:
    from conftest import Chart, Manifest, Pod, Rendered, Scenario

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"}
VOLUMES |= {"secret"}
"""What the restricted Pod Security Standard allows."""
WRITABLE = {
    "head": {"/tmp", "/dev/shm", "/var/lib/mizzen"},
    "worker": {"/tmp", "/dev/shm", "/var/lib/mizzen"},
}
LABELS = {f"app.kubernetes.io/{name}" for name in ("instance", "part-of", "component")}


# --- Pod Security Standard: restricted ------------------------------------------------------------


def violations(pod: Pod) -> Iterator[str]:
    """What the restricted standard refuses, field by field, and a writable root besides."""
    yield from _of_the_pod(pod.spec)
    shared = pod.spec.get("securityContext") or {}
    for container in [*pod.containers, *pod.spec.get("ephemeralContainers", [])]:
        for problem in _of_a_container(container, shared):
            yield f"{container['name']}: {problem}"


def _of_the_pod(spec: Mapping[str, Any]) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field
    for volume in spec.get("volumes", []):
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume['name']} is a {kind}"
    context = spec.get("securityContext") or {}
    if context.get("sysctls"):
        yield "sysctls"
    if context.get("seccompProfile", {}).get("type") == "Unconfined":
        yield "seccomp is off"
    if not context.get("runAsUser"):
        yield "no user, or root"
    if context.get("runAsGroup") == 0 or 0 in context.get("supplementalGroups", []):
        yield "root's group"


def _of_a_container(container: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[str]:
    own = container.get("securityContext") or {}
    context = {**shared, **own}
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "privileges may grow"
    if own.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "capabilities are kept"
    if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "may be root"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "no seccomp profile"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    if context.get("appArmorProfile", {}).get("type") == "Unconfined":
        yield "AppArmor is off"
    if set(context.get("seLinuxOptions", {})) & {"user", "role"}:
        yield "a user or role of SELinux"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "a process of the host"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "a port of the host"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "a writable root file system"


def test_every_pod_fits_the_restricted_pod_security_standard(rendered: Rendered) -> None:
    assert rendered.pods
    assert not [f"{pod.where}: {problem}" for pod in rendered.pods for problem in violations(pod)]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("hostNetwork",), True),
        (("hostPID",), True),
        (("volumes",), [{"name": "x", "hostPath": {"path": "/"}}]),
        (("securityContext", "runAsUser"), 0),
        (("securityContext", "seccompProfile"), {"type": "Unconfined"}),
        (("securityContext", "sysctls"), [{"name": "net.core.somaxconn", "value": "1"}]),
        (("containers", 0, "securityContext", "privileged"), True),
        (("containers", 0, "securityContext", "runAsUser"), 0),
        (("containers", 0, "securityContext", "runAsNonRoot"), False),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True),
        (("containers", 0, "securityContext", "capabilities"), {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
        (("containers", 0, "securityContext", "capabilities"), {}),
        (("containers", 0, "securityContext", "readOnlyRootFilesystem"), False),
        (("containers", 0, "securityContext", "procMount"), "Unmasked"),
        (("containers", 0, "ports"), [{"containerPort": 1, "hostPort": 1}]),
        (("initContainers",), [{"name": "x"}]),
    ],
)
def test_a_pod_that_does_not_fit_the_standard_is_found(
    chart: Chart, path: tuple[str | int, ...], value: Any
) -> None:
    pod = chart.render(settings=['apps=[{"name":"a","model":"a@production"}]']).pods[0]
    spec: Any = copy.deepcopy(dict(pod.spec))
    changed = type(pod)(pod.where, pod.role, pod.labels, spec)
    assert not list(violations(changed))
    for part in path[:-1]:
        spec = spec[part]
    spec[path[-1]] = value
    assert list(violations(changed))


def test_whatever_a_pod_writes_to_is_mounted(rendered: Rendered) -> None:
    for pod in rendered.pods:
        mounted = {mount["mountPath"]: mount for mount in pod.main.get("volumeMounts", [])}
        for path in WRITABLE.get(pod.role, {"/tmp"}):
            assert path in mounted, f"{pod.where} cannot write to {path}"
            assert not mounted[path].get("readOnly"), f"{pod.where}: {path} is read-only"
        for container in pod.containers:
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(paths) == len(set(paths)), f"{pod.where}, {container['name']}: {paths}"
            home = next((e["value"] for e in container.get("env", []) if e["name"] == "HOME"), None)
            under = [path for path in paths if home and (home + "/").startswith(path + "/")]
            assert under, f"{pod.where}, {container['name']}: HOME ({home}) is on the read-only root"


def test_memory_for_dev_shm_fits_into_the_container_s_limit(rendered: Rendered) -> None:
    for pod in rendered.pods:
        if not pod.is_ray:
            continue
        [shm] = [v for v in pod.spec["volumes"] if v.get("emptyDir", {}).get("medium") == "Memory"]
        limit = size_bytes(pod.main["resources"]["limits"]["memory"])
        assert size_bytes(shm["emptyDir"]["sizeLimit"]) <= limit / 2, pod.where


def test_volumes_are_mounted_and_mounts_have_volumes_of_limited_size(rendered: Rendered) -> None:
    for pod in rendered.pods:
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        mounted = {m["name"] for c in pod.containers for m in c.get("volumeMounts", [])}
        assert mounted == set(volumes), pod.where
        for name, volume in volumes.items():
            if "emptyDir" in volume:
                assert volume["emptyDir"].get("sizeLimit"), f"{pod.where}: {name} may fill the node's disk"


def test_every_container_asks_for_cpu_and_memory_and_has_limits(rendered: Rendered) -> None:
    for pod in rendered.pods:
        for container in pod.containers:
            where = f"{pod.where}, {container['name']}"
            resources = container["resources"]
            for kind in ("cpu", "memory"):
                asked, most = resources["requests"][kind], resources["limits"][kind]
                assert size_bytes(asked) <= size_bytes(most), f"{where}: {kind} {asked} of {most}"


def test_no_variable_stands_twice(rendered: Rendered) -> None:
    for pod in rendered.pods:
        for container in pod.containers:
            names = [variable["name"] for variable in container.get("env", [])]
            assert len(names) == len(set(names)), f"{pod.where}, {container['name']}: {sorted(names)}"


def test_a_service_account_token_is_only_where_the_autoscaler_needs_it(rendered: Rendered) -> None:
    for pod in rendered.pods:
        autoscales = any(container["name"] == "autoscaler" for container in pod.extra)
        assert pod.spec.get("automountServiceAccountToken") is autoscales, pod.where
    for account in rendered.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False, account["metadata"]["name"]


def test_no_probe_of_ray_s_containers_is_left_to_kuberay(rendered: Rendered) -> None:
    """Its own run bash, wget and grep, which an image need not have."""
    for pod in rendered.pods:
        if pod.is_ray:
            for probe in ("readinessProbe", "livenessProbe"):
                assert "httpGet" in pod.main.get(probe, {}), f"{pod.where} has no {probe}"


def test_a_worker_is_ready_only_while_its_own_proxy_answers(rendered: Rendered) -> None:
    for pod in rendered.pods:
        if pod.where.startswith("RayService") and pod.role == "worker":
            probe = pod.main["readinessProbe"]
            assert probe["httpGet"] == {"path": "/-/healthz", "port": "serve"}
            assert probe["periodSeconds"] * probe["failureThreshold"] <= 5


# --- names ----------------------------------------------------------------------------------------


def references(pod: Pod) -> Iterator[tuple[str, str]]:
    """Kind and name of everything that a pod names."""
    spec = pod.spec
    if "serviceAccountName" in spec:
        yield "ServiceAccount", spec["serviceAccountName"]
    for secret in spec.get("imagePullSecrets", []):
        yield "Secret", secret["name"]
    for volume in spec.get("volumes", []):
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in pod.containers:
        for source in container.get("envFrom", []):
            for kind, key in (("Secret", "secretRef"), ("ConfigMap", "configMapRef")):
                if key in source:
                    yield kind, source[key]["name"]
        for variable in container.get("env", []):
            for kind, key in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
                if key in variable.get("valueFrom", {}):
                    yield kind, variable["valueFrom"][key]["name"]


def texts(value: Any) -> Iterator[str]:
    """Every text in a piece of YAML."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)
    elif isinstance(value, str):
        yield value


def test_everything_that_a_pod_names_is_made_here_or_named_in_the_values(
    rendered: Rendered, scenario: Scenario
) -> None:
    given = set(texts(scenario.values))
    for pod in rendered.pods:
        for kind, name in references(pod):
            assert name in rendered.named(kind) | given, f"{pod.where} names the {kind} {name!r}"


def test_names_are_as_short_as_kuberay_asks_for(chart: Chart, scenario: Scenario) -> None:
    made = chart.render(*scenario.files, release="r" * 53)
    for manifest in made.manifests:
        name = manifest["metadata"]["name"]
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name), name
        assert len(name) <= (47 if manifest["kind"].startswith("Ray") else 63), name


def test_everything_has_the_standard_labels(rendered: Rendered) -> None:
    for manifest in rendered.manifests:
        labels = manifest["metadata"]["labels"]
        if not manifest["kind"].startswith("RayJob"):
            assert labels.keys() >= {
                *(f"app.kubernetes.io/{name}" for name in ("name", "instance", "version", "managed-by")),
                "helm.sh/chart",
            }, manifest["metadata"]["name"]
        assert labels["app.kubernetes.io/part-of"] == "mizzen"
        assert labels["app.kubernetes.io/instance"] == rendered.release
    for pod in rendered.pods:
        assert pod.labels.keys() >= LABELS, pod.where
        assert pod.labels["app.kubernetes.io/instance"] == rendered.release


def test_nothing_names_a_namespace_but_its_own(rendered: Rendered) -> None:
    for manifest in rendered.manifests:
        assert manifest["metadata"].get("namespace", rendered.namespace) == rendered.namespace
        assert not manifest["kind"].startswith("Cluster"), "a release needs no rights over the cluster"


# --- what is served, and what jobs are made with --------------------------------------------------


def test_the_serve_config_parses_with_ray_s_code_and_with_ours(
    rendered: Rendered, scenario: Scenario
) -> None:
    with warnings.catch_warnings():
        # Ray Serve defines its own fields in a way that pydantic has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        from ray.serve.schema import ServeDeploySchema

        from mizzen.serving.app import Arguments
    for service in rendered.of("RayService"):
        parsed = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
        assert {one.import_path for one in parsed.applications} == {"mizzen.serving.app:build"}
        arguments = [Arguments.model_validate(one.args) for one in parsed.applications]
        assert all(one.watch_every_s > 0 for one in arguments), "aliases would be read only once"
        wanted = ServeSpec.model_validate({"apps": scenario.values["apps"]})
        assert [one.app for one in arguments] == list(wanted.apps)
        routes = [(one.name, one.route_prefix) for one in parsed.applications]
        assert routes == [(app.name, app.route_prefix) for app in wanted.apps]


def test_a_laptop_s_serve_file_is_a_values_file(chart: Chart) -> None:
    made = chart.render(chart.path.parents[1] / "jobs" / "serve.yaml")
    config_text = made.one("RayService")["spec"]["serveConfigV2"]
    assert [one["name"] for one in yaml.safe_load(config_text)["applications"]] == [
        "recommendation",
        "forecasting",
        "chat",
    ]


def test_without_apps_there_is_no_ray_service_and_jobs_can_run(chart: Chart) -> None:
    made = chart.render()
    kinds = {manifest["kind"] for manifest in made.manifests}
    assert "RayService" not in kinds
    assert {"ConfigMap", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"} <= kinds


def test_what_the_release_says_about_jobs_is_what_its_own_pods_use(rendered: Rendered) -> None:
    [told] = [m for m in rendered.of("ConfigMap") if "mizzen.dev/config" in m["metadata"]["labels"]]
    jobs = config.parse(told["data"][config.CONFIG_KEY], "the ConfigMap")
    assert jobs.release == rendered.release
    for pod in rendered.pods:
        if pod.where.startswith("RayService"):
            environment = {e["name"]: e.get("value") for e in pod.main["env"]}
            assert environment["MIZZEN_STORE"] == jobs.store.url
            assert pod.main["image"] in (jobs.image, jobs.gpu_image)
    for account in {jobs.service_account} - {None}:
        assert account in rendered.named("ServiceAccount")


def test_ray_asks_for_a_token_that_outlives_an_upgrade(rendered: Rendered, scenario: Scenario) -> None:
    for service in rendered.of("RayService"):
        options = service["spec"]["rayClusterConfig"]["authOptions"]
        assert options["mode"] == "token"
        assert options["secretName"] in rendered.named("Secret") | set(texts(scenario.values))
    for secret in rendered.of("Secret"):
        if secret["metadata"]["name"].endswith("ray-token"):
            assert list(secret["data"]) == ["auth_token"]


def test_pods_that_serve_have_the_variables_that_serve_needs(rendered: Rendered) -> None:
    for pod in rendered.pods:
        if pod.where.startswith("RayService"):
            environment = {e["name"]: e.get("value") for e in pod.main["env"]}
            assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
            assert environment["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
            if pod.role == "worker":  # replicas run nowhere else
                mounted = {mount["mountPath"] for mount in pod.main["volumeMounts"]}
                assert environment["MIZZEN_API_KEYS"] in mounted
            # Else Serve gives an application up after three starts, though its first version is yet to come.
            assert int(environment["RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT"]) >= 10**6


def test_the_head_of_what_serves_is_handed_no_secret_but_ray_s_own(rendered: Rendered) -> None:
    """It holds no replica; who breaks into it should not find the store or the API keys there."""
    own = set()
    for service in rendered.of("RayService"):
        own.add(service["spec"]["rayClusterConfig"]["authOptions"]["secretName"])
    for pod in rendered.pods:
        if pod.where.startswith("RayService") and pod.role == "head":
            pull = {secret["name"] for secret in pod.spec.get("imagePullSecrets", [])}
            assert {name for kind, name in references(pod) if kind == "Secret"} <= own | pull


def test_a_generated_api_key_is_long_and_random(chart: Chart) -> None:
    made = [chart.template(settings=['auth.keyNames=["shop","test"]']).stdout for _ in range(2)]
    keys = []
    for text in made:
        secrets: list[Manifest] = [m for m in yaml.safe_load_all(text) if m and m["kind"] == "Secret"]
        [secret] = [s for s in secrets if s["metadata"]["name"].endswith("api-keys")]
        assert set(secret["data"]) == {"shop", "test"}
        keys += secret["data"].values()
    assert len(set(keys)) == 4
    assert all(len(key) >= 40 for key in keys)


_UNITS = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}


def size_bytes(quantity: str | int) -> float:
    """A quantity of Kubernetes as a number."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity))
    assert match is not None, f"{quantity} is no quantity"
    return float(match[1]) * _UNITS[match[2]]
