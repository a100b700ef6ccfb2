"""What serving locally says, without starting anything."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mizzen.errors import NotFoundError, ServingError
from mizzen.local_ray import free_port
from mizzen.serving import local
from mizzen.serving.spec import parse
from mizzen.settings import read

SERVE_SAYS = """The deployment failed to start 1 times in a row. See controller logs for details. Error:
ray::ServeReplica:adder:model.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
  File "app.py", line 120, in reconfigure
    self.switch.swap(await self._load(wanted))
  File "loading.py", line 80, in load
mizzen.errors.ServingError: the execution provider CUDA is not on this machine; saw 0 CUDA devices

The above exception was the direct cause of the following exception:

RuntimeError: Traceback (most recent call last):
"""


def test_the_reason_is_the_exception_behind_serves_messages():
    said = local.reason(["", SERVE_SAYS])
    assert said == "the execution provider CUDA is not on this machine; saw 0 CUDA devices"


def test_an_exception_of_another_kind_is_named():
    assert local.reason(["x\nKeyError: 'constant'\n"]) == "KeyError: 'constant'"


def test_a_message_without_an_exception_is_passed_on():
    assert local.reason(["no room left for replicas"]) == "no room left for replicas"
    assert local.reason([""])


def test_a_port_in_use_is_an_error_before_anything_starts(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        spec = parse({"http": {"port": port}, "apps": [{"name": "a", "model": "a"}]}, "serve.yaml")
        with pytest.raises(ServingError, match=rf"port {port} .*http\.port"):
            local.start(spec, read({"MIZZEN_HOME": str(tmp_path)}))
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_not_there_is_an_error_before_anything_starts(tmp_path: Path):
    spec = parse({"http": {"port": free_port()}, "apps": [{"name": "a", "model": "a"}]}, "serve.yaml")
    with pytest.raises(NotFoundError, match="no model 'a'"):
        local.start(spec, read({"MIZZEN_HOME": str(tmp_path)}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keys", ["", "none"])
def test_an_address_that_others_reach_is_refused_without_keys_before_anything_starts(
    tmp_path: Path, keys: str
):
    http = {"host": "0.0.0.0", "port": free_port()}
    spec = parse({"http": http, "apps": [{"name": "a", "model": "a"}]}, "serve.yaml")
    with pytest.raises(ServingError, match=r"no API keys.*MIZZEN_API_KEYS=store"):
        local.start(spec, read({"MIZZEN_HOME": str(tmp_path), "MIZZEN_API_KEYS": keys}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::"])
def test_replicas_listen_on_loopback_whoever_reaches_the_ingress(host: str):
    spec = parse({"http": {"host": host}, "apps": [{"name": "a", "model": "m"}]}, "serve.yaml")

    class Pinned:
        name, version, digest = "m", 3, "d" * 64

    made = local.schema(spec, {"a": Pinned()}, "file:///s")  # type: ignore[dict-item]
    assert made["http_options"] == {"host": "127.0.0.1", "port": 8000}


def test_only_servers_that_are_alive_are_found(tmp_path: Path):
    settings = read({"MIZZEN_HOME": str(tmp_path)})
    with pytest.raises(NotFoundError, match="nothing is being served"):
        local.signal_reload(settings)
    settings.run_dir.mkdir()
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    alive = {"pid": os.getpid(), "url": "http://127.0.0.1:8000"}
    dead = {"pid": finished.pid, "url": "http://127.0.0.1:8001"}
    (settings.run_dir / "serve-8000.json").write_text(json.dumps(alive))
    (settings.run_dir / "serve-8001.json").write_text(json.dumps(dead))
    assert local.running(settings) == [local.Running(os.getpid(), "http://127.0.0.1:8000")]
    assert not (settings.run_dir / "serve-8001.json").exists()


def test_what_serve_runs_is_one_application_a_model_with_the_version_in_the_user_config():
    spec = parse({"apps": [{"name": "a", "model": "m@production", "replicas": 2}]}, "serve.yaml")

    class Pinned:
        name, version, digest = "m", 3, "d" * 64

    (application,) = local.schema(spec, {"a": Pinned()}, "file:///s")["applications"]  # type: ignore[dict-item]
    assert application["route_prefix"] == "/a"
    assert application["import_path"] == "mizzen.serving.app:build"
    assert application["args"]["store_url"] == "file:///s"
    assert application["deployments"] == [
        {"name": "model", "user_config": {"name": "m", "version": 3, "digest": "d" * 64}}
    ]
