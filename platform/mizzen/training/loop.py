"""The training loop of one rank: next batch, forward, backward, step, report, checkpoint.

It knows neither Ray nor DeepSpeed's configuration: `launch` hands it a `Worker`, `engine` an engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from mizzen import tracing
from mizzen.errors import TrainingError
from mizzen.store.runs import EventKind
from mizzen.training import elastic, sharded, start_up
from mizzen.training import engine as deepspeed_engine
from mizzen.training.agreement import Agreement, highest_on
from mizzen.training.ahead import ahead
from mizzen.training.batches import Division, Length, MicroBatches, SampleStream
from mizzen.training.checkpoints import Standing
from mizzen.training.evaluation import evaluate, to_device
from mizzen.training.faults import FiniteSteps
from mizzen.training.job import EarlyStopping, TrainJob
from mizzen.training.phases import Phases, stopwatch
from mizzen.training.rank_checkpoints import RankCheckpoints
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
    checkpoints: RankCheckpoints

    def began(self, step: int, num_steps: int) -> None:
        """Before the first step, on every rank; `step` is where its checkpoint stood."""

    def alive(self) -> None:
        """Now and then while something goes on that takes long."""

    def step_done(self, done: StepDone) -> None:
        """After each optimiser step, on every rank."""

    def evaluated(self, step: int, num_steps: int, metrics: dict[str, float]) -> None:
        """After each evaluation, on every rank with the same figures."""

    def wish(self) -> int:
        """What this rank wants between two steps: see `agreement`, 0 for nothing."""

    def leave(self, step: int, wish: int, written: bool) -> str | None:
        """All ranks want this; there is a checkpoint of this step if it could be `written`.

        Returns why the run ends, None if it goes on. Raises `NoticeError` to have all workers started again.
        """

    def happened(self, kind: EventKind, text: str) -> None:
        """For the run's history of events; of what all ranks tell, the first rank's word counts."""


@dataclass
class Best:
    """Whether an evaluation was the best so far, and whether it is time to stop."""

    quality: QualityMetric
    stopping: EarlyStopping | None
    value: float | None = None
    without_improvement: int = field(default=0)

    @property
    def exhausted(self) -> bool:
        """Whether the run should stop."""
        return self.stopping is not None and self.without_improvement >= self.stopping.patience

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
        return self.exhausted


def run(job: TrainJob, prepared: Prepared, worker: Worker) -> dict[str, Any]:
    """Train on this rank to the end; returns the metrics before training and why the run ended.

    Raises `TrainingError` if a step is not finite, and `faults` does not let the run go on.
    """
    import torch

    from mizzen.training.flops import FlopCounter

    workload, training = job.implementation, job.training
    torch.manual_seed(training.seed)
    start_up.done("meeting")
    deepspeed_engine.make_ready(job)
    model = sharded.built(job, prepared)
    data: Any = workload.training_data(job.model, prepared)
    length = length_of(job, len(data))
    start_up.done("model")
    divided, origin = elastic.division(job, worker.world_size), elastic.Origin()
    schedule = deepspeed_engine.learning_rate_factor(job, length.num_steps)
    factor = elastic.learning_rate_factor(job, schedule, length, divided, origin)
    engine = deepspeed_engine.start(model, job, factor, worker.world_size)
    replica = worker.rank // job.deepspeed.tensor_parallel
    # Dropout must differ between replicas, and be one thing for workers that share layers.
    torch.manual_seed(training.seed + 1 + replica)
    position: dict[str, int] = {"step": 0, "samples": 0}
    best = Best(workload.quality, training.early_stopping)
    if (resumed := worker.checkpoints.resume(engine)) is not None:
        position = {"step": resumed.step, "samples": resumed.samples}
        best.value, best.without_improvement = resumed.best, resumed.without_improvement
        origin.step, origin.samples = engine.lr_scheduler.last_epoch, resumed.samples
        deepspeed_engine.readjust(engine, elastic.betas(job, divided))
    num_steps = length.steps_at(position["step"], position["samples"], divided.global_batch_size)
    worker.began(position["step"], num_steps)
    start_up.done("deepspeed")

    def validation() -> dict[str, float]:
        with tracing.part("evaluation", split="validation", step=position["step"]):
            metrics = evaluate(
                workload,
                engine,
                job.model,
                prepared,
                "validation",
                batch_size=training.micro_batch_size,
                rank=replica,
                world_size=divided.replicas,
                device=worker.device,
                alive=worker.alive,
            )
        worker.evaluated(position["step"], num_steps, metrics)
        return metrics

    initial = validation() if position["step"] == 0 else {}
    start_up.done("evaluation")
    weights = [divided.weight(micro_step, replica) for micro_step in range(divided.micro_steps)]
    batches = _loader(job, data, divided, replica, position["samples"])
    if worker.device.type == "cuda":
        # On CPUs it would only take turns with the model, for Python's lock and for the cores.
        batches = ahead(batches)
    engine.train()
    finite = FiniteSteps(job.faults, training.precision)
    saves_every = job.checkpointing.every_steps
    agreement = Agreement(worker.world_size, highest_on(worker.device))
    reason, watch, flops = "finished", stopwatch(worker.device), FlopCounter()
    while position["samples"] < length.num_samples and not best.exhausted:
        if wish := agreement.reached(worker.wish()):
            written = worker.checkpoints.hold(engine, _standing(position, best))
            if (left := worker.leave(position["step"], wish, written)) is not None:
                reason = left
                break
        started = time.perf_counter()
        watch.start()
        losses, count, gradient_norm = [], 0, None
        for weight in weights:
            read = next(batches)
            count += workload.count(read)  # here: on a GPU it would have to be waited for
            batch = to_device(read, worker.device)
            watch.mark("data")
            with flops.counted(batch):
                loss = workload.loss(engine, batch)
                watch.mark("forward")
                flops.backward_begins()
                engine.backward(loss if weight == 1.0 else loss * weight)
                watch.mark("backward")
            losses.append(loss.detach())
            gradient_norm = deepspeed_engine.step(engine, losses if finite.discards else ())
            watch.mark("step")
        position["step"] += 1
        before = position["samples"]
        position["samples"] += divided.global_batch_size
        evaluates = length.evaluates(before, position["samples"])
        done = StepDone(
            step=position["step"],
            num_steps=num_steps,
            loss=_mean(losses, weights),
            learning_rate=float(engine.get_lr()[0]),
            gradient_norm=None if gradient_norm is None else float(gradient_norm),
            duration_s=time.perf_counter() - started,
            count=count,
            phases=watch.read(),
            flops=flops.take(),
            evaluation_follows=evaluates,
        )
        worker.step_done(done)
        match finite.after(done.loss, done.gradient_norm):
            case "stop":
                raise finite.error(done.step, done.loss, done.gradient_norm)
            case "skip":
                deepspeed_engine.pass_over(engine)
                worker.happened("skipped", finite.sentence(done.step))
            case "roll_back":
                back = _go_back(engine, worker, elastic.betas(job, divided))
                worker.happened("rolled_back", finite.sentence(done.step, back))
            case "go_on":
                pass
        if evaluates:
            metrics = validation()
            best.update(metrics)
            _save(engine, worker, position, best, metrics)
        elif saves_every and length.passed(saves_every, before, position["samples"]):
            _save(engine, worker, position, best, {})
    if best.exhausted:
        reason = f"stopped early: {workload.quality.name} did not improve any more"
    worker.checkpoints.finish()
    return {
        "initial": initial,
        "steps": position["step"],
        "reason": reason,
        "workers": worker.world_size,
    }


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


def _mean(losses: list[Any], weights: list[float]) -> float:
    """The mean over this rank's examples."""
    import torch

    values: list[float] = torch.stack(losses).tolist()
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def _loader(
    job: TrainJob, data: Any, divided: Division, replica: int, start: int
) -> Iterator[dict[str, Any]]:
    import torch
    from torch.utils.data import DataLoader

    order = MicroBatches(SampleStream(len(data), job.training.seed), divided, replica, start)
    collate: Callable[[list[Any]], dict[str, Any]] = job.implementation.collate
    sampler: Any = order
    # With a generator of its own: else its start would take a number from the one that dropout uses.
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=collate, generator=torch.Generator())
    return iter(loader)


def _standing(position: dict[str, int], best: Best) -> Standing:
    return Standing(position["step"], position["samples"], best.value, best.without_improvement)


def _save(
    engine: Any, worker: Worker, position: dict[str, int], best: Best, metrics: dict[str, float]
) -> None:
    with tracing.part("checkpoint", step=position["step"]):
        worker.alive()
        worker.checkpoints.save(engine, _standing(position, best), metrics)
        worker.alive()


def _go_back(engine: Any, worker: Worker, betas: tuple[float, float]) -> int | None:
    """Weights and optimiser as in the last checkpoint, where there is one; returns its step.

    The learning rate goes on with the position in the data, which does not go back.
    """
    deepspeed_engine.pass_over(engine)
    scheduled = engine.lr_scheduler.last_epoch
    worker.alive()
    standing = worker.checkpoints.resume(engine)
    worker.alive()
    if standing is None:
        return None
    engine.lr_scheduler.last_epoch = scheduled
    deepspeed_engine.readjust(engine, betas)
    return standing.step
