"""Examples for training and evaluation: a stretch of past, a horizon, and what is needed to judge it.

An origin is the first step that is forecast. Inputs come from before it alone (known covariates and the
calendar excepted); training windows end before the first step of any held-out window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mizzen.workloads.contract import Batch
from mizzen.workloads.forecasting import scaling
from mizzen.workloads.forecasting.figures import mase_scale
from mizzen.workloads.forecasting.series import Store

Array = np.ndarray[Any, Any]


def window(store: Store, series: int, origin: int, end: int) -> dict[str, Array]:
    """The example of one origin; steps of the target from `end` on are not looked at."""
    meta = store.meta
    begin = max(0, origin - meta.context_length)
    stop = min(origin + meta.horizon, end)
    past_T = store.target(series, begin, origin)
    future_H = np.full(meta.horizon, np.nan)
    future_H[: stop - origin] = store.target(series, origin, stop)
    known_TK = np.full((origin - begin + meta.horizon, len(meta.known_names)), np.nan, dtype=np.float32)
    known_TK[: stop - begin] = store.known(series, begin, stop)
    times_T = meta.frequency.times(store.start(series), begin, origin - begin + meta.horizon)
    scale = scaling.fit(past_T[None], meta.scaling)
    past_TP = store.past(series, begin, origin)
    length_B = np.array([len(past_T)])
    inputs = scaling.model_inputs(
        meta, scale, length_B, past_T[None], past_TP[None], known_TK[None], times_T[None]
    )
    example = {name: value[0] for name, value in inputs.items()}
    observed_H = ~np.isnan(future_H)
    example["future_target"] = np.where(observed_H, scale.down(future_H), 0.0).astype(np.float32)
    example["future_mask"] = observed_H.astype(np.float32)
    example["future_raw"] = np.where(observed_H, future_H, 0.0)
    example["scale"] = np.concatenate([scale.location, scale.scale])
    return example


class TrainingWindows(Dataset[dict[str, Array]]):
    """Every origin, `train_stride` apart, at which the past has an observation and the horizon too.

    A horizon may reach over the end of the training part: its steps there are masked.
    """

    def __init__(self, store: Store, levels: Sequence[float]) -> None:
        self._store, self._levels = store, np.array(levels, dtype=np.float32)
        meta = store.meta
        self._end = np.array([meta.training_end(int(length)) for length in store.lengths], dtype=np.int64)
        count = -(-(self._end - meta.min_context) // meta.train_stride)
        self._last = np.cumsum(np.maximum(count, 0))

    def __len__(self) -> int:
        return int(self._last[-1])

    def __getitem__(self, index: int) -> dict[str, Array]:
        series = int(np.searchsorted(self._last, index, side="right"))
        before = int(self._last[series - 1]) if series else 0
        origin = self._store.meta.min_context + (index - before) * self._store.meta.train_stride
        example = window(self._store, series, origin, int(self._end[series]))
        return {**example, "levels": self._levels}


class HeldOutWindows(Dataset[dict[str, Array]]):
    """The windows of a split, series after series, origins rising, with their MASE scale.

    `levels` are the model's quantiles: each example carries them, for the loss and the figures."""

    def __init__(self, store: Store, split: str, levels: Sequence[float]) -> None:
        self._store, self._levels = store, np.array(levels, dtype=np.float32)
        self.windows = [
            (series, origin)
            for series, length in enumerate(store.lengths)
            for origin in store.meta.origins(int(length), split)
            if not np.isnan(store.target(series, max(0, origin - store.meta.context_length), origin)).all()
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Array]:
        series, origin = self.windows[index]
        example = window(self._store, series, origin, origin + self._store.meta.horizon)
        history = self._store.target(series, 0, origin)
        example["mase_scale"] = np.array(mase_scale(history, self._store.meta.seasonality))
        return {**example, "levels": self._levels}


def collate(rows: Sequence[dict[str, Array]]) -> Batch:
    """Examples as one batch of tensors; pasts are padded with zeros on the left to the longest.

    `known` holds past and horizon in one, so padding on the left suits it, too.
    """
    batch: Batch = {}
    past = max(len(row["past_target"]) for row in rows)
    horizon = len(rows[0]["future_target"])
    lengths = {"past_target": past, "past_mask": past, "past_covariates": past, "known": past + horizon}
    for name in rows[0]:
        values = [row[name] for row in rows]
        stacked = scaling.pad_left(values, lengths[name]) if name in lengths else np.stack(values)
        batch[name] = torch.from_numpy(stacked)
    return batch
