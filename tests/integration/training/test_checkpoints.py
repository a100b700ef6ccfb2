"""Runs that go on: to the last bit after a kill, and at another number of workers, on real Ray."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from mizzen.settings import Settings
from mizzen.store.objects import Objects
from mizzen.training import launch
from mizzen.training.checkpoints import Checkpoints
from mizzen.training.job import TrainJob

Job = Callable[..., TrainJob]
Losses = dict[int, float]
KILLED_AFTER, STEPS = 3, 48  # of the first 50 steps each is told
DROPOUT = {"dropout": 0.3, "steps": STEPS, "evaluate_every_steps": STEPS}


def losses(
    job: TrainJob, settings: Settings, run: str, events: list[tuple[str, str]] | None = None
) -> Losses:
    """The loss of each step that was done, as the first worker saw it."""
    seen: Losses = {}
    told: list[tuple[str, str]] = events if events is not None else []

    def watch(progress: launch.Progress) -> None:
        if progress.loss is not None:
            seen[progress.step] = progress.loss

    prepared = launch.prepare(job, settings, lambda _: None)
    launch.train(job, prepared, settings, watch, run=run, event=lambda kind, text: told.append((kind, text)))
    return seen


def of_run(settings: Settings, run: str) -> Checkpoints:
    return Checkpoints(Objects((settings.runs_dir / run).as_uri()), "checkpoints")


@pytest.fixture
def start(ray_home: Settings) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `interrupted.py` in the home of the tests' Ray, on a Ray of its own."""
    started: list[subprocess.Popen[str]] = []

    def interrupted(run: str, job: TrainJob) -> subprocess.Popen[str]:
        content = json.dumps(job.model_dump(mode="json", exclude_unset=True))
        home = {"MIZZEN_HOME": str(ray_home.home), "MIZZEN_STORE": ray_home.store_url}
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("interrupted.py")), run, content],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **home},
        )
        started.append(process)
        return process

    yield interrupted
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_run_goes_on_to_the_last_bit(
    ray_home: Settings, job: Job, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """With dropout on. All its processes are killed at any moment: also while a checkpoint is written."""
    dropped = job(training=DROPOUT, checkpointing={"every_steps": 1})
    process = start("a-killed-run", dropped)
    assert process.stdout is not None
    before: Losses = {}
    for line in process.stdout:
        step, loss = line.split()
        if loss != "None":
            before[int(step)] = float(loss)
        if int(step) >= KILLED_AFTER:
            break
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    events: list[tuple[str, str]] = []
    after = losses(dropped, ray_home, "a-killed-run", events)
    whole = losses(dropped, ray_home, "a-whole-run")
    (resumed,) = (text for kind, text in events if kind == "resumed")
    step = int(resumed.split("after step ")[1].split(":")[0])
    assert 0 < step < STEPS
    assert sorted(after) == list(range(step + 1, STEPS + 1))
    assert all(whole[step] == loss for step, loss in {**before, **after}.items())


def part(job: Job, workers: int, steps: int, stage: int = 1) -> TrainJob:
    """A run up to `steps`; a global batch is 32 examples with any number of workers."""
    return job(
        training={"steps": steps, "evaluate_every_steps": 100, "micro_batch_size": 32 // workers},
        checkpointing={"every_steps": 3, "keep": 9},
        deepspeed={"zero_stage": stage},
        scaling={"workers": workers},
    )


@pytest.fixture(scope="module")
def whole(ray_home: Settings, job: Job) -> Losses:
    """Of a run of 9 steps by two workers, `whole`, which keeps all its checkpoints."""
    return losses(part(job, 2, 9), ray_home, "whole")


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.long), 3])
def test_a_run_goes_on_with_other_numbers_of_workers(
    ray_home: Settings, job: Job, whole: Losses, stage: int
) -> None:
    """Two workers, then one, then two: the same training but for rounding, whatever the stage."""
    run, events = f"resized-at-stage-{stage}", list[tuple[str, str]]()
    if stage == 1:  # as if the whole run had ended after 3 steps
        (third,) = (ray_home.runs_dir / "whole" / "checkpoints").glob("step-00000003-*")
        shutil.copytree(third, ray_home.runs_dir / run / "checkpoints" / third.name)
    else:
        assert sorted(losses(part(job, 2, 3, stage), ray_home, run)) == [1, 2, 3]
    alone = losses(part(job, 1, 6, stage), ray_home, run, events)
    together = losses(part(job, 2, 9, stage), ray_home, run, events)
    assert (sorted(alone), sorted(together)) == ([4, 5, 6], [7, 8, 9])
    # The first of two workers sees half of a batch, so only what it says with two can be compared.
    assert together == pytest.approx({step: whole[step] for step in together}, rel=1e-4)
    assert [text.rsplit(", ", 1)[1] for kind, text in events if kind == "resumed"] == [
        "which 2 worker(s) have written",
        "which 1 worker(s) have written",
    ]


def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_taken(
    ray_home: Settings, job: Job, whole: Losses
) -> None:
    newest = of_run(ray_home, "whole").complete()[-1]
    shutil.copytree(ray_home.runs_dir / "whole", ray_home.runs_dir / "a-damaged-run")
    folder = ray_home.runs_dir / "a-damaged-run" / "checkpoints" / newest.name
    shard = folder / newest.lead.files[0].name
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    events: list[tuple[str, str]] = []
    after = losses(part(job, 2, 9), ray_home, "a-damaged-run", events)
    assert after == {step: whole[step] for step in (7, 8, 9)}
    kinds = [kind for kind, _ in events]
    assert kinds.index("checkpoint_refused") < kinds.index("resumed")
