"""Figures of forecasts, by window, and the simple methods that need no training; NumPy alone.

MASE is the mean over windows of the median's mean absolute error, divided by the mean absolute error that
the seasonal naive forecast makes before the window's origin (Hyndman and Koehler 2006). Training and the
endpoint judge by the same functions. It does not know how forecasts are made.

B windows, H steps, Q quantiles, T steps of a history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def measure(
    quantiles_BHQ: Array, raw_BH: Array, mask_BH: Array, scale_B: Array, level_Q: Array
) -> dict[str, Array]:
    """By window (B,), float64, all in raw units; `scale_B` is MASE's, 0 where it cannot be had.

    `mask_BH` is 1 where a step was observed. The names that end in `_sum` and `_count` are for `summarise`,
    which divides the one by the other.
    """
    quantiles_BHQ, raw_BH, mask_BH, scale_B, level_Q = (
        np.asarray(x, dtype=np.float64) for x in (quantiles_BHQ, raw_BH, mask_BH, scale_B, level_Q)
    )
    steps_B = mask_BH.sum(axis=1)
    seen_B = (steps_B > 0).astype(np.float64)
    share_BH = mask_BH / np.maximum(steps_B, 1.0)[:, None]
    median_BH = quantiles_BHQ[:, :, int(np.abs(level_Q - 0.5).argmin())]
    error_BH = np.abs(raw_BH - median_BH)
    scaled_B = seen_B * (scale_B > 0)
    size_BH = np.abs(raw_BH) + np.abs(median_BH)
    symmetric_BH = 200 * error_BH / np.where(size_BH > 0, size_BH, 1.0)
    difference_BHQ = raw_BH[:, :, None] - quantiles_BHQ
    pinball_BHQ = np.maximum(level_Q * difference_BHQ, (level_Q - 1) * difference_BHQ)
    inside_BH = (raw_BH >= quantiles_BHQ[:, :, 0]) & (raw_BH <= quantiles_BHQ[:, :, -1])
    return {
        "mase_sum": (error_BH * share_BH).sum(axis=1) / np.where(scale_B > 0, scale_B, 1.0) * scaled_B,
        "mase_count": scaled_B,
        "smape_sum": (symmetric_BH * share_BH).sum(axis=1),
        "window_count": seen_B,
        "wql_sum": (2 * pinball_BHQ.mean(axis=2) * mask_BH).sum(axis=1),
        "size_sum": (np.abs(raw_BH) * mask_BH).sum(axis=1),
        "coverage_sum": (inside_BH * share_BH).sum(axis=1),
    }


def summarise(means: Mapping[str, float]) -> dict[str, float]:
    """MASE, sMAPE in percent, weighted quantile loss; share of values within the outermost quantiles.

    NaN for a figure that cannot be had.
    """

    def ratio(top: str, bottom: str) -> float:
        return means[top] / means[bottom] if means[bottom] else float("nan")

    return {
        "mase": ratio("mase_sum", "mase_count"),
        "smape": ratio("smape_sum", "window_count"),
        "wql": ratio("wql_sum", "size_sum"),
        "coverage": ratio("coverage_sum", "window_count"),
    }


def mase_period(length: int, periods: Sequence[int]) -> int:
    """The longest of `periods` that a history of `length` steps holds once and more, or else 1."""
    return max((p for p in (1, *periods) if p < length), default=1)


def mase_scale(history: Array, periods: Sequence[int]) -> float:
    """Mean absolute error of the seasonal naive forecast on `history` (T,): what MASE is divided by.

    The period is `mase_period`. Steps where either value is missing do not count. 0 if the history does
    not move or cannot say. Hyndman and Koehler 2006.
    """
    period = mase_period(len(history), periods)
    steps = np.abs(history[period:] - history[:-period])
    steps = steps[~np.isnan(steps)]
    return float(steps.mean()) if len(steps) else 0.0


def naive(history: Array, horizon: int) -> Array:
    """The last value, again and again."""
    forecast: Array = np.full(horizon, history[-1])
    return forecast


def drift(history: Array, horizon: int, steps: int | None = None) -> Array:
    """The line through the last value and the one `steps` before it; through the first if there is none."""
    reach = len(history) - 1 if steps is None else min(steps, len(history) - 1)
    slope = (history[-1] - history[-1 - reach]) / reach if reach else 0.0
    forecast: Array = history[-1] + slope * np.arange(1, horizon + 1)
    return forecast


def seasonal_naive(history: Array, horizon: int, period: int) -> Array:
    """The last `period` values, again and again; the last value where the history is shorter."""
    if len(history) < period:
        return naive(history, horizon)
    return np.resize(history[-period:], horizon)
