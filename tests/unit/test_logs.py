"""Log lines of a process: what stands in them, what must not, and where they go when a file is full."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mizzen import logs, settings, tracing

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(autouse=True)
def afresh(mizzen_home: Path) -> Iterator[None]:
    settings.current.cache_clear()
    logs.stop()
    yield
    logs.stop()
    settings.current.cache_clear()


def lines(home: Path) -> list[dict[str, Any]]:
    files = sorted((home / "logs").iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_line_is_json_with_what_is_known(mizzen_home: Path) -> None:
    logs.start("replica-films", app="films")
    with logs.about(request_id="abc", version="3"):
        logging.getLogger("mizzen.serving.watch").warning("the alias moved to %s", "4")
    logging.getLogger("mizzen").debug("not asked for")
    (line,) = lines(mizzen_home)
    assert TIME.fullmatch(line.pop("time"))
    assert line == {
        "level": "warning",
        "logger": "mizzen.serving.watch",
        "message": "the alias moved to 4",
        "app": "films",
        "request_id": "abc",
        "version": "3",
    }
    assert [file.name for file in (mizzen_home / "logs").iterdir()] == [f"replica-films-{os.getpid()}.jsonl"]


def test_the_level_is_a_setting(mizzen_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIZZEN_LOG_LEVEL", "debug")
    settings.current.cache_clear()
    logs.start("serve")
    logging.getLogger("mizzen").debug("asked for")
    logging.getLogger("another.library").info("of others, warnings and up")
    assert [line["message"] for line in lines(mizzen_home)] == ["asked for"]


def test_an_exception_stands_in_its_line_with_its_traceback(mizzen_home: Path) -> None:
    logs.start("serve")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("mizzen").exception("it failed")
    (line,) = lines(mizzen_home)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: two\nlines")


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "OTEL_EXPORTER_OTLP_HEADERS"])
def test_secrets_are_masked_in_messages_and_tracebacks(
    mizzen_home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    secret = 'wJalr"XUtnFEMI\\K7MDENG'
    monkeypatch.setenv(name, f"authorization={secret}" if "HEADERS" in name else secret)
    logs.start("serve")
    try:
        raise ValueError(f"the store refused {secret}")
    except ValueError:
        logging.getLogger("mizzen").exception("with %s", secret)
    (line,) = lines(mizzen_home)
    assert line["message"] == "with ***"
    assert line["exception"].endswith("the store refused ***")


def test_what_utf_8_cannot_say_and_odd_line_ends_stay_one_line(mizzen_home: Path) -> None:
    # In a process of its own: pytest keeps what it hears, and cannot hand such a text from worker to worker.
    code = r"""
import logging
from mizzen import logs
logs.start("serve")
logging.getLogger("mizzen").warning("a name \udcff\u2028\x85\n\r end")
"""
    environ = {**os.environ, "MIZZEN_HOME": str(mizzen_home)}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, capture_output=True, timeout=60)
    (content,) = [file.read_bytes() for file in (mizzen_home / "logs").iterdir()]
    assert content.count(b"\n") == 1
    assert "end" in json.loads(content)["message"]


def test_what_a_request_does_in_other_threads_has_its_fields(mizzen_home: Path) -> None:
    logs.start("serve")

    async def request(name: str) -> None:
        with logs.about(request_id=name):
            await asyncio.to_thread(logging.getLogger("mizzen").warning, "in a thread")

    async def both() -> None:
        await asyncio.gather(request("a"), request("b"))

    asyncio.run(both())
    logging.getLogger("mizzen").warning("outside")
    assert sorted(line.get("request_id", "") for line in lines(mizzen_home)) == ["", "a", "b"]


def test_a_line_has_the_trace_that_it_was_written_in(mizzen_home: Path, trace: Any) -> None:
    trace()
    logs.start("train")
    with tracing.span("run") as span:
        logging.getLogger("mizzen").warning("in a span")
    assert lines(mizzen_home)[0]["trace_id"] == span.trace_id


def test_a_thread_that_fails_is_told(mizzen_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("serve")

    def fail() -> None:
        raise KeyError("gone")

    thread = threading.Thread(target=fail, name="engine")
    thread.start()
    thread.join()
    (line,) = lines(mizzen_home)
    assert line["message"] == "engine failed"
    assert "KeyError: 'gone'" in line["exception"]
    assert "KeyError" in capsys.readouterr().err  # as without us


def test_warnings_go_on_to_stderr_where_nobody_had_a_handler(
    mizzen_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, told = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler(told))
    logs.start("train")
    logging.getLogger("library").warning("for people")
    assert told.getvalue() == "for people\n"
    assert lines(mizzen_home)[0]["message"] == "for people"


def test_what_is_no_warning_is_for_the_file_alone(mizzen_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, told = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler(told)])  # as libraries do, at any level
    logs.start("train")
    logging.getLogger("mizzen.training").info("step 1")
    logging.getLogger("mizzen.training").warning("no step")
    assert told.getvalue() == "no step\n"
    assert [line["message"] for line in lines(mizzen_home)] == ["step 1", "no step"]


def test_a_process_has_one_file_and_gives_it_back(mizzen_home: Path) -> None:
    file = logs.start("serve")
    assert logs.start("another") is file is logs.file()
    logs.stop()
    assert logs.file() is None
    logging.getLogger("mizzen").warning("nobody writes")
    assert not (mizzen_home / "logs").exists()


def test_a_full_file_makes_room_for_the_next_and_the_oldest_goes(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    file = logs.LogFile(folder / "x-1.jsonl", max_bytes=30)
    for number in range(50):
        file.write(f"line {number:04}")
    file.close()
    newest, *older = sorted(folder.iterdir())
    assert [path.name for path in (newest, *older)] == ["x-1.jsonl", *(f"x-1.jsonl.{n}" for n in (1, 2, 3))]
    kept = [line for path in (*reversed(older), newest) for line in path.read_text().splitlines()]
    assert kept == [f"line {number:04}" for number in range(50 - len(kept), 50)]
    assert all(path.stat().st_size <= 30 for path in folder.iterdir())


def test_lines_that_can_wait_are_written_together_and_none_is_lost(tmp_path: Path) -> None:
    file = logs.LogFile(tmp_path / "x-1.jsonl")

    def write(thread: int) -> None:
        for number in range(500):
            file.write_soon(f"{thread} {number}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.write("at once")
    written = file.path.read_text().splitlines()
    assert written[-1] == "at once"
    assert sorted(written[:-1]) == sorted(
        f"{thread} {number}" for thread in range(4) for number in range(500)
    )
    file.close()


def test_a_line_that_can_wait_is_written_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "WRITE_EVERY_S", 0.01)
    written = threading.Event()
    file = logs.LogFile(tmp_path / "x-1.jsonl")
    append = file._append
    monkeypatch.setattr(file, "_append", lambda content: (append(content), written.set()))
    for line in ("one", "two"):
        written.clear()
        file.write_soon(line)
        assert written.wait(10)
    assert file.path.read_text() == "one\ntwo\n"
    file.close()


def test_others_cannot_read_it_and_one_that_was_deleted_comes_again(tmp_path: Path) -> None:
    file = logs.LogFile(tmp_path / "serve-1.jsonl")
    file.write("one")
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.path.unlink()
    file.write("two")
    assert file.path.read_text() == "two\n"
    file.close()


def test_a_folder_that_cannot_be_written_loses_lines_and_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("no folder")
    file = logs.LogFile(tmp_path / "logs" / "x-1.jsonl")
    file.write("lost")
    (tmp_path / "logs").unlink()
    file.write("kept")
    assert file.path.read_text() == "kept\n"
    file.close()
