"""How many workers a job takes, and what each does at any number of them: batch and learning rate.

`keep_batch` is one training whatever happens: the examples behind each optimiser step and the learning rate
are those of `max_workers`; fewer workers take more micro-steps. `scale_learning_rate` keeps what a worker
does instead: fewer workers make smaller steps, and by the square root scaling rule for Adam with a batch
smaller by κ the learning rate becomes √κ and each 1 - β becomes κ times as large (Malladi et al. 2022,
arXiv:2205.10287). It decides and starts no worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from mizzen.training.batches import Division, Length
from mizzen.workloads.contract import Fields

if TYPE_CHECKING:
    from mizzen.training.job import TrainJob

Policy = Literal["keep_batch", "scale_learning_rate"]
ALLOWED_WORKERS = "a number of 1 or more, or [min, max] for a run that grows and shrinks between them"


class Scaling(Fields):
    """How many workers, and what each gets."""

    workers: int | tuple[int, int] = 1
    """A number, or `[min, max]`: the run then has as many as the cluster has room for, between these."""
    elastic: Policy = "keep_batch"
    """What stays when the number of workers changes: the batch behind one optimiser step, as it is at `max`
    workers; or each worker's share of it, and then the learning rate follows the batch. What the job says of
    steps and of the learning rate is meant at `max` workers."""
    resize_every_s: float = Field(60.0, gt=0)
    """A run that may grow looks for more room this often. It stops for it: restarting takes a while."""
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: int = Field(0, ge=0, le=1)
    """0 trains on CPUs over gloo, 1 on GPUs over NCCL. A worker is one process on one GPU: more GPUs are
    more `workers`."""

    @field_validator("workers", mode="before")
    @classmethod
    def _one_or_two_numbers(cls, given: Any) -> Any:
        numbers = list(given) if isinstance(given, (list, tuple)) else [given]
        right = len(numbers) == (2 if isinstance(given, (list, tuple)) else 1) and all(
            isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers
        )
        if not right or numbers != sorted(numbers):
            raise ValueError(f"must be {ALLOWED_WORKERS}")
        return tuple(numbers) if len(numbers) == 2 else given

    @property
    def min_workers(self) -> int:
        """With fewer the run waits."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """More are never taken."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change."""
        return self.min_workers < self.max_workers

    def __str__(self) -> str:
        """The number of workers, for people: `2`, or `2 to 4`."""
        return f"{self.min_workers} to {self.max_workers}" if self.is_elastic else str(self.max_workers)


def may_accumulate(job: TrainJob) -> bool:
    """Whether there may be several micro-batches behind a step; with `keep_batch` fewer workers take more."""
    kept = job.scaling.is_elastic and job.scaling.elastic == "keep_batch"
    return kept or job.training.gradient_accumulation_steps > 1


def division(job: TrainJob, workers: int) -> Division:
    """How `workers` divide the examples behind one optimiser step of `job`; any number of them can."""
    training = job.training
    replicas = workers // job.deepspeed.tensor_parallel
    micro_steps = training.gradient_accumulation_steps
    if job.scaling.elastic == "scale_learning_rate":
        return Division(training.micro_batch_size * micro_steps * replicas, replicas, micro_steps)
    batch_size = job.global_batch_size
    largest = math.ceil(batch_size / replicas)
    return Division(batch_size, replicas, math.ceil(largest / training.micro_batch_size))


def betas(job: TrainJob, divided: Division) -> tuple[float, float]:
    """Adam's coefficients for steps of such batches."""
    ratio = divided.global_batch_size / job.global_batch_size
    first, second = job.training.betas
    if ratio == 1:
        return first, second
    return 1 - ratio * (1 - first), 1 - ratio * (1 - second)


@dataclass
class Resize:
    """The way from a cluster with other room than before to another number of workers, over a checkpoint."""

    longest_wait_s: float
    """For the checkpoint; then the resize is called off, and may come again later."""
    asked_s: float | None = None
    """When the workers were asked to write it and to stand still, if they were."""

    def next(self, wanted: bool, still: bool, now_s: float) -> Literal["go_on", "ask", "resize", "call_off"]:
        """What to do now: `wanted` says that there should be more or fewer, `still` that all stand still."""
        if self.asked_s is None:
            self.asked_s = now_s if wanted else None
            return "ask" if wanted else "go_on"
        if wanted and not still and now_s - self.asked_s <= self.longest_wait_s:
            return "go_on"
        self.asked_s = None
        return "resize" if wanted and still else "call_off"


@dataclass
class Origin:
    """Where the workers have begun, this time: at 0, or at the checkpoint that they go on from."""

    step: int = 0
    """Of the scheduler, which does not count steps that an overflow has skipped."""
    samples: int = 0


def learning_rate_factor(
    job: TrainJob, schedule: Callable[[float], float], length: Length, divided: Division, origin: Origin
) -> Callable[[int], float]:
    """The learning rate at a step of the scheduler as a share of `training.learning_rate`.

    `schedule` says it for a step of `max_workers`. Under `scale_learning_rate` it is asked by the examples
    that were consumed, since steps may have been larger and smaller.
    """
    if job.scaling.elastic == "keep_batch":
        return schedule
    batch_size = divided.global_batch_size
    scale = math.sqrt(batch_size / length.global_batch_size)

    def factor(step: int) -> float:
        samples = origin.samples + (step - origin.step) * batch_size
        return scale * schedule(samples / length.global_batch_size)

    return factor
