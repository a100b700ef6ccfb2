"""Figures of a forecast, by window, and the simple methods that need no training.

MASE is the mean over windows of the median's mean absolute error, divided by the mean absolute error that
the seasonal naive forecast makes before the window's origin (Hyndman and Koehler 2006). It does not know
how forecasts are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mizzen.workloads.forecasting.scaling import fill_forward
from mizzen.workloads.forecasting.series import Store
from mizzen.workloads.forecasting.windows import HeldOutWindows, TrainingWindows, mase_scale

Array = np.ndarray[Any, Any]


def measure(
    quantiles_BHQ: Tensor, raw_BH: Tensor, mask_BH: Tensor, scale_B: Tensor, level_Q: Tensor
) -> dict[str, Tensor]:
    """By row (B,), all in raw units; `scale_B` is MASE's, 0 where it cannot be had.

    The names that end in `_sum` and `_count` are for `summarise`, which divides the one by the other.
    """
    quantiles_BHQ, raw_BH, mask_BH = quantiles_BHQ.double(), raw_BH.double(), mask_BH.double()
    level_Q = level_Q.double()
    steps_B = mask_BH.sum(dim=1)
    seen_B = (steps_B > 0).double()
    share_BH = mask_BH / steps_B.clamp(min=1.0)[:, None]
    median_BH = quantiles_BHQ[:, :, int((level_Q - 0.5).abs().argmin())]
    error_BH = (raw_BH - median_BH).abs()
    scaled_B = seen_B * (scale_B > 0)
    size_BH = raw_BH.abs() + median_BH.abs()
    symmetric_BH = 200 * error_BH / torch.where(size_BH > 0, size_BH, 1.0)
    difference_BHQ = raw_BH[:, :, None] - quantiles_BHQ
    pinball_BHQ = torch.maximum(level_Q * difference_BHQ, (level_Q - 1) * difference_BHQ)
    inside_BH = (raw_BH >= quantiles_BHQ[:, :, 0]) & (raw_BH <= quantiles_BHQ[:, :, -1])
    return {
        "mase_sum": (error_BH * share_BH).sum(dim=1) / torch.where(scale_B > 0, scale_B, 1.0) * scaled_B,
        "mase_count": scaled_B,
        "smape_sum": (symmetric_BH * share_BH).sum(dim=1),
        "window_count": seen_B,
        "wql_sum": (2 * pinball_BHQ.mean(dim=2) * mask_BH).sum(dim=1),
        "size_sum": (raw_BH.abs() * mask_BH).sum(dim=1),
        "coverage_sum": (inside_BH * share_BH).sum(dim=1),
    }


def summarise(means: Mapping[str, float]) -> dict[str, float]:
    """MASE, sMAPE in percent, weighted quantile loss; share of values within the outermost quantiles."""

    def ratio(top: str, bottom: str) -> float:
        return means[top] / means[bottom] if means[bottom] else float("nan")

    return {
        "mase": ratio("mase_sum", "mase_count"),
        "smape": ratio("smape_sum", "window_count"),
        "wql": ratio("wql_sum", "size_sum"),
        "coverage": ratio("coverage_sum", "window_count"),
    }


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


def describe(store: Store, levels: Sequence[float]) -> dict[str, Any]:
    """How forecasts are judged: number of windows of each split, their horizon, and what lies between."""
    meta = store.meta
    return {
        "frequency": str(meta.frequency),
        "horizon": meta.horizon,
        "steps_between_origins": meta.stride,
        "test_windows": len(HeldOutWindows(store, "test", levels)),
        "validation_windows": len(HeldOutWindows(store, "validation", levels)),
        "training_windows": len(TrainingWindows(store, levels)),
        "mase_period": max(meta.seasonality, default=1),
    }


def baselines(store: Store, split: str, levels: Sequence[float]) -> dict[str, dict[str, float]]:
    """The figures of naive, drift, drift over the last three steps, and each seasonal naive.

    They are point forecasts: all their quantiles are the same.
    """
    horizon = store.meta.horizon
    methods: dict[str, Any] = {
        "naive": naive,
        "drift": drift,
        "drift_last_3": lambda history, horizon: drift(history, horizon, 3),
    }
    for period in store.meta.seasonality:
        methods[f"seasonal_naive_{period}"] = lambda h, n, period=period: seasonal_naive(h, n, period)
    sums: dict[str, dict[str, float]] = {name: {} for name in methods}
    windows = HeldOutWindows(store, split, levels).windows
    level_Q = torch.tensor(levels, dtype=torch.float64)
    for series, origin in windows:
        history = store.target(series, 0, origin)
        scale = torch.tensor([mase_scale(history, store.meta.seasonality)], dtype=torch.float64)
        future = torch.from_numpy(store.target(series, origin, origin + horizon).copy())[None]
        mask = ~future.isnan()
        filled = fill_forward(history)
        for name, method in methods.items():
            forecast = torch.from_numpy(method(filled, horizon))[None, :, None].expand(-1, -1, len(levels))
            for key, value in measure(forecast, future.nan_to_num(), mask, scale, level_Q).items():
                sums[name][key] = sums[name].get(key, 0.0) + float(value)
    return {
        name: summarise({key: value / len(windows) for key, value in figures.items()})
        for name, figures in sums.items()
        if figures
    }
