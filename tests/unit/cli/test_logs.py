"""`mizzen logs` and `mizzen metrics --logs`, over files as replicas and runs write them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from typer.testing import CliRunner

from mizzen import settings
from mizzen.cli import app
from mizzen.errors import InputError
from mizzen.logs import LogFile

COMMAND = [sys.executable, "-c", "from mizzen.cli import main; main()"]


def line(second: int, **fields: Any) -> str:
    known = {"time": f"2026-11-22T16:00:{second:02}.000Z", "level": "info", "message": f"line {second}"}
    return json.dumps({**known, **fields}, separators=(",", ":"))


@pytest.fixture
def files(mizzen_home: Path) -> Iterator[tuple[LogFile, LogFile]]:
    """Of a replica and of a run."""
    settings.current.cache_clear()
    made = [
        LogFile(mizzen_home / "logs" / f"{name}-{os.getpid()}.jsonl") for name in ("replica-films", "train")
    ]
    yield made[0], made[1]
    for file in made:
        file.close()


def told(*arguments: str) -> list[str]:
    done = CliRunner().invoke(app, ["logs", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout.splitlines()


def test_lines_of_all_processes_by_time_as_they_are_or_for_people(files: tuple[LogFile, LogFile]) -> None:
    replica, run = files
    replica.write(line(1, app="films"))
    failed = line(3, app="films", level="error", request_id="abc")
    replica.write(failed)
    run.write(line(2, run="films-1"))
    assert told("--json") == [line(1, app="films"), line(2, run="films-1"), failed]
    assert told("films-1", "--json") == [line(2, run="films-1")]
    assert told("--level", "error") == [
        "2026-11-22T16:00:03.000Z  error    films             line 3  (request abc)"
    ]
    assert told("--tail", "1", "--json") == told("--request", "abc", "--json") == [failed]
    assert told("--since", "2026-11-22T16:00:02Z", "films", "--json") == [failed]
    assert told("another") == []


def test_without_a_wish_only_the_last_lines_are_shown(files: tuple[LogFile, LogFile]) -> None:
    files[0].write("\n".join(line(1, number=str(number)) for number in range(300)))
    assert len(told()) == 200
    assert len(told("--since", "2026-01-01")) == 300


def test_a_ray_cluster_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match="mizzen jobs logs"):
        told("--on", "ray")
    with pytest.raises(InputError, match="--namespace"):
        told("--namespace", "team")


@contextmanager
def begun(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()  # or a test that fails would wait for it


def next_lines(stream: IO[str] | None, num_lines: int) -> list[str]:
    assert stream is not None
    return [stream.readline().rstrip("\n") for _ in range(num_lines)]


def test_following_shows_what_was_there_and_what_comes(files: tuple[LogFile, LogFile]) -> None:
    replica, run = files
    replica.write(line(1))
    with begun("logs", "--follow", "--json") as process:
        assert next_lines(process.stdout, 1) == [line(1)]
        run.write(line(2))
        assert next_lines(process.stdout, 1) == [line(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_a_pods_container_goes_on_printing_where_it_cannot_write_how_far_it_is(
    files: tuple[LogFile, LogFile], mizzen_home: Path
) -> None:
    (mizzen_home / "run" / "log-tail.new").mkdir(parents=True)
    with begun("metrics", "--port", "0", "--logs") as process:
        for number in (1, 2):
            files[0].write(line(number))
            assert next_lines(process.stdout, 1) == [line(number)]
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def noted(state: Path, log: Path) -> bool:
    """Whether all files of a log were read to their ends, and `state` says so."""
    places = json.loads(state.read_text())
    found = [file.stat() for file in log.parent.glob(f"{log.name}*")]
    assert found
    return all(places.get(str(file.st_ino), (0, -1))[1] == file.st_size for file in found)


def test_a_pods_container_prints_every_line_once_over_full_files_and_its_own_restart(
    files: tuple[LogFile, LogFile], mizzen_home: Path
) -> None:
    replica = LogFile(files[0].path, max_bytes=200)
    replica.write(line(0))
    with begun("metrics", "--port", "0", "--logs") as process:
        assert next_lines(process.stdout, 1) == [line(0)]
        for second in (1, 5):
            four = [line(number) for number in range(second, second + 4)]
            for text in four:
                replica.write(text)  # the file is full after two of them
            assert next_lines(process.stdout, 4) == four
        while not noted(mizzen_home / "run" / "log-tail.json", files[0].path):
            pass  # it writes down how far it is after it has printed
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert process.stderr is not None
        assert process.stderr.read() == ""
    replica.write(line(9))
    with begun("metrics", "--port", "0", "--logs") as process:
        assert next_lines(process.stdout, 1) == [line(9)]
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    replica.close()
