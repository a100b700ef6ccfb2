"""What is compared of histories in training and in requests, to see whether they drift.

None of it tells who a user is. The hour of a request is no feature: training has the hours of months, and a
replica those of its last minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mizzen.workloads.contract import Features, Prepared
from mizzen.workloads.recommendation import catalogue, histories
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.histories import Histories

MAX_USERS = 2_000
"""The first ones, which are a random sample that never changes."""
NAMES = ("history_length", "last_item_popularity_rank", "unknown_items_ratio")


@dataclass(frozen=True)
class Traits:
    """Features of histories; the same in training as in requests."""

    max_length: int
    """Items that the model reads."""
    num_items: int

    def of(self, history: np.ndarray, num_unknown: int) -> tuple[float, float, float]:
        """Of the items (numbers from 1, the oldest first) of one asker, and so many that are not known.

        The last item's rank by popularity is 0 for the most popular one; NaN where there is no item.
        """
        length = len(history)
        rank = (int(history[-1]) - 1) / self.num_items if length else math.nan
        unknown = num_unknown / (length + num_unknown) if num_unknown else 0.0
        return float(min(length, self.max_length)), rank, unknown


def in_training(prepared: Prepared, max_length: int) -> Features:
    """The histories as they are stored for serving: what the first request of each user brings."""
    read = Histories(prepared.folder / histories.FILE)
    traits = Traits(max_length, len(Catalogue.read(prepared.folder / catalogue.FILE)))
    return columns(traits.of(read.items(row), 0) for row in range(min(len(read), MAX_USERS)))


def columns(rows: Iterable[tuple[float, float, float]]) -> Features:
    """The features by name, of at least one history."""
    return dict(zip(NAMES, zip(*rows, strict=True), strict=True))
