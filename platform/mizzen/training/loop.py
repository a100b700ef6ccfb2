"""The training loop of one rank: next batch, forward, backward, step, report, checkpoint.

It knows neither Ray nor DeepSpeed's configuration: `launch` hands it a `Worker`, `engine` an engine.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mizzen import tracing
from mizzen.errors import TrainingError
from mizzen.training import engine as deepspeed_engine
from mizzen.training.batches import Length, MicroBatches, SampleStream
from mizzen.training.evaluation import evaluate, to_device
from mizzen.training.job import EarlyStopping, TrainJob
from mizzen.training.phases import Phases, stopwatch
from mizzen.workloads.contract import Prepared, QualityMetric


@dataclass(frozen=True)
class StepDone:
    """What one optimiser step was like on this rank."""

    step: int
    num_steps: int
    loss: float
    learning_rate: float
    gradient_norm: float | None
    """Over all ranks, before clipping; None if DeepSpeed was told not to reckon it."""
    duration_s: float
    count: int
    """Samples or tokens on this rank."""
    phases: Phases = field(default_factory=Phases)
    flops: float = 0.0
    """Floating-point operations that the model needed on this rank."""
    evaluation_follows: bool = False


class Worker(Protocol):
    """What a rank is given by whoever launched it."""

    rank: int
    world_size: int
    device: Any
    scratch: Path
    """An existing folder on this node for checkpoints on their way to storage."""
    resume_from: Path | None

    def began(self, step: int, num_steps: int) -> None:
        """Before the first step, on every rank; `step` is where its checkpoint stood."""

    def alive(self) -> None:
        """Now and then while something goes on that takes long."""

    def step_done(self, done: StepDone) -> None:
        """After each optimiser step, on every rank."""

    def evaluated(self, step: int, num_steps: int, metrics: dict[str, float]) -> None:
        """After each evaluation, on every rank with the same figures."""

    def report(self, metrics: dict[str, Any], checkpoint: Path) -> None:
        """Hand over metrics and this rank's shard; a barrier over all ranks."""

    def saved(self, duration_s: float, size_bytes: int) -> None:
        """After `report`, with what this rank's shard took to write and hand over."""


@dataclass
class Best:
    """Whether an evaluation was the best so far, and whether it is time to stop."""

    quality: QualityMetric
    stopping: EarlyStopping | None
    value: float | None = None
    without_improvement: int = field(default=0)

    def update(self, metrics: dict[str, float]) -> bool:
        """Take in an evaluation; true if the run should stop."""
        value = metrics[self.quality.name]
        margin = self.stopping.min_improvement if self.stopping else 0.0
        better = self.value is None or (
            value > self.value + margin if self.quality.higher_is_better else value < self.value - margin
        )
        if better:
            self.value, self.without_improvement = value, 0
        else:
            self.without_improvement += 1
        return self.stopping is not None and self.without_improvement >= self.stopping.patience


def run(job: TrainJob, prepared: Prepared, worker: Worker) -> dict[str, Any]:
    """Train on this rank to the end; returns the metrics before training and why the run ended.

    Raises `TrainingError` if the loss is no longer a finite number.
    """
    import torch

    from mizzen.training.flops import FlopCounter

    workload, training = job.implementation, job.training
    torch.manual_seed(training.seed)
    model = workload.build_model(job.model, prepared, dropout=training.dropout)
    data: Any = workload.training_data(job.model, prepared)
    length = length_of(job, len(data))
    engine = deepspeed_engine.start(model, job, length.num_steps)
    torch.manual_seed(training.seed + 1 + worker.rank)  # dropout must differ between the ranks
    position: dict[str, int] = {"step": 0, "samples": 0}
    if worker.resume_from:
        position = deepspeed_engine.load(engine, worker.resume_from)
    worker.began(position["step"], length.num_steps)

    def validation() -> dict[str, float]:
        with tracing.part("evaluation", split="validation", step=position["step"]):
            metrics = evaluate(
                workload,
                engine,
                job.model,
                prepared,
                "validation",
                batch_size=training.micro_batch_size,
                rank=worker.rank,
                world_size=worker.world_size,
                device=worker.device,
                alive=worker.alive,
            )
        worker.evaluated(position["step"], length.num_steps, metrics)
        return metrics

    initial = validation() if position["step"] == 0 else {}
    best = Best(workload.quality, training.early_stopping)
    batches = _loader(job, data, worker, position["samples"])
    engine.train()
    reason, watch, flops = "finished", stopwatch(worker.device), FlopCounter()
    while position["step"] < length.num_steps:
        started = time.perf_counter()
        watch.start()
        losses, count, gradient_norm = [], 0, None
        for _ in range(training.gradient_accumulation_steps):
            batch = to_device(next(batches), worker.device)
            watch.mark("data")
            with flops.counted(batch):
                loss = workload.loss(engine, batch)
                watch.mark("forward")
                flops.backward_begins()
                engine.backward(loss)
                watch.mark("backward")
            gradient_norm = deepspeed_engine.step(engine)
            watch.mark("step")
            losses.append(loss.detach())
            count += workload.count(batch)
        position["step"] += 1
        position["samples"] += job.global_batch_size
        done = StepDone(
            step=position["step"],
            num_steps=length.num_steps,
            loss=float(torch.stack(losses).mean()),
            learning_rate=float(engine.get_lr()[0]),
            gradient_norm=None if gradient_norm is None else float(gradient_norm),
            duration_s=time.perf_counter() - started,
            count=count,
            phases=watch.read(),
            flops=flops.take(),
            evaluation_follows=length.evaluates_after(position["step"]),
        )
        worker.step_done(done)
        _check_finite(done)
        if length.evaluates_after(done.step):
            metrics = validation()
            _save(engine, worker, position, {**metrics, "step": done.step})
            if best.update(metrics):
                reason = f"stopped early: {workload.quality.name} did not improve any more"
                break
        elif job.checkpointing.every_steps and done.step % job.checkpointing.every_steps == 0:
            _save(engine, worker, position, {"step": done.step})
    return {"initial": initial, "steps": position["step"], "reason": reason}


def length_of(job: TrainJob, num_samples: int) -> Length:
    """How long `job` runs on so many examples. Raises `TrainingError` if there are none."""
    if num_samples == 0:
        raise TrainingError("no training example is left after cleaning", remedy="See the data report.")
    return Length.of(
        num_samples=num_samples,
        global_batch_size=job.global_batch_size,
        epochs=job.training.epochs,
        steps=job.training.steps,
        evaluate_every_steps=job.training.evaluate_every_steps,
    )


def _loader(job: TrainJob, data: Any, worker: Worker, start: int) -> Iterator[dict[str, Any]]:
    from torch.utils.data import DataLoader

    order = MicroBatches(
        SampleStream(len(data), job.training.seed),
        job.training.micro_batch_size,
        worker.rank,
        worker.world_size,
        start,
    )
    collate: Callable[[list[Any]], dict[str, Any]] = job.implementation.collate
    sampler: Any = order
    return iter(DataLoader(data, batch_sampler=sampler, collate_fn=collate))


def _save(engine: Any, worker: Worker, position: dict[str, int], metrics: dict[str, Any]) -> None:
    with (
        tracing.part("checkpoint", step=position["step"]),
        tempfile.TemporaryDirectory(dir=worker.scratch) as name,
    ):
        folder, started = Path(name), time.perf_counter()
        worker.alive()
        deepspeed_engine.save(engine, folder, position)
        size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        worker.report(metrics, folder)
        worker.saved(time.perf_counter() - started, size_bytes)


def _check_finite(done: StepDone) -> None:
    if not math.isfinite(done.loss):
        raise TrainingError(
            f"the loss is no longer a finite number at step {done.step}",
            saw=done.loss,
            remedy="Lower training.learning_rate, or set training.gradient_clipping or precision: fp32.",
        )
