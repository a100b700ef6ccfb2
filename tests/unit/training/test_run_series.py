"""What the process that drives runs records of them, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from mizzen import labels, metrics, totals
from mizzen.store.runs import EventKind

DRIVE = """
import sys
from mizzen.training.run_series import RunSeries

def drive(run, attempt, begins, ending=None):
    series = RunSeries("films", run)
    try:
        with series.outcome():
            series.attempt(attempt)
            for _ in range(begins):
                series.workers_began()
                series.event("began")
            if ending is not None:
                raise ending
    except BaseException as cause:
        assert cause is ending, cause

drive("once", 1, 1)
drive("restarted-by-ray", 1, 3)
drive("second-attempt", 2, 1)
drive("second-attempt-that-never-began", 2, 0, ValueError("no room"))
drive("stopped", 1, 1, SystemExit(143))

series = RunSeries("films", "elastic")
series.attempt(1)
for events in ([], ["resized"], ["worker_failed", "resized"], ["resized"]):
    for event in events:
        series.event(event)
    series.workers_began()
drive("interrupted", 1, 0, KeyboardInterrupt())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    environ = {**os.environ, "MIZZEN_HOME": str(home)}
    subprocess.run([sys.executable, "-c", DRIVE], env=environ, check=True, timeout=60)
    yield home / "metrics"


def test_runs_are_counted_by_how_they_end(folder: Path) -> None:
    found = {labels["outcome"]: n for labels, n in totals.samples(metrics.TRAINING_RUNS, folder)}
    assert found == {"succeeded": 3, "failed": 1, "cancelled": 2}


def test_a_restart_counts_once_and_a_first_start_does_not(folder: Path) -> None:
    found = {labels["run"]: n for labels, n in totals.samples(metrics.TRAINING_RESTARTS, folder)}
    assert found == {
        "once": 0,  # from the start, or the first restart would not be an increase
        "restarted-by-ray": 2,
        "second-attempt": 1,
        "elastic": 1,  # the one after a failure
        "second-attempt-that-never-began": 0,
        "stopped": 0,
        "interrupted": 0,
    }


def test_what_happens_to_a_run_is_counted_by_kind(folder: Path) -> None:
    found = {(each["run"], each["kind"]): n for each, n in totals.samples(metrics.TRAINING_EVENTS, folder)}
    assert found["restarted-by-ray", "began"] == 3
    assert found["restarted-by-ray", "worker_failed"] == 0  # from the start


def test_the_label_has_each_kind_of_event() -> None:
    assert set(labels.EVENT.values or ()) == set(get_args(EventKind))
