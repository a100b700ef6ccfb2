"""What the process that drives runs records of them, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mizzen import metrics, totals

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
            if ending is not None:
                raise ending
    except BaseException as cause:
        assert cause is ending, cause

drive("once", 1, 1)
drive("restarted-by-ray", 1, 3)
drive("second-attempt", 2, 1)
drive("second-attempt-that-never-began", 2, 0, ValueError("no room"))
drive("stopped", 1, 1, SystemExit(143))
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
        "second-attempt-that-never-began": 0,
        "stopped": 0,
        "interrupted": 0,
    }
