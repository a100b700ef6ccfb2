"""`mizzen top` over real series: those of a folder, and those that an exporter shows."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mizzen import settings
from mizzen.cli import app, output, top, top_readings, top_view
from mizzen.cli.top_figures import board
from mizzen.errors import InputError, MizzenError
from mizzen.exporter import Exporter
from mizzen.store.runs import RunRecord, Runs

LIVING = """
from mizzen import metrics
from mizzen.recording import ServedMetrics
served = ServedMetrics("shop", "m", 3)
served.loaded(digest="d", workload="w", precision="fp32", provider="p")
served.started()
served.finished(route="/v1/x", method="POST", code=500, duration_s=0.02)
print("ready", flush=True)
import sys
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home in which an application is served."""
    found = tmp_path_factory.mktemp("home")
    with subprocess.Popen(
        [sys.executable, "-c", LIVING],
        env={**os.environ, "MIZZEN_HOME": str(found)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield found
        process.kill()


def record(**changes: object) -> RunRecord:
    begun = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    fields = {"run_id": "j-1", "place": "local", "state": "running", "created_at": begun, "updated_at": begun}
    return RunRecord.model_validate({**fields, "step": 30, "num_steps": 120, "started_at": begun, **changes})


@pytest.fixture
def shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What `mizzen top` prints in that home, with options."""
    monkeypatch.setenv("MIZZEN_HOME", str(home))
    settings.current.cache_clear()
    monkeypatch.setattr(output, "out", Console(file=io.StringIO(), width=200))

    def run(*options: str) -> str:
        result = CliRunner().invoke(app, ["top", *options], catch_exceptions=False)
        file = output.out.file
        assert isinstance(file, io.StringIO)
        return result.stdout + file.getvalue()

    return run


def test_once_prints_what_is_served_and_the_last_jobs(shown: Callable[..., str]) -> None:
    Runs(settings.current().store_url).write(record())
    text = shown("--once", "--every", "0.5")
    application, requests = (line for line in text.splitlines() if line.startswith("shop"))
    assert [cell.strip() for cell in application.split("│")] == ["shop", "m@3", "1", "0"]
    assert [cell.strip() for cell in requests.split("│")] == ["shop", "0", "0", "0", "", "", ""]
    (job,) = (line for line in text.splitlines() if line.startswith("j-1"))
    assert [cell.strip() for cell in job.split("│")][:4] == ["j-1", "running", "30/120", "25%"]


def test_json_is_for_scripts(shown: Callable[..., str], home: Path) -> None:
    Runs(settings.current().store_url).write(record())
    found = json.loads(shown("--json", "--every", "0.5"))
    assert [(one["app"], one["versions"], one["replicas"]) for one in found["apps"]] == [("shop", ["m@3"], 1)]
    assert [(one["run_id"], one["step"], one["num_steps"]) for one in found["jobs"]] == [("j-1", 30, 120)]
    assert (found["runs"], found["costs"]) == ([], [])


def test_another_machine_is_read_through_its_exporter_and_its_jobs_are_not_ours(
    shown: Callable[..., str], home: Path
) -> None:
    Runs(settings.current().store_url).write(record())
    with Exporter(home / "metrics") as exporter:
        port = exporter.in_background()
        text = shown("--once", "--every", "0.5", "--url", f"127.0.0.1:{port}")
        far = top_readings.of_url(f"http://127.0.0.1:{port}/metrics")()
        exporter.shutdown()
    assert "m@3" in text
    assert "j-1" not in text
    here = top_readings.of_folder(home / "metrics")()
    assert board(far, far) == board(here, here)


def test_what_cannot_be_shown_is_said(
    shown: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="--once"):
        shown()
    with pytest.raises(InputError, match="--url is no address"):
        shown("--once", "--url", "ftp://host")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(MizzenError, match=rf"127\.0\.0\.1:{port}/metrics does not answer.*port-forward"):
        top_readings.of_url(f"127.0.0.1:{port}")()
    with Exporter(tmp_path) as exporter:
        port = exporter.in_background()
        with pytest.raises(MizzenError, match="404"):
            top_readings.of_url(f"127.0.0.1:{port}/elsewhere")()
        monkeypatch.setattr(top_readings, "LARGEST_BYTES", 100)
        with pytest.raises(MizzenError, match="more than 100 bytes"):
            top_readings.of_url(f"127.0.0.1:{port}")()
        exporter.shutdown()
    with pytest.raises(ValueError, match=r"\w"):
        top_readings.parsed("<html>hello</html>", 0.0)


def test_a_store_that_is_away_is_said_and_asked_again_later(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    jobs = top.Jobs(f"file://{tmp_path}/store")
    assert jobs.recent() == []
    assert str(tmp_path) in jobs.trouble
    assert top.Jobs(None).recent() == []


def printed(app: str, width: int) -> str:
    model = "[red]m[/]"
    labels = f'app="{app}",digest="d",model="{model}",version="1"'
    state = f'app="{app}",model="{model}",state="running",version="1"'
    run = 'run="ratings-20260102-030405",train_job="j"'
    text = f"mizzen_model_info{{{labels}}} 1\nmizzen_chat_sequences{{{state}}} 3\n"
    one = top_readings.parsed(text + f"mizzen_training_step{{{run}}} 3\n", 0.0)
    console = Console(file=io.StringIO(), width=width)
    console.print(top_view.shown(board(one, one), [], "here"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_names_are_shown_as_they_are_and_whole_in_80_columns() -> None:
    text = printed("recommendation", 80)
    assert text.count("recommendation │") == 2
    for name in ("│ [red]m[/]@1 │", "ratings-20260102-030405 │"):
        assert name in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_terminal_that_is_narrower_still_shows_something() -> None:
    assert max(map(len, printed("recommendation", 20).splitlines())) <= 20


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    empty = top_readings.of_folder(tmp_path)()
    console = Console(file=io.StringIO(), width=120)
    console.print(top_view.shown(board(empty, empty), [], "here", "a note"))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert top_view.NOTHING in text
    assert "a note" in text
