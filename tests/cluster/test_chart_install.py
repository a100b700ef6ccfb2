"""Installing and upgrading with the real helm, against an HTTP server that plays the API.

What a rendered text alone cannot tell: that the chart asks the cluster which operators there are, that
generated keys stay when the release is upgraded, and what helm prints at the end. Nothing is created.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Chart

SERVE_FILE = Path(__file__).resolve().parents[2] / "jobs" / "serve.yaml"
PRODUCTION = Path(__file__).resolve().parents[2] / "helm" / "mizzen" / "ci" / "production-values.yaml"
KINDS = {
    "v1": ["Secret", "ConfigMap", "ServiceAccount", "PersistentVolumeClaim", "Pod"],
    "policy/v1": ["PodDisruptionBudget"],
    "networking.k8s.io/v1": ["NetworkPolicy", "Ingress"],
    "rbac.authorization.k8s.io/v1": ["Role", "RoleBinding"],
}
KUBERAY = {"ray.io/v1": ["RayJob", "RayService", "RayCluster"]}
PROMETHEUS = {"monitoring.coreos.com/v1": ["PodMonitor", "ServiceMonitor", "PrometheusRule"]}
OURS = {"meta.helm.sh/release-name": "mizzen", "meta.helm.sh/release-namespace": "ml"}


def plural(kind: str) -> str:
    """The resource of a kind."""
    return {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}.get(kind, f"{kind.lower()}s")


@dataclass
class Cluster:
    """What the server says there is."""

    kinds: Mapping[str, list[str]]
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    """Secrets of the namespace: plain values by name."""
    url: str = ""
    kubeconfig: Path = Path()

    def discovery(self) -> dict[str, Any]:
        """Which kinds there are, as the API server says it."""
        groups = [self._group(version) for version in self.kinds if "/" in version]
        answers: dict[str, Any] = {
            "/version": {"major": "1", "minor": "36", "gitVersion": "v1.36.2"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
        }
        for version, kinds in self.kinds.items():
            listed = [
                {"name": plural(kind), "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get"]}
                for kind in kinds
            ]
            path = f"/apis/{version}" if "/" in version else f"/api/{version}"
            answers[path] = {"kind": "APIResourceList", "groupVersion": version, "resources": listed}
        return answers

    def object(self, path: str) -> dict[str, Any] | None:
        """The object at a path, if there is one."""
        *_, resource, name = path.split("/")
        if resource == "serviceaccounts" and name == "default":
            return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        if resource == "secrets" and name in self.secrets:
            data = {
                key: base64.b64encode(value.encode()).decode() for key, value in self.secrets[name].items()
            }
            labels = {"app.kubernetes.io/managed-by": "Helm"}
            metadata = {"name": name, "namespace": "ml", "labels": labels, "annotations": OURS}
            return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
        if name == "secrets":  # helm looks for its releases
            return {"apiVersion": "v1", "kind": "SecretList", "metadata": {}, "items": []}
        return None

    @staticmethod
    def _group(version: str) -> dict[str, Any]:
        name, number = version.split("/")
        known = {"groupVersion": version, "version": number}
        return {"name": name, "versions": [known], "preferredVersion": known}


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            content = cluster.discovery().get(path) or cluster.object(path)
            missing = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "reason": "NotFound",
                "code": 404,
            }
            body = json.dumps(content or missing).encode()
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: pytest's output is for people."""

    return Handler


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with KubeRay; a test may change what it holds."""
    made = Cluster({**KINDS, **KUBERAY})
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    made.url = f"http://127.0.0.1:{server.server_port}"
    made.kubeconfig = tmp_path / "kubeconfig"
    context = {"cluster": "played", "user": "nobody"}
    made.kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "played", "cluster": {"server": made.url}}],
                "users": [{"name": "nobody", "user": {"token": "none"}}],
                "contexts": [{"name": "played", "context": context}],
                "current-context": "played",
            }
        )
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def install(
    chart: Chart, cluster: Cluster, version: str, values: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    """`helm install`, which asks the cluster and changes nothing."""
    arguments: list[str | Path] = ["install", "mizzen", chart.path, "--namespace", "ml", "--values", values]
    arguments += ["--dry-run=server", "--disable-openapi-validation", "--kubeconfig", cluster.kubeconfig]
    return chart.helm(*arguments, *more, version=version)


def manifests(said: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The manifests that helm printed."""
    assert said.returncode == 0, said.stderr
    text = said.stdout.partition("MANIFEST:\n")[2].partition("\nNOTES:\n")[0]
    return [one for one in yaml.safe_load_all(text) if one]


def secret(found: list[dict[str, Any]], name: str) -> dict[str, str]:
    """The plain values of a Secret."""
    data = next(one["data"] for one in found if one["kind"] == "Secret" and one["metadata"]["name"] == name)
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def test_an_operator_that_the_cluster_has_is_found(chart: Chart, cluster: Cluster, helm_version: str) -> None:
    made = manifests(install(chart, cluster, helm_version, SERVE_FILE))
    assert [one["metadata"]["name"] for one in made if one["kind"] == "RayService"] == ["mizzen"]


def test_an_operator_that_the_cluster_has_not_is_named(
    chart: Chart, cluster: Cluster, helm_version: str
) -> None:
    cluster.kinds = KINDS
    said = install(chart, cluster, helm_version, SERVE_FILE)
    assert said.returncode != 0
    assert "has no KubeRay" in said.stderr
    assert "helm install kuberay-operator" in said.stderr


def test_what_was_generated_stays_when_the_release_is_upgraded(
    chart: Chart, cluster: Cluster, helm_version: str
) -> None:
    first = manifests(install(chart, cluster, helm_version, SERVE_FILE))
    keys, token = secret(first, "mizzen-api-keys"), secret(first, "mizzen-ray-token")
    cluster.secrets = {"mizzen-api-keys": keys, "mizzen-ray-token": token}
    again = manifests(install(chart, cluster, helm_version, SERVE_FILE))
    assert secret(again, "mizzen-api-keys") == keys
    assert secret(again, "mizzen-ray-token") == token


def test_a_key_that_is_added_leaves_the_others_as_they_are(
    chart: Chart, cluster: Cluster, helm_version: str
) -> None:
    cluster.secrets = {"mizzen-api-keys": {"default": "as-it-was"}}
    more = ("--set", "auth.keyNames={default,shop}")
    keys = secret(manifests(install(chart, cluster, helm_version, SERVE_FILE, *more)), "mizzen-api-keys")
    assert keys["default"] == "as-it-was"
    assert len(keys["shop"]) == 40


def test_two_releases_never_share_a_generated_key(chart: Chart, cluster: Cluster, helm_version: str) -> None:
    one, other = (
        secret(manifests(install(chart, cluster, helm_version, SERVE_FILE)), "mizzen-api-keys")
        for _ in range(2)
    )
    assert one["default"] != other["default"]


def test_the_notes_say_what_to_type_next(chart: Chart, cluster: Cluster, helm_version: str) -> None:
    notes = install(chart, cluster, helm_version, SERVE_FILE).stdout.partition("\nNOTES:\n")[2]
    for command in (
        "mizzen doctor --on kubernetes --namespace ml",
        "mizzen train jobs/recommendation.yaml --on kubernetes --namespace ml --follow",
        "kubectl wait --namespace ml --for=condition=Ready rayservice/mizzen",
        "mizzen status --on kubernetes --namespace ml",
        "helm test mizzen --namespace ml",
        "kubectl get secret --namespace ml mizzen-api-keys -o jsonpath='{.data.default}' | base64 -d",
        "mizzen try --api-key-file api-key http://localhost:8000/recommendation",
    ):
        assert command in notes
    assert "WARNING" not in notes


def test_the_notes_say_how_to_make_a_key_in_the_store(
    chart: Chart, cluster: Cluster, helm_version: str
) -> None:
    said = install(chart, cluster, helm_version, SERVE_FILE, "--set", "auth.source=store")
    notes = said.stdout.partition("\nNOTES:\n")[2]
    assert "mizzen keys create NAME > api-key" in notes
    assert "mizzen try --api-key-file api-key http://localhost:8000/recommendation" in notes
    assert "kubectl get secret" not in notes
    assert "helm test" not in notes


def test_the_notes_of_a_release_without_apps_say_how_to_serve(
    chart: Chart, cluster: Cluster, helm_version: str, tmp_path: Path
) -> None:
    nothing = tmp_path / "values.yaml"
    nothing.write_text("{}")
    notes = install(chart, cluster, helm_version, nothing).stdout.partition("\nNOTES:\n")[2]
    assert "Nothing is served yet." in notes
    assert "rayservice/" not in notes


def test_the_notes_name_secrets_that_are_not_there(chart: Chart, cluster: Cluster, helm_version: str) -> None:
    cluster.kinds = {**KINDS, **KUBERAY, **PROMETHEUS}
    cluster.secrets = {"mizzen-api-keys": {"shop": "key"}}
    notes = install(chart, cluster, helm_version, PRODUCTION).stdout.partition("\nNOTES:\n")[2]
    assert "WARNING: store.existingSecret names the Secret mizzen-store-credentials" in notes
    assert "WARNING: ray.tokenAuth.existingSecret names the Secret mizzen-ray-token" in notes
    assert "auth.existingSecret names the Secret mizzen-api-keys" not in notes


@pytest.mark.parametrize(
    ("setting", "warning"),
    [
        ("auth.enabled=false,auth.allowAnonymous=true", "endpoints answer to everybody"),
        ("ray.tokenAuth.enabled=false", "whoever reaches Ray's ports can run code"),
        ("networkPolicy.enabled=false", "every pod of the cluster reaches Ray's ports"),
    ],
)
def test_the_notes_warn_of_doors_that_were_opened(
    chart: Chart, cluster: Cluster, setting: str, warning: str, helm_version: str
) -> None:
    said = install(chart, cluster, helm_version, SERVE_FILE, "--set", setting)
    assert f"WARNING: {warning}" in said.stdout
