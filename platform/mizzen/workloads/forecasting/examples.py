"""Requests that work on a model: made-up series with its frequency, a rising line and its seasons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mizzen.workloads.contract import Example
from mizzen.workloads.forecasting.export import read_facts
from mizzen.workloads.forecasting.protocol import TimeSeriesInput
from mizzen.workloads.forecasting.series import Meta


def example_input(meta: Meta, more: int = 0, ahead: int | None = None) -> TimeSeriesInput:
    """A series as long as the model likes, and `more` steps; covariates for it and `ahead` steps."""
    ahead = meta.horizon if ahead is None else ahead
    length = max(meta.min_context, min(meta.context_length, max((24, *(2 * p for p in meta.seasonality)))))
    length += more
    step_T = np.arange(length)
    values_T = 1000.0 + step_T
    for period in meta.seasonality:
        values_T = values_T + 100 * np.sin(2 * np.pi * step_T / period)
    return TimeSeriesInput(
        name="example",
        series=np.round(values_T, 1).tolist(),
        frequency=meta.frequency.iso,
        start_timestamp="2024-01-01T00:00:00",
        past_covariates={name: [0.0] * length for name in meta.past_names},
        known_covariates={name: [0.0] * (length + ahead) for name in meta.known_names},
    )


def examples(folder: Path) -> Sequence[Example]:
    """Requests that work on the model in `folder`, one a route; Nixtla's only if the model needs no times."""
    meta, levels = read_facts(folder)
    horizon = min(meta.horizon, 12)
    options: dict[str, Any] = {"horizon": horizon, "quantiles": [levels[0], 0.5, levels[-1]]}
    past = [_body(example_input(meta, more=2 * horizon, ahead=0))]
    found = [
        Example("/v1/timeseries/forecast", {"inputs": [_body(example_input(meta))], "options": options}),
        Example(
            "/v1/timeseries/backtest",
            {"inputs": past, "options": {"horizon": horizon, "num_windows": 2}},
        ),
    ]
    if len(levels) > 1:
        found.append(Example("/v1/timeseries/anomalies", {"inputs": past, "options": {"last": horizon}}))
    if not meta.calendar:
        found += _nixtla(meta, levels, horizon)
    return found


def _nixtla(meta: Meta, levels: Sequence[float], horizon: int) -> list[Example]:
    item = example_input(meta, more=horizon, ahead=0)
    length = len(item.series)
    num_covariates = len(meta.known_names) + len(meta.past_names)
    series: dict[str, Any] = {"y": item.series, "sizes": [length]}
    if num_covariates:
        series["X"] = [[0.0] * length] * num_covariates
    future = {"X_future": [[0.0] * horizon] * len(meta.known_names)} if meta.known_names else {}
    common: dict[str, Any] = {"freq": meta.frequency.iso, "series": series}
    historic = {"hist_exog": [*range(len(meta.known_names), num_covariates)]} if meta.past_names else {}
    found = [
        Example("/v2/forecast", {**common, "series": {**series, **future}, "h": horizon}),
        Example("/v2/cross_validation", {**common, **historic, "h": horizon, "n_windows": 1}),
    ]
    widest = int(100 - 200 * max(levels[0], 1 - levels[-1]) + 1e-6)
    if widest > 0:
        found += [
            Example("/v2/anomaly_detection", {**common, "level": widest}),
            Example(
                "/v2/online_anomaly_detection",
                {**common, **historic, "h": horizon, "detection_size": horizon, "level": widest},
            ),
        ]
    return found


def _body(item: TimeSeriesInput) -> dict[str, Any]:
    return {"type": item.type, **item.model_dump(mode="json", exclude_defaults=True)}
