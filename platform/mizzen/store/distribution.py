"""How inputs were distributed in training (`input_distribution.json`), and how far others are from that.

The values of a feature fall into bins by training's deciles or, if it has few values, into one bin a value.
Bin i holds what is above edge i-1 and not above edge i; the first and the last are open, so whatever lies
outside of training's range is in one of them. If there are few values, or a tenth and more of them is the
smallest or the largest, what lies beyond has a bin of its own, in which training had nothing. Values that
are missing (NaN, infinite) have one, too.

It does not know where features come from, and counts nothing: `serving.drift` does.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import ValidationError, model_validator

from mizzen.errors import IntegrityError
from mizzen.workloads.contract import Features, Fields

FILE = "input_distribution.json"
MIN_VALUES = 100
"""With fewer the shares say little: such a feature is left out."""
NUM_BINS = 10
MISSING = "missing"
"""The bin of values that are none."""
_UNSEEN = 1e-4
"""The share of a bin in which training had nothing: no value is sure never to come."""
PRIOR = 5.0
"""Observations are smoothed by so many that are as expected: half a value for a bin that holds a tenth."""


class Distribution(Fields):
    """One feature's values in training."""

    edges: tuple[float, ...]
    """The upper ends of all bins but the last, rising."""
    counts: tuple[int, ...]
    """Values in each bin, one more than there are edges."""
    num_missing: int = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        rising = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        if not rising or len(self.counts) != len(self.edges) + 1 or sum(self.counts) <= 0:
            raise ValueError("edges must rise, with one count more than there are edges")
        return self

    @cached_property
    def bins(self) -> tuple[str, ...]:
        """The bins' names: their numbers from 0, and `missing`."""
        return (*map(str, range(len(self.counts))), MISSING)

    @cached_property
    def expected(self) -> tuple[float, ...]:
        """The share of each of `bins` in training, none of them 0."""
        total = sum(self.counts) + self.num_missing
        shares = [max(count / total, _UNSEEN) for count in (*self.counts, self.num_missing)]
        return tuple(share / sum(shares) for share in shares)

    def bin_of(self, value: float) -> int:
        """The place in `bins` of a value."""
        return bisect_left(self.edges, value) if math.isfinite(value) else len(self.counts)

    def psi(self, counts: Sequence[int]) -> float:
        """Population stability index of values of which so many are in each of `bins`.

        The sum over bins of (observed - expected) * ln(observed / expected), shares both.
        """
        total = sum(counts) + PRIOR
        found = 0.0
        for count, expected in zip(counts, self.expected, strict=True):
            observed = (count + PRIOR * expected) / total
            found += (observed - expected) * math.log(observed / expected)
        return found


def of(values: Sequence[float]) -> Distribution | None:
    """The distribution of a feature's values; None if there are too few that are not missing."""
    all_N = np.asarray(values, dtype=np.float64)
    known_N = np.sort(all_N[np.isfinite(all_N)])
    if len(known_N) < MIN_VALUES:
        return None
    edges = np.unique(known_N)
    if len(edges) > NUM_BINS:
        shares = np.arange(1, NUM_BINS) / NUM_BINS
        edges = np.unique(np.quantile(known_N, shares, method="inverted_cdf"))
    if edges[0] == known_N[0]:
        edges = np.concatenate([[np.nextafter(edges[0], -np.inf)], edges])
    counts = np.bincount(np.searchsorted(edges, known_N, side="left"), minlength=len(edges) + 1)
    return Distribution(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        num_missing=len(all_N) - len(known_N),
    )


def write(features: Features, folder: Path) -> None:
    """Write the distributions of `features` into an exported folder; nothing if there are none.

    The same values give the same bytes.
    """
    found = {name: distribution for name, values in features.items() if (distribution := of(values))}
    if found:
        content = {name: distribution.model_dump() for name, distribution in found.items()}
        (folder / FILE).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def read(folder: Path) -> Mapping[str, Distribution]:
    """What `write` wrote; empty for a version without. Raises `IntegrityError` for anything else."""
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        return {
            name: Distribution.model_validate(content)
            for name, content in json.loads(file.read_text()).items()
        }
    except (ValueError, AttributeError, ValidationError) as cause:
        raise IntegrityError(
            f"{FILE} of a version cannot be read: {cause}",
            saw=str(file),
            remedy="Publish the version again with this release of Mizzen.",
        ) from None
