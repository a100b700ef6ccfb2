"""The list for Prometheus's file discovery, kept by real processes that come, go and are killed."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mizzen import targets
from mizzen.errors import MizzenError
from mizzen.exporter import Exporter

SHOW = """
import sys
from mizzen import settings, targets
here = settings.current()
with targets.announced(here.run_dir, "0.0.0.0", int(sys.argv[1]), print) as one:
    print("in line", flush=True)
    one.leads.wait()
    print("leads", flush=True)
    sys.stdin.read()
"""


@dataclass
class Shower:
    """A process that shows series; its port is its name."""

    process: subprocess.Popen[str]

    def says(self, line: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == line + "\n"

    def ends(self) -> None:
        self.process.communicate(timeout=30)


@contextmanager
def shower(home: Path, port: int) -> Iterator[Shower]:
    with subprocess.Popen(
        [sys.executable, "-c", SHOW, str(port)],
        env={**os.environ, "MIZZEN_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        one = Shower(process)
        one.says("in line")
        try:
            yield one
        finally:
            process.kill()


def listed(home: Path) -> list[str]:
    content = json.loads((home / "run" / targets.FILE).read_text())
    assert len(content) <= 1
    for one in content:
        assert one["labels"] == {"instance": socket.gethostname()}
    return [target for one in content for target in one["targets"]]


def test_there_is_one_target_whichever_processes_come_go_and_are_killed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(shower(tmp_path, 1001))
        first.says("leads")
        second = stack.enter_context(shower(tmp_path, 1002))
        assert listed(tmp_path) == ["127.0.0.1:1001"]
        first.process.send_signal(signal.SIGKILL)
        second.says("leads")
        assert listed(tmp_path) == ["127.0.0.1:1002"]
        third = stack.enter_context(shower(tmp_path, 1003))
        second.ends()
        third.says("leads")
        assert listed(tmp_path) == ["127.0.0.1:1003"]
        third.ends()
        assert listed(tmp_path) == []
        fourth = stack.enter_context(shower(tmp_path, 1004))
        fourth.says("leads")
        fourth.process.kill()
        fourth.process.wait()
        assert listed(tmp_path) == ["127.0.0.1:1004"]  # nobody was left to say otherwise
        assert targets.read(tmp_path / "run") == (tmp_path / "run" / targets.FILE, [])
        assert listed(tmp_path) == []


def test_one_that_gives_up_its_place_in_line_is_never_the_target(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = targets.Announcement(run, "127.0.0.1:1")
    second = targets.Announcement(run, "127.0.0.1:2")
    third = targets.Announcement(run, "127.0.0.1:3")
    assert targets.read(run)[1][0]["targets"] == ["127.0.0.1:1"]
    second.withdraw()
    first.withdraw()
    assert third.leads.wait(30)
    assert not second.leads.is_set()
    assert listed(tmp_path) == ["127.0.0.1:3"]
    third.withdraw()
    assert targets.read(run)[1] == []
    assert sorted(file.name for file in run.iterdir()) == [targets.FILE, "prometheus-targets.lock"]


def test_what_is_listed_answers_and_a_port_that_is_taken_is_replaced_by_another(tmp_path: Path) -> None:
    metrics, run = tmp_path / "metrics", tmp_path / "run"
    with Exporter(tmp_path / "other") as other, targets.shown(metrics, run, port=other.server_port) as port:
        assert port != other.server_port
        (address,) = listed(tmp_path)
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/metrics")
        assert b"mizzen_build_info{" in connection.getresponse().read()
        connection.close()
    assert listed(tmp_path) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_folder_that_cannot_be_written_stops_nobody_from_showing(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("no folder")
    said: list[str] = []
    with targets.shown(tmp_path / "metrics", tmp_path / "run", say=said.append) as port:
        assert port > 0
    assert len(said) == 1
    assert str(tmp_path / "run" / targets.FILE) in said[0]
    with pytest.raises(MizzenError, match="MIZZEN_HOME"):
        targets.read(tmp_path / "run")


def test_a_list_that_cannot_be_written_any_more_stops_nobody_from_ending(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = targets.Announcement(run, "127.0.0.1:1")
    second = targets.Announcement(run, "127.0.0.1:2")
    shutil.rmtree(run)
    first.withdraw()
    for waits in [one for one in threading.enumerate() if one.name == "mizzen-targets"]:
        waits.join(30)
    assert not second.leads.is_set()
    assert second._lock.closed  # the next in line could try
    second.withdraw()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:9464"),
        ("0.0.0.0", "127.0.0.1:9464"),
        ("::", "[::1]:9464"),
        ("10.0.0.7", "10.0.0.7:9464"),
        ("fd00::7", "[fd00::7]:9464"),
        ("localhost", "localhost:9464"),
    ],
)
def test_the_address_is_one_that_prometheus_on_this_machine_reaches(host: str, address: str) -> None:
    assert targets.address(host, 9464) == address
