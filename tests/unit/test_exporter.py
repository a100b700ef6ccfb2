"""The exporter over HTTP, against files that other processes have written."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mizzen import exporter, totals
from mizzen.errors import MizzenError
from mizzen.exporter import Exporter

TRAIN = """
from mizzen import metrics
from mizzen.recording import Recorder
Recorder(train_job="job-a", run="run-1").count(metrics.TRAINING_SAMPLES, 32)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Exporter]:
    environ = {**os.environ, "MIZZEN_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", TRAIN], env=environ, check=True, timeout=60)
    with Exporter(tmp_path / "metrics") as running:
        running.in_background()
        yield running
        running.shutdown()


def ask(server: Exporter, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_series_are_at_one_path_and_nothing_else_is(server: Exporter) -> None:
    status, body = ask(server, "GET", "/metrics?x=1")
    assert (status, b'mizzen_training_samples_total{run="run-1",train_job="job-a"} 32.0' in body) == (
        200,
        True,
    )
    assert ask(server, "HEAD", "/metrics") == (200, b"")
    assert ask(server, "GET", "/")[0] == 404
    assert ask(server, "GET", "/metrics/../etc/passwd")[0] == 404
    assert ask(server, "POST", "/metrics")[0] == 501


def test_prometheus_gets_the_format_that_it_asks_for(server: Exporter) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    response = connection.getresponse()
    assert response.read().endswith(b"# EOF\n")
    assert response.headers["content-type"] == totals.OPENMETRICS_TYPE
    connection.close()


def test_series_that_cannot_be_read_are_an_error_that_says_why(server: Exporter) -> None:
    (server.folder / "counter_1.db").mkdir()  # the first process lives
    status, body = ask(server, "GET", "/metrics")
    assert status == 500
    assert b"counter_1.db" in body


def test_scraping_deletes_no_total_of_a_process_that_is_gone(server: Exporter) -> None:
    before = sorted(file.name for file in server.folder.glob("*.db"))
    totals_twice = []
    for _ in range(2):
        status, body = ask(server, "GET", "/metrics")
        assert status == 200
        totals_twice.append([line for line in body.splitlines() if b"_total{" in line])
    assert totals_twice[0] == totals_twice[1] != []
    assert [name for name in before if "live" not in name] == sorted(
        file.name for file in server.folder.glob("*.db")
    )


def test_clients_that_say_nothing_do_not_keep_others_out_for_ever(
    server: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter._Handler, "timeout", 0.2)
    silent = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(4)]
    assert ask(server, "GET", "/metrics")[0] == 200
    for connection in silent:
        connection.close()


def test_more_clients_than_there_is_room_for_are_turned_away(server: Exporter) -> None:
    address = ("127.0.0.1", server.server_port)
    silent = [socket.create_connection(address) for _ in range(exporter._MAX_WAITING)]
    with socket.create_connection(address, timeout=10) as late:
        late.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        try:
            answer = late.recv(1)
        except ConnectionResetError:
            answer = b""
    assert answer == b""
    for connection in silent:
        connection.close()


def test_what_an_exporter_shows_is_not_cleaned_away_by_the_next_that_begins(server: Exporter) -> None:
    clean = "from mizzen import totals; print(totals.clean())"
    environ = {**os.environ, "MIZZEN_HOME": str(server.folder.parent)}
    asked = subprocess.run(
        [sys.executable, "-c", clean], env=environ, check=True, capture_output=True, timeout=60
    )
    assert asked.stdout == b"False\n"
    assert b"mizzen_training_samples_total{" in ask(server, "GET", "/metrics")[1]


def test_an_address_may_be_of_the_sixth_version_of_the_protocol(tmp_path: Path) -> None:
    with Exporter(tmp_path, "::1") as running:
        port = running.in_background()
        connection = http.client.HTTPConnection("::1", port, timeout=10)
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 200
        connection.close()
        running.shutdown()


def test_an_address_that_is_taken_is_said_with_what_to_do(server: Exporter, tmp_path: Path) -> None:
    with pytest.raises(MizzenError, match=rf"127\.0\.0\.1:{server.server_port}.*--port"):
        Exporter(tmp_path, port=server.server_port)


def test_the_verb_is_light_and_ends_at_once_when_told_to(tmp_path: Path) -> None:
    code = """
import atexit, sys
from mizzen.cli import app
heavy = {"torch", "ray", "numpy", "onnxruntime", "fastapi", "kubernetes"}
atexit.register(lambda: print(sorted(heavy & set(sys.modules))))
app(["metrics", "--port", "0"])
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "MIZZEN_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "/metrics" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "[]\n")


SHOW = """
import sys
from mizzen.exporter import Exporter
from mizzen.settings import current
Exporter(current().metrics_dir).in_background()
print("ready", flush=True)
sys.stdin.read()
"""
IN_PASSING = """
from mizzen import metrics, recording
recording.begin_beside_others()
if recording.is_on():
    recording.Recorder(model="m", alias="production").count(metrics.STORE_ALIAS_MOVES)
"""


def test_while_somebody_is_scraped_nothing_is_cleaned_and_short_processes_leave_their_series(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "metrics"

    def in_passing() -> int:
        environ = {**os.environ, "MIZZEN_HOME": str(tmp_path)}
        subprocess.run([sys.executable, "-c", IN_PASSING], env=environ, check=True, timeout=60)
        return totals.exposition(folder).count(b"mizzen_store_alias_moves_total{")

    assert in_passing() == 0  # nobody would ever have seen it
    with subprocess.Popen(
        [sys.executable, "-c", SHOW],
        env={**os.environ, "MIZZEN_HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as shows:
        assert shows.stdout is not None
        assert shows.stdout.readline() == b"ready\n"
        assert in_passing() == 1
        assert not totals.clean(folder)
        assert in_passing() == 1
        shows.communicate()
    assert totals.clean(folder)
    assert [file.name for file in folder.iterdir()] == ["gathering.lock"]
