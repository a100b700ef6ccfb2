"""Which examples a replica of the model takes at which step: a pure function of seed, position and division.

The examples form one endless stream: a permutation of all of them, then another, and so on. Each example
stands exactly once in each epoch, batches may span the border of two, and a run resumes at any position,
also with another number of workers. It does not read examples, it only names them; how a step is divided,
`elastic` decides.
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
class Division:
    """How the examples behind one optimiser step are divided: among `replicas`, each part into micro-steps.

    Parts follow each other in the stream, and so do a part's pieces. Sizes of pieces differ by one at most.
    """

    global_batch_size: int
    replicas: int
    """Copies of the model that see different examples, one a worker but for tensor parallel."""
    micro_steps: int

    @property
    def micro_batch_size(self) -> int:
        """Of the largest piece."""
        return ceil(ceil(self.global_batch_size / self.replicas) / self.micro_steps)

    def piece(self, micro_step: int, replica: int) -> range:
        """What a replica takes at a micro-step, as positions from the step's first example.

        Never nothing, since a sharded model needs all in every pass: a piece without an example of its own
        has the one that comes next, with weight 0.
        """
        start, stop = self._bounds(micro_step, replica)
        return range(start, max(stop, start + 1))

    def weight(self, micro_step: int, replica: int) -> float:
        """What the mean loss of a piece counts, so that each example of the step counts the same.

        The mean over all pieces of weight times loss is then the mean over all examples. It is exactly 1
        where the pieces have one size.
        """
        start, stop = self._bounds(micro_step, replica)
        return (stop - start) * self.replicas * self.micro_steps / self.global_batch_size

    def _bounds(self, micro_step: int, replica: int) -> tuple[int, int]:
        first = replica * self.global_batch_size // self.replicas
        size = (replica + 1) * self.global_batch_size // self.replicas - first
        start, stop = (first + i * size // self.micro_steps for i in (micro_step, micro_step + 1))
        return start, stop


@dataclass(frozen=True)
class MicroBatches:
    """Lists of example numbers for one replica, from `start` (in examples over all replicas) without end."""

    stream: SampleStream
    division: Division
    replica: int
    start: int = 0

    def __iter__(self) -> Iterator[list[int]]:
        pieces = [self.division.piece(i, self.replica) for i in range(self.division.micro_steps)]
        position = self.start
        while True:
            for piece in pieces:
                yield [self.stream.at(position + i) for i in piece]
            position += self.division.global_batch_size


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
    """How long a run is, and when something comes round in it.

    A job counts in steps, and means steps of `global_batch_size` examples. A run counts examples, so that it
    is as long, and as often evaluated, when its steps become smaller or larger on the way.
    """

    num_steps: int
    evaluate_every: int
    """Steps between two evaluations; the last step is always followed by one."""
    global_batch_size: int

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
        return cls(num_steps, evaluate_every_steps or default, global_batch_size)

    @property
    def num_samples(self) -> int:
        """Examples that the run consumes, over all epochs."""
        return self.num_steps * self.global_batch_size

    def steps_at(self, step: int, samples: int, batch_size: int) -> int:
        """Optimiser steps of a run that has done `step` with `samples` and goes on with such batches."""
        return step + ceil(max(0, self.num_samples - samples) / batch_size)

    def passed(self, every_steps: int, before: int, after: int) -> bool:
        """Whether what comes round every so many steps comes between `before` and `after`, in examples."""
        every = every_steps * self.global_batch_size
        return before // every < after // every

    def evaluates(self, before: int, after: int) -> bool:
        """Whether an evaluation follows the step that took the examples from `before` to `after`."""
        return after >= self.num_samples or self.passed(self.evaluate_every, before, after)
