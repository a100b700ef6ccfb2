"""What serving locally says, without starting anything."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mizzen.errors import NotFoundError, ServingError
from mizzen.local_ray import free_port
from mizzen.serving import local
from mizzen.serving.pins import Resolved
from mizzen.serving.spec import parse
from mizzen.settings import read

PIN = {"name": "m", "version": 3, "digest": "d" * 64}
THIRD: Any = SimpleNamespace(**PIN)
"""What is asked of a manifest here."""
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

    made = local.schema(spec, {"a": Resolved(THIRD)}, "file:///s")
    assert made["http_options"] == {"host": "127.0.0.1", "port": 8000}


def test_what_serve_runs_is_one_application_a_model_with_the_version_in_the_user_config():
    spec = parse({"apps": [{"name": "a", "model": "m@production", "replicas": 2}]}, "serve.yaml")

    (application,) = local.schema(spec, {"a": Resolved(THIRD)}, "file:///s")["applications"]
    assert application["route_prefix"] == "/a"
    assert application["import_path"] == "mizzen.serving.app:build"
    assert application["args"]["store_url"] == "file:///s"
    assert application["deployments"] == [
        {"name": "model", "user_config": {"first": PIN, "canary": None, "shadow": None}}
    ]


def test_a_canary_stands_where_a_change_of_it_restarts_no_replica():
    app = {"name": "a", "model": "m@production", "canary": {"model": "m@candidate", "weight": 0.1}}
    shadowed = {**app, "shadow": {"model": "m@4", "share": 0.5}}
    made = []
    for one in (app, {**app, "canary": {"model": "m@candidate", "weight": 0.2}}, shadowed):
        spec = parse({"apps": [one]}, "serve.yaml")
        (application,) = local.schema(spec, {"a": Resolved(THIRD, THIRD, THIRD)}, "file:///s")["applications"]
        made.append(application)
    assert made[0]["args"] == made[1]["args"] == made[2]["args"]
    told = [one["deployments"][0]["user_config"] for one in made]
    assert [one["canary"]["canary"]["weight"] for one in told] == [0.1, 0.2, 0.1]
    assert told[0]["canary"]["pin"] == PIN
    assert [one["shadow"] and one["shadow"]["shadow"]["share"] for one in told] == [None, None, 0.5]
