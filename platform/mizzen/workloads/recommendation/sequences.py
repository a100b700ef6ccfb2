"""Training windows and held-out questions as PyTorch data sets over the memory-mapped histories.

Items of a user, the oldest first, with the last two held out:

    1 2 3 4 5 6 7        training: each of 2..5 from those before it
                         validation: 6 from 1..5; test: 7 from 1..6

Dimensions: B batch, L length, S items seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mizzen.workloads.contract import Batch, Prepared, Split
from mizzen.workloads.recommendation import histories
from mizzen.workloads.recommendation.data import HELD_OUT, META
from mizzen.workloads.recommendation.histories import Histories

NUM_HELD_OUT = HELD_OUT["validation"]


@dataclass(frozen=True)
class Window:
    """Consecutive items of a user, and after each of them the item that came next."""

    history: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Question:
    """Which item came next? `seen` are the other items that the user met before."""

    history: np.ndarray
    target: int
    seen: np.ndarray


class TrainingWindows(Dataset[Window]):
    """Cuts each training history into windows of at most `max_length` steps, from its end backwards."""

    def __init__(self, prepared: Prepared, max_length: int) -> None:
        self._histories = Histories(prepared.folder / histories.FILE)
        self._max_length = max_length
        steps = np.maximum(self._histories.lengths() - NUM_HELD_OUT - 1, 0)
        self._ends = np.cumsum(-(-steps // max_length))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = int(np.searchsorted(self._ends, index, side="right"))
        windows_after = int(self._ends[row]) - 1 - index
        items = self._histories.items(row)[:-NUM_HELD_OUT].astype(np.int64)
        stop = len(items) - windows_after * self._max_length
        start = max(stop - self._max_length - 1, 0)
        return Window(items[start : stop - 1], items[start + 1 : stop])


class Questions(Dataset[Question]):
    """One question a user about the last item (`test`) or the one before it (`validation`)."""

    def __init__(self, prepared: Prepared, max_length: int, split: Split) -> None:
        self._histories = Histories(prepared.folder / histories.FILE)
        self._max_length = max_length
        self._from_end = HELD_OUT[split]
        self._length = int(prepared.read_json(META)["num_evaluation_users"])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Question:
        if not 0 <= index < self._length:
            raise IndexError(index)
        items = self._histories.items(index).astype(np.int64)
        before, target = items[: -self._from_end], int(items[-self._from_end])
        seen = np.unique(before)
        # A user may come back to an item: then that item is the answer, and may not be hidden.
        return Question(before[-self._max_length :], target, seen[seen != target])


def collate(rows: Sequence[Any]) -> Batch:
    """Windows as history_BL and target_BL, questions as history_BL, target_B and seen_BS; 0 pads."""
    batch: Batch = {"history": pad_left([row.history for row in rows])}
    if isinstance(rows[0], Window):
        batch["target"] = pad_left([row.target for row in rows])
    else:
        batch["target"] = torch.tensor([row.target for row in rows], dtype=torch.int64)
        batch["seen"] = pad_left([row.seen for row in rows])
    return batch


def pad_left(rows: Sequence[np.ndarray]) -> torch.Tensor:
    """Rows of different lengths as one int64 tensor (B, L), L at least 1, with zeros before each row."""
    out_BL = np.zeros((len(rows), max([1, *map(len, rows)])), dtype=np.int64)
    for out_L, row in zip(out_BL, rows, strict=True):
        if len(row):
            out_L[-len(row) :] = row
    return torch.from_numpy(out_BL)
