"""Runs of this machine as jobs; processes that really run stand for `mizzen train`."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from mizzen import settings
from mizzen.cluster import local_jobs
from mizzen.cluster.local_jobs import LocalJobs
from mizzen.errors import ClusterError, NotFoundError
from mizzen.settings import Settings
from mizzen.store.runs import RunRecord, Runs

NOW = datetime.now(UTC)
WAITS = "import sys; sys.stdin.read()"


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return settings.read({"MIZZEN_HOME": str(tmp_path)})


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that goes on until it is told to end."""
    with subprocess.Popen([sys.executable, "-c", WAITS], stdin=subprocess.PIPE) as started:
        yield started
        started.kill()


def record(**fields: Any) -> RunRecord:
    content: dict[str, Any] = {
        "run_id": "a-run",
        "place": "local",
        "state": "running",
        "job": {"name": "digits", "workload": "digits", "scaling": {"workers": 2}},
        "created_at": NOW,
        "started_at": NOW,
        "updated_at": NOW,
        "host": socket.gethostname(),
        **fields,
    }
    return RunRecord.model_validate(content)


def running(process: subprocess.Popen[bytes], **fields: Any) -> RunRecord:
    started_s = psutil.Process(process.pid).create_time()
    return record(pid=process.pid, process_started_s=started_s, **fields)


def test_jobs_are_listed_with_what_they_published(home: Settings) -> None:
    runs = Runs(home.store_url)
    refused = {"error": "the gate refused it", "model": "digits", "version": 2}
    runs.write(record(run_id="old", created_at=NOW - timedelta(hours=1), state="failed", **refused))
    runs.write(record(run_id="new", state="succeeded", ended_at=NOW, model="digits", version=3))
    runs.write(record(run_id="elsewhere", place="ray"))
    new, old = LocalJobs(home).list()
    assert (new.name, new.state, new.model, new.version, new.workers) == ("new", "succeeded", "digits", 3, 2)
    assert (old.name, old.state, old.reason, old.job) == ("old", "failed", "the gate refused it", "digits")
    assert (old.model, old.version) == (None, None)  # it is in the store, and nobody may serve it


def test_a_run_whose_process_is_alive_runs(home: Settings, process: subprocess.Popen[bytes]) -> None:
    Runs(home.store_url).write(running(process))
    assert LocalJobs(home).show("a-run").state == "running"


@pytest.mark.parametrize("reused", [False, True])
def test_a_run_whose_process_is_gone_has_failed(
    home: Settings, process: subprocess.Popen[bytes], reused: bool
) -> None:
    gone = running(process)
    if reused:  # another process has its number
        assert gone.process_started_s is not None
        gone = gone.model_copy(update={"process_started_s": gone.process_started_s - 100})
    else:
        process.kill()
        process.wait()
    Runs(home.store_url).write(gone)
    job = LocalJobs(home).show("a-run")
    assert (job.state, job.ended) == ("failed", True)
    assert f"the process is gone (it was {process.pid}" in job.reason
    with pytest.raises(ClusterError, match="has ended already"):
        LocalJobs(home).cancel("a-run")
    if reused:
        assert process.poll() is None


def test_a_run_is_cancelled_by_telling_its_process(home: Settings, process: subprocess.Popen[bytes]) -> None:
    Runs(home.store_url).write(running(process))
    LocalJobs(home).cancel("a-run")
    assert process.wait(20) == -15


def test_a_run_of_another_machine_is_not_touched(home: Settings, process: subprocess.Popen[bytes]) -> None:
    Runs(home.store_url).write(running(process).model_copy(update={"host": "another-machine"}))
    assert LocalJobs(home).show("a-run").state == "running"
    with pytest.raises(ClusterError, match=r"another machine; saw another-machine"):
        LocalJobs(home).cancel("a-run")
    assert process.poll() is None


def test_a_run_of_another_machine_that_is_silent_says_so(home: Settings) -> None:
    heard = datetime.now(UTC) - timedelta(minutes=10)
    Runs(home.store_url).write(record(host="another-machine", updated_at=heard))
    assert LocalJobs(home).show("a-run").reason.startswith("nothing was heard of it for 1")


def test_deleting_takes_record_log_and_checkpoints_but_not_what_runs(
    home: Settings, process: subprocess.Popen[bytes]
) -> None:
    runs = Runs(home.store_url)
    runs.write(running(process))
    runs.writer("a-run").add(["line"])
    checkpoint = home.runs_dir / "a-run" / "checkpoints" / "checkpoint_1"
    checkpoint.mkdir(parents=True)
    with pytest.raises(ClusterError, match="Stop it first: mizzen jobs cancel a-run"):
        LocalJobs(home).delete("a-run")
    assert checkpoint.exists()
    process.kill()
    process.wait()
    LocalJobs(home).delete("a-run")
    assert runs.find("a-run") is None
    assert not (home.runs_dir / "a-run").exists()
    with pytest.raises(NotFoundError):
        LocalJobs(home).delete("a-run")


def test_a_log_is_followed_until_the_run_has_ended(
    home: Settings, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_jobs, "POLL_EVERY_S", 0.01)
    runs = Runs(home.store_url)
    runs.write(running(process))
    writer = runs.writer("a-run")
    writer.add(["one"])
    assert list(LocalJobs(home).logs("a-run", follow=False)) == ["one"]
    lines = LocalJobs(home).logs("a-run", follow=True)
    assert next(lines) == "one"
    writer.add(["two"])
    assert next(lines) == "two"
    writer.add(["the last"])
    runs.write(record(state="succeeded", ended_at=NOW))
    assert list(lines) == ["the last"]


def test_a_job_that_ran_elsewhere_is_pointed_to_its_place(home: Settings) -> None:
    Runs(home.store_url).write(record(place="kubernetes"))
    with pytest.raises(NotFoundError, match="--on kubernetes"):
        LocalJobs(home).show("a-run")
