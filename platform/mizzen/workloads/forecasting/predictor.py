"""Runs the model over windows of checked series: many at once, scaled and padded together.

One item of the dynamic batching is up to `CHUNK` windows, so a request of many series makes few items while
small requests share a call. It does not know HTTP and does not decide which windows are wanted.

B windows, V variates, T steps of past, H horizon, Q quantiles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mizzen.workloads.contract import Batching, Predict
from mizzen.workloads.forecasting import scaling
from mizzen.workloads.forecasting.requests import Series
from mizzen.workloads.forecasting.series import Meta

Array = np.ndarray[Any, Any]
CHUNK = 64
"""Windows in one item of the batching."""
MAX_ROWS = 512
"""Windows in one call of the graph, which bounds its memory."""
AT_ONCE = MAX_ROWS // CHUNK
"""Items of one request that wait or run together. More would hold up the small requests behind it."""


@dataclass(frozen=True)
class Window:
    """What a forecast is made from: a variate of a series, up to its step `origin`."""

    series: Series
    variate: int
    origin: int


@dataclass(frozen=True)
class Forecasts:
    """Of windows, in raw units: quantiles (B, H, Q) at the model's levels and means (B, H), float64."""

    quantiles: Array
    mean: Array


class Predictor:
    """The model of one version behind the dynamic batching."""

    def __init__(self, graph: Predict, meta: Meta, batched: Batching) -> None:
        self._graph, self._meta = graph, meta
        self._call = batched(self.run)

    async def forecasts(self, windows: Sequence[Window]) -> Forecasts:
        """Forecasts of all `windows`, in order. Each has at least one observation in its context."""
        chunks = [windows[i : i + CHUNK] for i in range(0, len(windows), CHUNK)]
        if len(chunks) == 1:
            return await self._call(chunks[0])
        parts: list[Forecasts] = []
        for i in range(0, len(chunks), AT_ONCE):
            parts += await asyncio.gather(*map(self._call, chunks[i : i + AT_ONCE]))
        return _joined(parts)

    def run(self, items: list[Sequence[Window]]) -> list[Forecasts]:
        """Forecasts of each item's windows; it blocks, so it runs in a thread."""
        windows = [window for item in items for window in item]
        found = _joined([self._run(windows[i : i + MAX_ROWS]) for i in range(0, len(windows), MAX_ROWS)])
        parts, taken = [], 0
        for item in items:
            part = slice(taken, taken + len(item))
            parts.append(Forecasts(found.quantiles[part], found.mean[part]))
            taken += len(item)
        return parts

    def _run(self, windows: list[Window]) -> Forecasts:
        inputs, scale = collate(windows, self._meta)
        outputs = self._graph(inputs)
        quantiles_BHQ = scale.up(outputs["quantiles"])
        # The graph's quantiles rise; a quantised one may round two of them past each other.
        return Forecasts(np.maximum.accumulate(quantiles_BHQ, axis=2), scale.up(outputs["mean"]))


def _joined(parts: Sequence[Forecasts]) -> Forecasts:
    if len(parts) == 1:
        return parts[0]
    return Forecasts(
        np.concatenate([part.quantiles for part in parts]), np.concatenate([part.mean for part in parts])
    )


def collate(windows: Sequence[Window], meta: Meta) -> tuple[dict[str, Array], scaling.Scale]:
    """Model inputs of windows of any length as one batch, padded on the left, and their scales."""
    length_B = np.minimum([window.origin for window in windows], meta.context_length)
    past, count = int(length_B.max()), len(windows)
    past_BT = np.full((count, past), np.nan)
    past_BTP = np.full((count, past, len(meta.past_names)), np.nan)
    known_BTK = np.full((count, past + meta.horizon, len(meta.known_names)), np.nan)
    times_BT = np.zeros((count, past + meta.horizon), dtype="datetime64[s]")
    for row, (window, length) in enumerate(zip(windows, length_B.tolist(), strict=True)):
        series, origin = window.series, window.origin
        begin = origin - length
        past_BT[row, past - length :] = series.values_TV[begin:origin, window.variate]
        if meta.past_names:
            past_BTP[row, past - length :] = series.past_TP[begin:origin]
        if meta.known_names:
            known = series.known_TK[begin : origin + meta.horizon]
            known_BTK[row, past - length : past - length + len(known)] = known
        if series.walls is not None:
            times_BT[row, past - length :] = series.walls[begin : origin + meta.horizon]
    scale = scaling.fit(past_BT, meta.scaling)
    return scaling.model_inputs(meta, scale, length_B, past_BT, past_BTP, known_BTK, times_BT), scale
