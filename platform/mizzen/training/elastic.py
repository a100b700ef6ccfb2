"""How many workers a job takes, and what each does when their number changes. It starts no worker."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from mizzen.workloads.contract import Fields

Policy = Literal["keep_batch", "scale_learning_rate"]
ALLOWED_WORKERS = "a number of 1 or more, or [min, max] for a run that grows and shrinks between them"


class Scaling(Fields):
    """How many workers, and what each gets."""

    workers: int | tuple[int, int] = 1
    """A number, or `[min, max]`: the run then has as many as the cluster has room for, between these."""
    elastic: Policy = "keep_batch"
    """What stays when the number of workers changes: the batch behind one optimiser step, as it is at max
    workers; or each worker's share of it, and the learning rate follows the batch."""
    resize_every_s: float = Field(60.0, gt=0)
    """A run that may grow looks for more room this often. It stops for it: restarting takes a while."""
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: int = Field(0, ge=0)
    """0 trains on CPUs over gloo, 1 or more on GPUs over NCCL."""

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
