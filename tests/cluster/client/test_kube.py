"""The client against a server that plays the API: objects, pages, refusals, a server that is not there."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from mizzen.cluster import config
from mizzen.cluster.kube import CONFIG_MAPS, DEPLOYMENTS, PODS, RAY_JOBS, Kube, connect
from mizzen.errors import ClusterError, InputError, MizzenError, NotFoundError


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code}


def test_the_namespace_is_the_contexts_unless_one_is_named(kubeconfig: Path) -> None:
    assert connect(kubeconfig=kubeconfig).namespace == "team"
    assert connect("mine", kubeconfig=kubeconfig).namespace == "mine"
    assert connect(kubeconfig=kubeconfig, context="other").namespace == "default"


def test_a_list_is_read_page_by_page(api: Any, kube: Kube) -> None:
    for number in range(5):
        api.put(PODS, {"metadata": {"name": f"pod-{number}", "labels": {"a": "b"}}})
    api.put(PODS, {"metadata": {"name": "other"}})
    api.page_size = 2
    assert [pod["metadata"]["name"] for pod in kube.find(PODS, "a=b")] == [f"pod-{n}" for n in range(5)]
    assert [seen.query.get("continue") for seen in api.asked("GET", "/pods")] == [None, "2", "4"]


def test_all_namespaces_are_searched_when_asked_for(api: Any, kube: Kube) -> None:
    api.put(DEPLOYMENTS, {"metadata": {"name": "operator", "namespace": "elsewhere"}})
    assert kube.find(DEPLOYMENTS) == []
    assert [d["metadata"]["name"] for d in kube.find(DEPLOYMENTS, namespace="*")] == ["operator"]


def test_an_object_is_created_changed_and_deleted(api: Any, kube: Kube) -> None:
    made = kube.create(RAY_JOBS, {"metadata": {"name": "job", "annotations": {"a": "1"}}, "spec": {"x": 1}})
    assert made["metadata"]["uid"]
    kube.patch(RAY_JOBS, "job", {"metadata": {"annotations": {"b": "2"}}, "spec": {"x": 2}})
    found = kube.get(RAY_JOBS, "job")
    assert found["metadata"]["annotations"] == {"a": "1", "b": "2"}
    assert found["spec"] == {"x": 2}
    kube.delete(RAY_JOBS, "job")
    assert api.asked("DELETE", "/job")[0].body == {"propagationPolicy": "Background"}
    with pytest.raises(NotFoundError, match=r"no rayjobs\.ray\.io 'job' in the namespace 'team'"):
        kube.get(RAY_JOBS, "job")


def test_an_object_that_is_there_already_is_said_to_be(kube: Kube) -> None:
    kube.create(RAY_JOBS, {"metadata": {"name": "job"}})
    with pytest.raises(ClusterError, match=r"'job' in the namespace 'team' is there already.*HTTP 409"):
        kube.create(RAY_JOBS, {"metadata": {"name": "job"}})


FORBIDDEN = (
    'rayjobs.ray.io is forbidden: User "ann" cannot create resource "rayjobs" in API group "ray.io" in the'
    ' namespace "team"'
)
QUOTA = 'pods "p" is forbidden: exceeded quota: small, requested: pods=1, used: pods=4, limited: pods=4'
POLICY = 'pods "p" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true'


@pytest.mark.parametrize(
    ("code", "body", "kind", "words"),
    [
        (401, status(401, "Unauthorized", "Unauthorized"), ClusterError, ["credentials", "Log in again"]),
        (
            403,
            status(403, "Forbidden", FORBIDDEN),
            ClusterError,
            [
                "cannot create rayjobs.ray.io",
                "`create` `rayjobs.ray.io`",
                "'team'",
                "RoleBinding",
                "auth can-i",
            ],
        ),
        (403, status(403, "Forbidden", QUOTA), ClusterError, ["exceeded quota: small", "ResourceQuota"]),
        (403, status(403, "Forbidden", POLICY), ClusterError, ["runAsNonRoot != true", "policy"]),
        (404, b"404 page not found\n", ClusterError, ["does not know rayjobs.ray.io", "kuberay-operator"]),
        (
            404,
            status(404, "NotFound", 'namespaces "team" not found'),
            NotFoundError,
            ["no namespace 'team'", "--namespace"],
        ),
        (409, status(409, "Conflict", "the object has been modified"), ClusterError, ["Try again"]),
        (
            422,
            status(422, "Invalid", 'spec.jobId: Invalid value: "A"'),
            InputError,
            ["spec.jobId", "Correct the fields"],
        ),
        (
            400,
            status(400, "BadRequest", 'strict decoding error: unknown field "spec.x"'),
            InputError,
            ["spec.x"],
        ),
        (429, status(429, "TooManyRequests", "slow down"), ClusterError, ["overloaded"]),
        (500, b"<html>oops</html>", ClusterError, ["HTTP 500", "oops"]),
    ],
)
def test_a_refusal_says_what_was_asked_what_was_seen_and_what_to_do(
    api: Any, kube: Kube, code: int, body: Any, kind: type[MizzenError], words: list[str]
) -> None:
    api.refusals["POST", "rayjobs"] = (code, body)
    with pytest.raises(kind) as caught:
        kube.create(RAY_JOBS, {"metadata": {"name": "job"}})
    for word in words:
        assert word in str(caught.value)


def test_wrong_credentials_are_said_to_be(kubeconfig: Path) -> None:
    with pytest.raises(ClusterError, match="does not accept your credentials"):
        connect(kubeconfig=kubeconfig, context="other").find(PODS)


def test_a_server_that_is_not_there_is_named(kubeconfig: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        content = yaml.safe_load(kubeconfig.read_text())
        content["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{held.getsockname()[1]}"
        kubeconfig.write_text(yaml.safe_dump(content))
        with pytest.raises(ClusterError, match=r"cannot reach the Kubernetes API at http://127\.0\.0\.1"):
            connect(kubeconfig=kubeconfig).find(PODS)


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(kubeconfig: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        content = yaml.safe_load(kubeconfig.read_text())
        content["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        kubeconfig.write_text(yaml.safe_dump(content))
        kube = connect(kubeconfig=kubeconfig)
        kube.read_timeout_s = 0.1
        with pytest.raises(ClusterError, match="cannot reach"):
            kube.find(PODS)


def test_a_server_that_is_no_kubernetes_is_said_to_be(api: Any, kube: Kube) -> None:
    api.refusals["GET", "pods"] = (200, b"<html>welcome</html>")
    with pytest.raises(ClusterError, match="does not answer as a Kubernetes API"):
        kube.find(PODS)


def test_an_unknown_context_and_a_missing_file_are_explained(kubeconfig: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no usable Kubernetes configuration"):
        connect(kubeconfig=kubeconfig, context="nowhere")
    with pytest.raises(ClusterError, match="KUBECONFIG"):
        connect(kubeconfig=tmp_path / "absent")


# --- the release's configuration --------------------------------------------------------------------


def release(name: str, text: str = "{image: 'example/mizzen:1', release: NAME}") -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"{name}-jobs",
            "labels": {"mizzen.dev/config": "jobs", "app.kubernetes.io/instance": name},
        },
        "data": {"config.yaml": text.replace("NAME", name)},
    }


def test_the_only_release_is_taken(api: Any, kube: Kube) -> None:
    api.put(CONFIG_MAPS, release("blue"))
    api.put(CONFIG_MAPS, {"metadata": {"name": "unrelated"}})
    assert config.load(kube).release == "blue"


def test_of_several_releases_one_must_be_named(api: Any, kube: Kube) -> None:
    api.put(CONFIG_MAPS, release("blue"))
    api.put(CONFIG_MAPS, release("green"))
    assert config.load(kube, "green").release == "green"
    with pytest.raises(ClusterError, match=r"saw blue, green.*--release"):
        config.load(kube)
    with pytest.raises(NotFoundError, match=r"no Mizzen release 'red'.*blue, green"):
        config.load(kube, "red")


def test_without_a_release_the_chart_and_the_image_option_are_named(kube: Kube) -> None:
    with pytest.raises(NotFoundError, match=r"helm install.*--image"):
        config.load(kube)


@pytest.mark.parametrize(
    ("text", "words"),
    [("imag: x", "imag: no such field"), ("image: [", "is not YAML"), ("store: {url: 'a b'}", "store.url")],
)
def test_a_wrong_configuration_names_the_config_map_and_the_field(
    api: Any, kube: Kube, text: str, words: str
) -> None:
    api.put(CONFIG_MAPS, release("blue", text))
    with pytest.raises(InputError, match=words) as caught:
        config.load(kube)
    assert "'blue-jobs'" in str(caught.value)
