"""What two workers record, each in a process of its own; the totals are read here."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mizzen import metrics, totals
from mizzen.series import Series

WORK = """
import json, sys
import torch
from mizzen.training import worker_series
from mizzen.training.job import parse
from mizzen.training.loop import StepDone
from mizzen.training.phases import Phases

rank = int(sys.argv[1])
job = parse(
    {"name": "digits", "workload": "digits", "training": {"steps": 9},
     "scaling": {"workers": 2, "cpus_per_worker": 0.5}},
    "the test's job",
)
worker_series.peak_of = lambda device, precision: 4e9
# What is due at once shall not depend on how fast this machine is.
worker_series.REPORT_EVERY_S, worker_series.FIRST_STEPS = 3600.0, 1

def begun(run):
    series = worker_series.WorkerSeries(job, run, rank, 2, torch.device("cpu"))
    series.began(0, 9)
    return series

def step(series, n, loss=1.0, **more):
    return series.step_done(StepDone(
        step=n, num_steps=9, loss=loss, learning_rate=0.1 / n, gradient_norm=2.0, duration_s=0.5, count=16,
        phases=Phases(0.1, 0.125, 0.2, 0.05 + rank), flops=1e9, **more,
    ))

steady = begun("steady")
told = [step(steady, n, loss=n) for n in range(1, 9)]
told.append(step(steady, 9, loss=0.25, evaluation_follows=True))
steady.evaluated({"accuracy": 0.75})
steady.saved(duration_s=3.0, size_bytes=1000)
diverged = begun("diverged")
step(diverged, 1)
step(diverged, 2, loss=float("nan"))
print(json.dumps([each and [each.loss, each.figures] for each in told]), flush=True)
sys.stdin.read()
"""


class Workers:
    """Two workers that have done their steps and wait, until they are told to end."""

    def __init__(self, home: Path) -> None:
        self.folder, self.begun_at = home / "metrics", time.time()
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORK, str(rank)],
                env={**os.environ, "MIZZEN_HOME": str(home)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        lines = [process.stdout.readline() for process in self._processes if process.stdout]
        self.told: list[list[tuple[float, dict[str, float]] | None]] = [json.loads(line) for line in lines]

    def end(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.communicate()

    def value(self, series: Series, run: str = "steady", **labels: str) -> float | None:
        """The one line of a counter or gauge with these labels, and the run's; None if it is not there."""
        found = [
            value
            for given, value in totals.samples(series, self.folder)
            if given == {"train_job": "digits", "run": run, **labels}
        ]
        assert len(found) <= 1
        return found[0] if found else None


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    working = Workers(tmp_path_factory.mktemp("home"))
    yield working
    working.end()


def test_figures_that_workers_share_are_of_the_first_and_the_others_are_summed(workers: Workers) -> None:
    expected: dict[Series, Any] = {
        metrics.TRAINING_LOSS: 0.25,
        metrics.TRAINING_LEARNING_RATE: pytest.approx(0.1 / 9),
        metrics.TRAINING_GRADIENT_NORM: 2.0,
        metrics.TRAINING_STEP: 9,
        metrics.TRAINING_NUM_STEPS: 9,
        metrics.TRAINING_STEPS: 9,
        metrics.TRAINING_SAMPLES: 2 * 9 * 16,
        metrics.TRAINING_FLOPS: 2 * 9e9,
        metrics.TRAINING_WORKERS: 2,
        metrics.TRAINING_NONFINITE: 0,
        metrics.CHECKPOINT_BYTES: 2000,
    }
    assert {one.name: workers.value(one) for one in expected} == {
        one.name: value for one, value in expected.items()
    }
    assert workers.value(metrics.TRAINING_VALIDATION, metric="accuracy") == 0.75
    last = workers.value(metrics.TRAINING_LAST_ACTIVITY)
    assert last is not None
    assert workers.begun_at <= last <= time.time()
    text = totals.exposition(workers.folder).decode()
    for name, count in (("step", 9), ("checkpoint", 2)):
        line = f'mizzen_training_{name}_duration_seconds_count{{run="steady",train_job="digits"}}'
        assert f"{line} {count}.0" in text


@pytest.mark.parametrize("rank", [0, 1])
def test_a_slow_worker_can_be_told_from_the_others(rank: int, workers: Workers) -> None:
    for phase, expected in (
        ("data", 0.9),
        ("forward", 1.125),
        ("backward", 1.8),
        ("step", 9 * (0.05 + rank)),
    ):
        seconds = workers.value(metrics.TRAINING_PHASE, rank=str(rank), phase=phase)
        assert seconds == pytest.approx(expected)
    assert workers.value(metrics.TRAINING_PEAK_FLOPS, rank=str(rank)) == 4e9
    resident = workers.value(metrics.TRAINING_MEMORY, rank=str(rank), kind="resident")
    assert resident is not None
    assert resident > 20 * 2**20


def test_workers_cost_their_job_what_they_reserve(workers: Workers) -> None:
    for series in (metrics.RESERVED_CPU, metrics.USED_CPU):
        ((labels, _),) = totals.samples(series, workers.folder)
        assert labels == {"owner_kind": "train_job", "owner": "digits"}


def test_figures_come_with_the_first_step_and_before_an_evaluation_as_means(workers: Workers) -> None:
    first, *between, last = workers.told[0]
    assert between == [None] * 7
    assert first is not None
    assert last is not None
    assert (first[0], last[0]) == (1.0, (2 + 3 + 4 + 5 + 6 + 7 + 8 + 0.25) / 8)
    for _, figures in (first, last):
        assert figures["memory_bytes"] > 20 * 2**20
    expected = {
        "learning_rate": 0.1,
        "gradient_norm": 2.0,
        "step_seconds": 0.5,
        "data_seconds": 0.1,
        "forward_seconds": 0.125,
        "backward_seconds": 0.2,
        "optimizer_seconds": 0.05,
        "samples_per_second": 64.0,
        "model_flops_utilisation": 0.5,
    }
    expected["memory_bytes"] = first[1]["memory_bytes"]
    assert first[1] == pytest.approx(expected)
    expected |= {"learning_rate": 0.1 / 9, "memory_bytes": last[1]["memory_bytes"]}
    assert last[1] == pytest.approx(expected)


def test_a_loss_that_is_no_number_is_shown_as_it_is_and_counted(workers: Workers) -> None:
    assert workers.value(metrics.TRAINING_NONFINITE, run="diverged") == 2
    shown = workers.value(metrics.TRAINING_LOSS, run="diverged")
    assert shown is not None
    assert math.isnan(shown)


def test_when_a_run_has_ended_its_gauges_go_and_what_was_counted_stays(workers: Workers) -> None:
    workers.end()
    for series in (metrics.TRAINING_LOSS, metrics.TRAINING_LAST_ACTIVITY, metrics.TRAINING_WORKERS):
        assert workers.value(series) is None
    assert workers.value(metrics.TRAINING_STEPS) == 9
    assert workers.value(metrics.TRAINING_NONFINITE, run="diverged") == 2
