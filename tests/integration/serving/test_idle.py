"""`mizzen serve` with API keys, and with an app that goes to nothing when nobody asks."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

KEY = "a-key-that-is-long-enough"
APPS = [
    {"name": "busy", "model": "adder@production", "num_cpus": 0.1},
    {"name": "idle", "model": "adder", "num_cpus": 0.1, "replicas": {"min": 0, "max": 1, "idle_s": 0}},
]
IDLE_TIMEOUT_S = 150.0
"""Ray Serve averages over half a minute, and the machine may be busy with other tests."""


@pytest.fixture(scope="module")
def server(home, launch, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("keys")
    (folder / "team").write_text(KEY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIZZEN_API_KEYS", str(folder))
        home.publish({"constant": 100})
        server = launch(home, {"apps": APPS})
        server.wait_for("serving at")
        yield server


def replicas(server, client: httpx.Client, name: str) -> int:
    """How many replicas an app has, as the series say that any replica shows."""
    lines = client.get(f"{server.url}/busy/metrics").text.splitlines()
    counts = [line.split()[-1] for line in lines if re.match(rf'mizzen_model_info\{{.*app="{name}"', line)]
    return int(sum(map(float, counts)))


def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + IDLE_TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


def test_keys_are_demanded_on_this_machine_too(server, client):
    assert client.get(f"{server.url}/busy/docs").status_code == 401
    tried = [str(Path(sys.executable).with_name("mizzen")), "try", f"{server.url}/busy"]
    done = subprocess.run(tried, env=server.home.environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "answered in" in done.stdout) == (0, True), done.stderr


@pytest.mark.long
def test_a_reload_while_an_app_has_no_replica_is_what_its_next_one_answers_with(server, home, client):
    client.headers["x-api-key"] = KEY
    assert client.get(f"{server.url}/idle/readyz").json()["version"] == 1
    until(lambda: replicas(server, client, "idle") == 0)
    manifest = home.publish({"constant": 200})
    assert server.reload() == f"reloaded: adder@{manifest.version}, adder@{manifest.version}"
    response = client.post(f"{server.url}/idle/v1/add", json={"values": [1]}, timeout=120.0)
    assert (response.status_code, response.json()["total"]) == (200, 201)
    assert response.headers["mizzen-version"] == str(manifest.version)


def test_without_a_key_in_the_folder_nothing_is_started(home, launch, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MIZZEN_API_KEYS", str(tmp_path))
    server = launch(home, {"apps": APPS})
    assert "openssl rand" in server.wait_for("no API key")
    assert server.stop() != 0
