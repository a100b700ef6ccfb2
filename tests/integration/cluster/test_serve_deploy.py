"""A RayService's road on a Ray cluster, started as KubeRay starts it: `serve deploy`, then requests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from mizzen.local_ray import free_port
from mizzen.serving.local import reason
from mizzen.store.store import ModelStore

BIN = Path(sys.executable).parent
KEY = "a-key-that-is-long-enough"
BEARER = {"authorization": f"Bearer {KEY}"}
WATCH_EVERY_S = 1
WAIT_S = 240.0
"""Generous: the machine may be busy with other tests."""


def app(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "model": "adder@production", "route_prefix": f"/{name}", "num_cpus": 0.1, **fields}


@dataclass
class Service:
    """What a RayService is: a cluster, and the configuration that it was given last."""

    cluster: Any
    home: Any
    folder: Path
    url: str

    def deploy(self, *apps: dict[str, Any]) -> None:
        """Apply `apps` as the chart writes them, with the command that stands for KubeRay here."""
        applications = [
            {
                "name": one["name"],
                "route_prefix": one["route_prefix"],
                "import_path": "mizzen.serving.app:build",
                "args": {
                    "app": one,
                    "store_url": self.home.settings.store_url,
                    "watch_every_s": WATCH_EVERY_S,
                },
            }
            for one in apps
        ]
        # All nodes share this machine's ports here, so the head alone listens.
        here = {"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1", "port": self.port}}
        file = self.folder / "serve.yaml"
        file.write_text(yaml.safe_dump({**here, "applications": applications}))
        deadline_s = time.monotonic() + WAIT_S
        while (refused := self._serve("deploy", str(file))).returncode:
            # On a busy machine Serve's own start may take it too long; KubeRay asks again too.
            assert time.monotonic() < deadline_s, refused.stderr

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def status(self, name: str) -> dict[str, Any]:
        """What Serve says of an application, as KubeRay asks for it."""
        found: dict[str, Any] = self.cluster.get("/api/serve/applications/")["applications"][name]
        return found

    def why(self, name: str) -> str:
        """The reason in it."""
        return why(self.status(name))

    def printed_status(self, name: str) -> dict[str, Any]:
        """What `serve status` prints of an application."""
        found: dict[str, Any] = yaml.safe_load(self._serve("status").stdout)["applications"][name]
        return found

    def _serve(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **self.cluster.client_environment}
        command = [str(BIN / "serve"), arguments[0], "--address", self.cluster.address, *arguments[1:]]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=WAIT_S)


def why(status: dict[str, Any]) -> str:
    """The reason in an application's status."""
    return reason(
        [status["message"], *(deployment["message"] for deployment in status["deployments"].values())]
    )


def until(true: Callable[[], Any], what: Callable[[], Any]) -> None:
    """Wait for something that happens in other processes and cannot tell us."""
    deadline_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline_s, what()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of keys, mounted as a Secret."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "..2026").mkdir()
    (folder / "..2026" / "team").write_text(KEY + "\n")
    (folder / "..data").symlink_to("..2026")
    (folder / "team").symlink_to("..data/team")
    return folder


@pytest.fixture(scope="module")
def service(start_kuberay, home, site, keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    # Short, because HAProxy makes a socket below it.
    folder = Path(tempfile.mkdtemp(prefix="mzh-", dir="/tmp"))
    variables = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1000000",
        "PYTHONPATH": str(site),
        "MIZZEN_STORE": home.settings.store_url,
        "MIZZEN_API_KEYS": str(keys),
        # Fixed in a pod, where nobody else listens or writes.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
    }
    cluster = start_kuberay(workers=1, num_cpus=2, variables=variables)
    yield Service(cluster, home, tmp_path_factory.mktemp("service"), f"http://127.0.0.1:{free_port()}")
    cluster.stop()
    # In a pod it goes with the pod; here an HAProxy that has just replaced another may outlive Ray.
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in part for part in process.cmdline()):
                process.kill()
    shutil.rmtree(folder)


@pytest.fixture
def ask(service: Service):
    """A request with the key."""
    with httpx.Client(timeout=WAIT_S, trust_env=False, headers=BEARER) as client:

        def send(path: str, **options: Any) -> httpx.Response:
            return client.request("POST" if "json" in options else "GET", service.url + path, **options)

        yield send


def test_an_app_without_a_version_says_so_and_comes_up_once_there_is_one(service, home, ask):
    service.deploy(app("adder", replicas=2))
    until(lambda: "has no model 'adder'" in service.why("adder"), lambda: service.status("adder"))
    assert "has no model 'adder'" in why(service.printed_status("adder"))
    home.publish({"constant": 100})
    published_s = time.monotonic()
    until(lambda: ask("/adder/readyz").is_success, lambda: service.status("adder"))
    print(f"up {time.monotonic() - published_s:.1f} s after publishing")
    assert ask("/adder/v1/add", json={"values": [1]}).json()["total"] == 101
    until(lambda: service.status("adder")["status"] == "RUNNING", lambda: service.status("adder"))


def test_the_ingress_answers_as_it_does_on_a_laptop(service):
    with httpx.Client(timeout=WAIT_S, trust_env=False) as stranger:
        nowhere = stranger.get(f"{service.url}/nowhere")
        named = stranger.get(f"{service.url}/adder/healthz", headers={"x-request-id": "mine"})
    assert (nowhere.status_code, nowhere.headers["content-type"]) == (404, "application/json")
    assert nowhere.json()["error"]["code"] == "not_found"
    assert named.headers["mizzen-request-id"] == "mine"
    for answer in (nowhere, named):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


def test_only_who_has_a_key_is_answered_but_probes_are(service, ask, keys):
    with httpx.Client(timeout=WAIT_S, trust_env=False, base_url=service.url) as stranger:
        for path in ("/adder/docs", "/adder/openapi.json", "/adder/metrics", "/adder/examples"):
            assert stranger.get(path).status_code == 401
        refused = stranger.post("/adder/v1/add", json={"values": [1]}, headers={"x-api-key": "b" * 24})
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert stranger.get("/adder/healthz").is_success
        assert stranger.get("/adder/readyz").is_success
        assert stranger.get("/adder/examples", headers={"x-api-key": KEY}).is_success
        (keys / "..2027").mkdir()
        (keys / "..2027" / "team").write_text(KEY)
        (keys / "..2027" / "second").write_text("another-key-that-is-long-enough")
        (keys / "second").symlink_to("..data/second")
        (keys / "..new").symlink_to("..2027")
        (keys / "..new").rename(keys / "..data")
        second = {"authorization": "bearer another-key-that-is-long-enough"}
        until(lambda: stranger.get("/adder/examples", headers=second).is_success, lambda: "refused")
    assert ask("/adder/examples").json() == [{"path": "/v1/add", "body": {"values": [1, 2, 100]}}]
    counted = ask("/adder/metrics").text
    assert 'code="401"' in counted
    assert KEY not in counted


def test_no_request_fails_when_the_alias_moves(service, home, load_on):
    store = ModelStore(home.settings.store_url)
    second = home.publish({"constant": 200}, alias=None)
    with load_on([f"{service.url}/adder"], BEARER) as load:
        load.wait_for_more()
        for version, constant in ((second.version, 200), (1, 100)):
            store.set_alias("adder", version, "production")
            moved_s, before = time.monotonic(), len(load.answers)
            until(
                lambda version=version: {seen for _, _, seen, _ in load.answers[-30:]} == {str(version)},
                lambda: Counter(load.answers[-100:]),
            )
            print(f"all answers from {version} after {time.monotonic() - moved_s:.1f} s")
            seen = [(version, total) for _, _, version, total in load.answers[before:]]
            assert set(seen) <= {("1", 101), ("2", 201)}
            assert seen[-1] == (str(version), constant + 1)
        load.wait_for_more()
    print(f"{len(load.answers)} requests")
    assert load.problems == []
    assert Counter(status for _, status, _, _ in load.answers) == {200: len(load.answers)}


def test_a_version_that_cannot_be_loaded_is_counted_and_the_one_before_goes_on(service, home, ask):
    broken = home.publish({"nothing": "of use"})
    line = f'mizzen_reload_failures_total{{app="adder",model="adder",version="{broken.version}"}}'
    until(lambda: line in ask("/adder/metrics").text, lambda: ask("/adder/metrics").text)
    assert ask("/adder/readyz").json()["version"] == 1
    mended = home.publish({"constant": 400})
    until(lambda: ask("/adder/readyz").json()["version"] == mended.version, lambda: "not taken over")


def test_a_broken_app_says_why_and_the_others_go_on(service, ask):
    service.deploy(app("adder", replicas=2), app("broken", options={"fail_at_start": True}))
    until(lambda: "was told not to start" in service.why("broken"), lambda: service.status("broken"))
    assert ask("/adder/v1/add", json={"values": [1]}).is_success
    service.deploy(app("adder", replicas=2))


def test_the_sidecar_sees_the_replicas_of_its_pod(service, home):
    (worker,) = service.cluster.workers
    shown = mizzen("metrics", "--once", MIZZEN_HOME=str(worker.home)).stdout
    assert re.search(r'^mizzen_model_info\{.*app="adder",.* 2\.0$', shown, re.MULTILINE), shown
    head = mizzen("metrics", "--once", MIZZEN_HOME=str(service.cluster.head.home)).stdout
    assert "mizzen_build_info" in head and 'app="adder"' not in head


def test_every_endpoint_can_be_tried_as_helm_test_does_it(service, keys):
    answered = mizzen("try", f"{service.url}/adder", "--api-key-file", str(keys / "team"), "--json")
    assert answered.returncode == 0, answered.stderr
    (trial,) = json.loads(answered.stdout)
    assert (trial["model"], trial["path"]) == ("adder", "/v1/add")
    absent = mizzen(
        "try", f"{service.url}/adder", f"{service.url}/no", "--timeout", "3", MIZZEN_API_KEYS=str(keys)
    )
    assert absent.returncode == 7
    assert f"{service.url}/adder" in absent.stdout
    assert f"{service.url}/no/readyz did not answer in time" in absent.stderr


def mizzen(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **variables}
    return subprocess.run(
        [str(BIN / "mizzen"), *arguments], env=environ, capture_output=True, text=True, timeout=WAIT_S
    )


def test_an_idle_app_goes_to_nothing_and_the_next_request_brings_it_back(service, ask):
    scaling = {"min": 0, "max": 2, "idle_s": 1}
    service.deploy(app("adder", replicas=1), app("idle", replicas=scaling))
    until(lambda: ask("/idle/readyz").is_success, lambda: service.status("idle"))
    started_s = time.monotonic()
    until(lambda: not replicas(service, "idle"), lambda: service.status("idle"))
    print(f"at zero after {time.monotonic() - started_s:.1f} s")
    assert service.status("idle")["status"] == "RUNNING"
    asked_s = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: ask("/idle/v1/add", json={"values": [n]}), range(8)))
    print(f"answered {time.monotonic() - asked_s:.1f} s after the first request")
    assert Counter(answer.status_code for answer in answers) == {200: 8}
    assert ask("/adder/readyz").is_success


def replicas(service: Service, name: str) -> list[str]:
    """The states of an application's replicas."""
    (deployment,) = service.status(name)["deployments"].values()
    return [replica["state"] for replica in deployment["replicas"]]
