"""The series of one training worker, and the same figures for people.

What a step leaves is kept in memory and, after the first ones, written at most twice a second, so that a
short step does not pay for it; a worker that is killed takes half a second of its counts with it. Figures
that workers share are written by the first alone: optimiser steps, loss, metrics. It measures no phase and
counts no operation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from mizzen import metrics
from mizzen.recording import Recorder
from mizzen.resources import TICK_EVERY_S, Resources
from mizzen.training.job import TrainJob
from mizzen.training.loop import StepDone
from mizzen.training.peaks import peak_of
from mizzen.training.phases import Phases

REPORT_EVERY_S = 0.5
FIRST_STEPS = 50
"""So many steps after a start are each reported: there most happens, and a short run has a curve too."""
UNITS = {"samples": metrics.TRAINING_SAMPLES, "tokens": metrics.TRAINING_TOKENS}


@dataclass(frozen=True)
class _Sums:
    """What some steps took together."""

    steps: int
    loss: float
    """Their mean."""
    duration_s: float
    phases: Phases
    count: int
    flops: float

    @classmethod
    def of(cls, steps: Sequence[StepDone]) -> _Sums:
        return cls(
            steps=len(steps),
            loss=sum(done.loss for done in steps) / len(steps),
            duration_s=sum(done.duration_s for done in steps),
            phases=sum((done.phases for done in steps), start=Phases()),
            count=sum(done.count for done in steps),
            flops=sum(done.flops for done in steps),
        )


@dataclass(frozen=True)
class Told:
    """What people hear of the steps since the last time."""

    loss: float
    """The mean over them."""
    figures: dict[str, float]
    """See `worker.Progress`."""


class WorkerSeries:
    """Records what a worker does."""

    def __init__(self, job: TrainJob, run: str, rank: int, world_size: int, device: Any) -> None:
        scaling = job.scaling
        self._record = Recorder(train_job=job.name, run=run)
        self._resources = Resources("train_job", job.name, scaling.cpus_per_worker, scaling.gpus_per_worker)
        self._rank, self._world_size, self._device = rank, world_size, device
        self._sharing = job.deepspeed.tensor_parallel
        """Workers that take the same examples."""
        self._unit = job.implementation.throughput_unit
        self._peak_flops = peak_of(device, job.training.precision)
        self._process = psutil.Process()
        self._pending: list[StepDone] = []
        """Steps that are not written yet."""
        self._num_steps = 0
        self._written_s = self._alive_s = -math.inf
        self._ticked_s = time.monotonic()
        # From the start, so that Prometheus sees the first of them as an increase.
        self._record.count(metrics.TRAINING_NONFINITE, 0)
        self.alive()

    @property
    def _first(self) -> bool:
        return self._rank == 0

    def began(self, step: int, num_steps: int) -> None:
        """The worker stands at `step`: 0, or where its checkpoint was."""
        record = self._record
        record.set(metrics.TRAINING_WORKERS, 1)
        if self._peak_flops is not None:
            record.set(metrics.TRAINING_PEAK_FLOPS, self._peak_flops, rank=str(self._rank))
        if self._first:
            record.set(metrics.TRAINING_NUM_STEPS, num_steps)
            record.set(metrics.TRAINING_STEP, step)
        self._write_memory()
        self.alive()

    def alive(self) -> None:
        """The worker does something; cheap, so say it often."""
        now_s = time.monotonic()
        if now_s - self._alive_s >= REPORT_EVERY_S:
            self._alive_s = now_s
            self._record.set(metrics.TRAINING_LAST_ACTIVITY, time.time())
        if now_s - self._ticked_s >= TICK_EVERY_S:
            self._ticked_s = now_s
            self._resources.tick()

    def step_done(self, done: StepDone) -> Told | None:
        """Take in a step; returns what to tell of the steps since the last time, if it is time for that."""
        self._pending.append(done)
        finite = math.isfinite(done.loss)
        if not finite:
            self._record.count(metrics.TRAINING_NONFINITE)
            self._record.set(metrics.TRAINING_LOSS, done.loss)
        self._num_steps += 1
        soon = time.monotonic() - self._written_s < REPORT_EVERY_S and self._num_steps > FIRST_STEPS
        if soon and finite and not done.evaluation_follows:
            return None
        return self.write()

    def write(self) -> Told | None:
        """Write what is not written yet; returns what to tell of it, None if there was no step."""
        if not self._pending:
            return None
        steps, self._pending = self._pending, []
        self._written_s, done, sums = time.monotonic(), steps[-1], _Sums.of(steps)
        memory = self._write_memory()
        self._write_sums(sums)
        if self._first:
            for each in steps:
                self._record.observe(metrics.TRAINING_STEP_DURATION, each.duration_s)
            self._write_last(done)
        self.alive()
        return Told(sums.loss, self._figures(done, sums, memory))

    def evaluated(self, values: Mapping[str, float]) -> None:
        """An evaluation is over."""
        if self._first:
            for name, value in values.items():
                self._record.set(metrics.TRAINING_VALIDATION, value, metric=name)
        self.alive()

    def blocked(self, duration_s: float) -> None:
        """The worker has stood still for a checkpoint."""
        self._record.observe(metrics.CHECKPOINT_BLOCKED, duration_s)
        self.alive()

    def saved(self, duration_s: float, size_bytes: int) -> None:
        """This worker's part of a checkpoint was written; from the thread that has written it."""
        self._record.observe(metrics.CHECKPOINT_DURATION, duration_s)
        self._record.set(metrics.CHECKPOINT_BYTES, size_bytes)

    def close(self) -> None:
        """The worker ends."""
        self.write()
        self._resources.close()

    def _write_sums(self, sums: _Sums) -> None:
        record = self._record
        if self._first:
            record.count(metrics.TRAINING_STEPS, sums.steps)
        for phase, duration_s in sums.phases.items():
            record.count(metrics.TRAINING_PHASE, duration_s, rank=str(self._rank), phase=phase)
        record.count(UNITS[self._unit], sums.count / self._sharing)
        record.count(metrics.TRAINING_FLOPS, sums.flops)

    def _write_last(self, done: StepDone) -> None:
        record = self._record
        record.set(metrics.TRAINING_LOSS, done.loss)
        record.set(metrics.TRAINING_LEARNING_RATE, done.learning_rate)
        if done.gradient_norm is not None:
            record.set(metrics.TRAINING_GRADIENT_NORM, done.gradient_norm)
        record.set(metrics.TRAINING_STEP, done.step)
        record.set(metrics.TRAINING_NUM_STEPS, done.num_steps)

    def _write_memory(self) -> int:
        """Returns what matters most of it: the GPU's if there is one."""
        resident = int(self._process.memory_info().rss)
        kinds = {"resident": resident}
        if self._device.type == "cuda":
            import torch

            kinds["gpu_allocated"] = torch.cuda.memory_allocated(self._device)
            kinds["gpu_peak"] = torch.cuda.max_memory_allocated(self._device)
        for kind, size_bytes in kinds.items():
            self._record.set(metrics.TRAINING_MEMORY, size_bytes, rank=str(self._rank), kind=kind)
        return kinds.get("gpu_allocated", resident)

    def _figures(self, done: StepDone, sums: _Sums, memory_bytes: int) -> dict[str, float]:
        phases = sums.phases
        figures = {
            "learning_rate": done.learning_rate,
            "step_seconds": sums.duration_s / sums.steps,
            "data_seconds": phases.data / sums.steps,
            "forward_seconds": phases.forward / sums.steps,
            "backward_seconds": phases.backward / sums.steps,
            "optimizer_seconds": phases.step / sums.steps,
            f"{self._unit}_per_second": sums.count * self._world_size / self._sharing / sums.duration_s,
            "memory_bytes": float(memory_bytes),
        }
        if done.gradient_norm is not None:
            figures["gradient_norm"] = done.gradient_norm
        if self._peak_flops is not None:
            figures["model_flops_utilisation"] = sums.flops / sums.duration_s / self._peak_flops
        return figures
