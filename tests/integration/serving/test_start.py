"""Starting and stopping: reasons instead of hangs, and nothing is left behind."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest

APP = {"name": "adder", "model": "adder@production", "num_cpus": 0.1}


@pytest.fixture(autouse=True, scope="module")
def published(home):
    home.publish({"constant": 100})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_that_was_started(home, launch, client, number):
    server = launch(home, {"apps": [APP]})
    server.wait_for("serving at")
    url = f"{server.url}/adder/readyz"
    assert client.get(url).is_success
    file = home.settings.run_dir / f"serve-{server.spec['http']['port']}.json"
    assert json.loads(file.read_text())["pid"] == server.process.pid
    tree = server.tree()
    folders = {
        Path(part.removeprefix("--session-dir=")).parents[1]
        for process in tree
        for part in process.cmdline()
        if part.startswith("--session-dir=")
    }
    assert len(folders) == 1
    assert server.stop(number) == 0
    assert server.lines[-2] == "stopped"
    _, alive = psutil.wait_procs(tree, timeout=5)
    assert [process.cmdline() for process in alive] == []
    assert not file.exists()
    assert not any(folder.exists() for folder in folders)


def test_a_killed_server_leaves_no_process_behind(home, launch):
    server = launch(home, {"apps": [APP]})
    server.wait_for("serving at")
    tree = server.tree()
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(timeout=30)
    # Ray's agents look for their parent now and then; on a busy machine that takes them a while.
    _, alive = psutil.wait_procs(tree, timeout=180)
    assert [process.cmdline() for process in alive] == []


def test_a_replica_that_cannot_start_gives_its_reason(home, launch):
    failing = {**APP, "name": "failing", "options": {"fail_at_start": True}}
    server = launch(home, {"apps": [APP, failing]})
    said = server.wait_for("failed:")
    reason = "failing cannot be served: the adder was told not to start. Set fail_at_start to false. The logs"
    assert said.startswith(f"failed: {reason}")
    assert Path(said.split()[-1].rstrip(".")).is_dir()
    assert server.process.wait(timeout=60) == 7
    assert not (home.settings.run_dir / f"serve-{server.spec['http']['port']}.json").exists()


@pytest.mark.parametrize(
    ("app", "said", "code"),
    [
        ({"model": "nobody@production"}, "no model 'nobody'", 3),
        ({"model": "adder@99"}, "adder has no such version", 3),
        ({"options": {"scale": "big"}}, "options.scale", 2),
    ],
)
def test_what_is_wrong_is_said_before_ray_starts(home, launch, app, said, code):
    server = launch(home, {"apps": [{**APP, **app}]})
    assert said in server.wait_for("failed:")
    assert server.process.wait(timeout=30) == code
    assert not any("starting Ray" in line for line in server.lines)


@pytest.mark.long
def test_two_servers_run_on_one_machine(home, launch, client):
    servers = [launch(home, {"apps": [APP]}) for _ in range(2)]
    for server in servers:
        server.wait_for("serving at")
    pids = set()
    for server in servers:
        response = client.post(f"{server.url}/adder/v1/add", json={"values": [1]})
        assert response.is_success, response.text
        pids.add(response.json()["pid"])
    assert len(pids) == 2
    assert servers[0].stop() == 0
    assert client.get(f"{servers[1].url}/adder/readyz").is_success
