"""Which examples a rank takes at which step: a pure function of seed, position, rank and world size.

The examples form one endless stream: a permutation of all of them, then another, and so on. Each example
stands exactly once in each epoch, batches may span the border of two, and a run resumes at any position,
also with another number of workers. It does not read examples, it only names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import Any


@dataclass
class SampleStream:
    """The order of `num_samples` examples, epoch after epoch."""

    num_samples: int
    seed: int
    _epoch: int = field(default=-1, init=False)
    _order: Any = field(default=None, init=False)

    def at(self, position: int) -> int:
        """The example at `position` (0, 1, ...) of the endless stream."""
        import torch

        epoch, offset = divmod(position, self.num_samples)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = torch.randperm(self.num_samples, generator=generator)
            self._epoch = epoch
        return int(self._order[offset])


@dataclass(frozen=True)
class MicroBatches:
    """Lists of example numbers for one rank, from `start` (in examples over all ranks) without end."""

    stream: SampleStream
    micro_batch_size: int
    rank: int
    world_size: int
    start: int = 0

    def __iter__(self) -> Iterator[list[int]]:
        position = self.start
        while True:
            first = position + self.rank * self.micro_batch_size
            yield [self.stream.at(first + i) for i in range(self.micro_batch_size)]
            position += self.micro_batch_size * self.world_size


@dataclass(frozen=True)
class EvaluationBatches:
    """All `num_samples` examples once over all ranks, the same number of batches on each rank.

    Sharded models need every rank to take part in every forward pass, so a rank that has run out of
    examples repeats its last; such a row comes with weight 0.
    """

    num_samples: int
    batch_size: int
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[tuple[list[int], list[float]]]:
        a_rank = ceil(self.num_samples / self.world_size)
        mine = range(self.rank, a_rank * self.world_size, self.world_size)
        for start in range(0, a_rank, self.batch_size):
            part = mine[start : start + self.batch_size]
            yield (
                [min(i, self.num_samples - 1) for i in part],
                [1.0 if i < self.num_samples else 0.0 for i in part],
            )


@dataclass(frozen=True)
class Length:
    """How long a run is, in optimiser steps, and when it evaluates and saves."""

    num_steps: int
    evaluate_every: int
    """Steps between two evaluations; the last step is always followed by one."""

    @classmethod
    def of(
        cls,
        *,
        num_samples: int,
        global_batch_size: int,
        epochs: int | None,
        steps: int | None,
        evaluate_every_steps: int | None,
    ) -> Length:
        """The length of a run of so many epochs, or of so many steps."""
        num_steps = steps if steps is not None else ceil((epochs or 1) * num_samples / global_batch_size)
        an_epoch = max(1, round(num_samples / global_batch_size))
        default = an_epoch if steps is None else max(1, num_steps)
        return cls(num_steps, evaluate_every_steps or default)

    def evaluates_after(self, step: int) -> bool:
        """Whether an evaluation follows optimiser step `step` (1, 2, ...)."""
        return step == self.num_steps or step % self.evaluate_every == 0
