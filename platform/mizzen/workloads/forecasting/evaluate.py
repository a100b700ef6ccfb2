"""Judges a model in training: the figures of `figures`, over tensors and prepared series.

It does not know how forecasts are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mizzen.workloads.forecasting import figures
from mizzen.workloads.forecasting.figures import drift, mase_scale, naive, seasonal_naive
from mizzen.workloads.forecasting.scaling import fill_forward
from mizzen.workloads.forecasting.series import Store
from mizzen.workloads.forecasting.windows import HeldOutWindows, TrainingWindows

Array = np.ndarray[Any, Any]


def measure(
    quantiles_BHQ: Tensor, raw_BH: Tensor, mask_BH: Tensor, scale_B: Tensor, level_Q: Tensor
) -> dict[str, Tensor]:
    """`figures.measure` of tensors; the result lies where `raw_BH` does."""
    arrays = [x.detach().cpu().double().numpy() for x in (quantiles_BHQ, raw_BH, mask_BH, scale_B, level_Q)]
    found = figures.measure(*arrays)
    return {name: torch.from_numpy(value).to(raw_BH.device) for name, value in found.items()}


def summarise(means: Mapping[str, float]) -> dict[str, float]:
    """MASE, sMAPE in percent, weighted quantile loss; share of values within the outermost quantiles."""
    return figures.summarise(means)


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
    level_Q = np.array(levels)
    for series, origin in windows:
        history = store.target(series, 0, origin)
        scale_B = np.array([mase_scale(history, store.meta.seasonality)])
        future_BH = store.target(series, origin, origin + horizon)[None]
        mask_BH = ~np.isnan(future_BH)
        filled = fill_forward(history)
        for name, method in methods.items():
            forecast_BHQ = np.repeat(method(filled, horizon)[None, :, None], len(levels), axis=2)
            row = figures.measure(forecast_BHQ, np.nan_to_num(future_BH), mask_BH, scale_B, level_Q)
            for key, value in row.items():
                sums[name][key] = sums[name].get(key, 0.0) + float(value[0])
    return {
        name: summarise({key: value / len(windows) for key, value in found.items()})
        for name, found in sums.items()
        if found
    }
