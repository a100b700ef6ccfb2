"""Workers that are killed, told to end, and frozen; a loss that is NaN; SIGTERM to the run itself."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mizzen import local_ray
from mizzen.errors import TrainingError
from mizzen.settings import Settings
from mizzen.store.objects import Objects
from mizzen.store.runs import RunRecord, Runs
from mizzen.training import launch
from mizzen.training.batches import SampleStream
from mizzen.training.checkpoints import Checkpoints
from mizzen.training.job import TrainJob
from mizzen.training.mailbox import Progress
from mizzen.workloads.contract import Prepared

Job = Callable[..., TrainJob]
STEPS, EVERY = 110, 10
LONG: dict[str, dict[str, Any]] = {
    # Steps that take a while, so that there is time to kill somebody between two of them.
    "training": {"steps": STEPS, "evaluate_every_steps": 50, "gradient_accumulation_steps": 8},
    "checkpointing": {"every_steps": EVERY},
}
RECORD = 65
"""Numbers of an example: 64 pixels and the label."""
TIMEOUT_S = 400.0
"""Generous: the machine may be busy with other tests."""


@dataclass
class Seen:
    """What was heard of a run."""

    result: Any = None
    events: list[tuple[str, str]] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)

    def texts(self, kind: str) -> list[str]:
        return [text for each, text in self.events if each == kind]


@pytest.fixture(scope="module")
def home(ray_home: Settings) -> Iterator[Settings]:
    """A Ray that looks after its workers more often than usual."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
        yield ray_home


@pytest.fixture(scope="module")
def prepared(home: Settings, job: Job) -> Prepared:
    return launch.prepare(job(), home, lambda _: None)


def trained(
    job: TrainJob, prepared: Prepared, home: Settings, watch: Callable[[Progress], None] = lambda _: None
) -> Seen:
    seen = Seen()

    def note(progress: Progress) -> None:
        if progress.loss is not None:
            seen.losses[progress.step] = progress.loss
        watch(progress)

    def event(kind: str, text: str) -> None:
        seen.events.append((kind, text))

    seen.result = launch.train(job, prepared, home, note, event=event)
    return seen


def workers() -> list[psutil.Process]:
    return [process for process in local_ray.processes() if process.name() == "ray::RayTrainWorker"]


@pytest.fixture(scope="module")
def undisturbed(home: Settings, prepared: Prepared, job: Job) -> Seen:
    return trained(job("undisturbed", **LONG), prepared, home)


@dataclass
class Attacks:
    """Signals to a worker, each when the run has come so far for the first time."""

    plan: list[tuple[int, signal.Signals]]
    at: list[int] = field(default_factory=list)
    """The last step that was heard of before each."""

    def watch(self, progress: Progress) -> None:
        if not self.plan or progress.loss is None or progress.step < self.plan[0][0]:
            return
        victims = workers()
        if len(victims) == 2:
            victims[-1].send_signal(self.plan.pop(0)[1])
            self.at.append(progress.step)


@pytest.fixture(scope="module")
def attacked(home: Settings, prepared: Prepared, job: Job) -> tuple[Seen, list[int]]:
    """A run of which a worker is told to end, another one killed, and another one frozen."""
    attacks = Attacks([(20, signal.SIGTERM), (45, signal.SIGKILL), (75, signal.SIGSTOP)])
    faults = {"stall_timeout_s": 8, "max_failures": 5}
    seen = trained(job("attacked", **LONG, faults=faults), prepared, home, attacks.watch)
    assert not attacks.plan
    return seen, attacks.at


def test_a_run_whose_workers_are_killed_ends_as_if_nothing_had_been(
    attacked: tuple[Seen, list[int]], undisturbed: Seen
) -> None:
    seen, _ = attacked
    assert seen.result.num_steps == undisturbed.result.num_steps == STEPS
    assert seen.result.metrics == undisturbed.result.metrics  # bit for bit
    assert not undisturbed.texts("worker_failed")


def test_it_loses_a_checkpoint_interval_at_most(attacked: tuple[Seen, list[int]]) -> None:
    seen, at = attacked
    resumed = [int(re.search(r"after step (\d+)", text)[1]) for text in seen.texts("resumed")]  # type: ignore[index]
    assert len(resumed) == len(at) == 3
    noticed, killed, frozen = zip(at, resumed, strict=True)
    assert noticed[1] >= noticed[0], "with notice there is time for a checkpoint"
    for step, back in (killed, frozen):
        # The one that was on its way when the worker was killed is no checkpoint.
        assert back >= step // EVERY * EVERY - EVERY


def test_its_history_says_what_happened_and_what_was_done(attacked: tuple[Seen, list[int]]) -> None:
    seen, _ = attacked
    kinds = [kind for kind, _ in seen.events if kind != "resumed"]
    assert kinds == [
        "began",
        "notice",
        "began",
        "worker_failed",
        "began",
        "stalled",
        "worker_failed",
        "began",
    ]
    killed, frozen = seen.texts("worker_failed")
    assert "was killed" in killed
    assert "started again" in killed
    assert re.search(r"nothing has advanced for \d+ s: worker [01]", seen.texts("stalled")[0])
    assert "was ended" in frozen or "was killed" in frozen


@pytest.mark.long
def test_a_run_that_stalls_ends_if_it_shall(home: Settings, prepared: Prepared, job: Job) -> None:
    attacks, seen = Attacks([(20, signal.SIGSTOP)]), Seen()
    stops = job("stalls", **LONG, faults={"stall_timeout_s": 8, "on_stall": "stop"})
    with pytest.raises(TrainingError, match=r"nothing has advanced for \d+ s: worker [01]"):
        launch.train(stops, prepared, home, attacks.watch, event=lambda *one: seen.events.append(one))
    assert not attacks.plan
    assert len(seen.texts("stalled")) == len(seen.texts("began")) == 1
    _, alive = psutil.wait_procs(workers(), timeout=60)
    assert not alive, "the frozen one is ended too"


# --- a loss that is NaN ---------------------------------------------------------------------------


@pytest.fixture
def poisoned(prepared: Prepared, job: Job, tmp_path: Path) -> Callable[[int], Prepared]:
    """The data with an example of NaN, which the second of two workers takes at a step."""

    def poison(step: int) -> Prepared:
        folder = tmp_path / "prepared"
        shutil.copytree(prepared.folder, folder)
        records = np.memmap(folder / "training.bin", np.float32, mode="r+").reshape(-1, RECORD)
        batch_size = job().global_batch_size
        position = (step - 1) * batch_size + batch_size * 3 // 4
        records[SampleStream(len(records), job().training.seed).at(position), :-1] = np.nan
        records.flush()
        return dataclasses.replace(prepared, folder=folder)

    return poison


@pytest.mark.long
def test_a_batch_that_is_not_finite_is_left_out(
    home: Settings, job: Job, poisoned: Callable[[int], Prepared]
) -> None:
    seen = trained(job("skipping", faults={"on_nan": "skip"}), poisoned(11), home)
    assert seen.result.num_steps == 24
    assert seen.texts("skipped") == ["step 11 was not finite: its batch is left out (1 of at most 10)"]
    assert seen.result.metrics["accuracy"] > 0.3


@pytest.mark.long
def test_a_run_goes_back_to_its_checkpoint_and_on_behind_the_batch(
    home: Settings, job: Job, poisoned: Callable[[int], Prepared]
) -> None:
    seen = trained(job("rolling-back", faults={"on_nan": "roll_back"}), poisoned(11), home)
    assert seen.result.num_steps == 24
    assert seen.texts("rolled_back") == [
        "step 11 was not finite: its batch is left out, weights are those of step 8 (1 of at most 3)"
    ]
    assert seen.result.metrics["accuracy"] > 0.3


@pytest.mark.long
def test_by_default_a_loss_that_is_not_finite_ends_the_run_and_is_not_tried_again(
    home: Settings, job: Job, poisoned: Callable[[int], Prepared]
) -> None:
    heard: list[str] = []
    with pytest.raises(TrainingError, match=r"no longer a finite number at step 11.*faults\.on_nan"):
        launch.train(
            job("stopping"), poisoned(11), home, lambda _: None, event=lambda kind, text: heard.append(text)
        )
    assert sum("the run ends: it would come again" in text for text in heard) == 1


# --- SIGTERM to the run itself --------------------------------------------------------------------

TRAIN = """
import json, os, signal, sys
from mizzen import settings
from mizzen.training import pipeline
from mizzen.training.job import parse

def watch(progress):
    if progress.loss is not None and progress.step >= 15 and not told:
        told.append(progress.step)
        os.kill(os.getpid(), signal.SIGTERM)

told = []
job = parse(json.loads(sys.argv[1]), "the test's job")
pipeline.run(job, settings.current(), say=print, watch=watch, run="told-to-end")
"""


@pytest.fixture(scope="module")
def told_to_end(tmp_path_factory: pytest.TempPathFactory, job: Job) -> tuple[int, RunRecord, Path]:
    """A run that got SIGTERM: its exit code, its record, and its home."""
    home = tmp_path_factory.mktemp("told")
    content = job("told", **LONG, faults={"notice_s": TIMEOUT_S}).model_dump(mode="json", exclude_unset=True)
    environ = {**os.environ, "MIZZEN_HOME": str(home), "MIZZEN_STORE": f"file://{home}/store"}
    command = [sys.executable, "-c", TRAIN, json.dumps(content)]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert "told-to-end" in ran.stdout, ran.stderr
    return ran.returncode, Runs(f"file://{home}/store").show("told-to-end"), home


def test_a_run_that_is_told_to_end_is_cancelled(told_to_end: tuple[int, RunRecord, Path]) -> None:
    code, record, _ = told_to_end
    assert code == 128 + signal.SIGTERM
    assert (record.state, record.error) == ("cancelled", "it was stopped")
    assert record.model is None


def test_and_leaves_a_checkpoint_to_go_on_from(told_to_end: tuple[int, RunRecord, Path]) -> None:
    _, record, home = told_to_end
    first, last = [event.text for event in record.events if event.kind == "notice"]
    assert "400 s to write a checkpoint" in first
    at = int(re.search(r"step (\d+)", last)[1])  # type: ignore[index]
    assert 15 <= at < STEPS
    checkpoint = Checkpoints(Objects(f"file://{home}/runs/told-to-end"), "checkpoints").last()
    assert checkpoint is not None
    assert checkpoint.step == at
