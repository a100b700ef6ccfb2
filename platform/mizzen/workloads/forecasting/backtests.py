"""`POST /v1/timeseries/backtest`: forecasts of the past from rolling origins, judged as in training.

V variates, N windows, H steps, Q quantiles, A quantiles asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mizzen.errors import RequestError
from mizzen.workloads.forecasting import answers, figures, requests, scaling
from mizzen.workloads.forecasting.answers import Body, Content
from mizzen.workloads.forecasting.judged_protocol import BacktestRequest
from mizzen.workloads.forecasting.predictor import Forecasts, Window
from mizzen.workloads.forecasting.protocol import ForecastOptions, TimeSeriesInput
from mizzen.workloads.forecasting.requests import Series, Wanted
from mizzen.workloads.forecasting.service import Found, Served

Array = np.ndarray[Any, Any]
Sums = dict[str, float]
_NAMES = {"mase": "mase", "smape": "smape", "weighted_quantile_loss": "wql"}
"""Figures as an answer calls them, and as `figures` does."""


@dataclass(frozen=True)
class Plan:
    """Where the origins lie."""

    horizon: int
    num_windows: int
    step: int
    field: str = "options.num_windows"
    """Where a request says how many windows it wants."""

    def origins(self, length: int) -> list[int]:
        """Origins in a series of `length` steps, rising."""
        last = length - self.horizon
        return [last - i * self.step for i in reversed(range(self.num_windows))]

    def check(self, series: Series, field: str, served: Served) -> None:
        """Raises `RequestError` if an origin of `series` has too little before it."""
        needed = served.meta.min_context + self.horizon + (self.num_windows - 1) * self.step
        if series.length < needed:
            raise RequestError(
                f"series {series.name!r} is too short for its backtest",
                saw=f"{series.length} steps",
                allowed=f"{needed} or more: {served.meta.min_context} before the first origin,"
                f" {self.num_windows - 1} times a step of {self.step}, and a horizon of {self.horizon}",
                field=field,
            )
        origins = np.array(self.origins(series.length))
        seen_N = series.num_seen(origins, served.meta.context_length).min(axis=1)
        if (seen_N < served.meta.min_context).any():
            worst = int(seen_N.argmin())
            raise RequestError(
                f"series {series.name!r} has too few observations before the origin {origins[worst]}",
                saw=f"{seen_N[worst]} that are not null in the {served.meta.context_length} steps before it",
                allowed=f"{served.meta.min_context} or more",
                field=field,
            )


async def backtest(served: Served, body: BacktestRequest) -> Body:
    """Figures of each input's forecasts of its own past, beside those of the seasonal naive forecast."""
    options = body.options
    quantiles = ForecastOptions(horizon=options.horizon, quantiles=options.quantiles)
    want = requests.wanted(quantiles, served.meta, served.levels)
    plan = Plan(want.horizon, options.num_windows, options.step or want.horizon)
    found = await served.read(
        body.model,
        body.inputs,
        ahead=0,
        timestamps=False,
        check=lambda series, field: plan.check(series, field, served),
    )
    windows = all_windows(served, [one for one in found if isinstance(one, Series)], plan, len(want.levels))
    made = await served.forecasts(windows)
    return await asyncio.to_thread(_answer, served, body, plan, want, found, made)


def all_windows(served: Served, series: Sequence[Series], plan: Plan, num_levels: int) -> list[Window]:
    """The windows of all series: series by series, origins rising, variate by variate.

    Raises `RequestError` if they are too many.
    """
    count = plan.num_windows * sum(one.width for one in series)
    remedy = "Ask for fewer windows, or send several requests."
    served.check_num_windows(count, num_levels, plan.field, remedy)
    return [
        Window(one, variate, origin)
        for one in series
        for origin in plan.origins(one.length)
        for variate in range(one.width)
    ]


def _answer(
    served: Served, body: BacktestRequest, plan: Plan, want: Wanted, found: list[Found], made: Forecasts
) -> Body:
    contents: list[Content | RequestError] = []
    overall: tuple[Sums, Sums] = ({}, {})
    taken = read = 0
    for item, series in zip(body.inputs, found, strict=True):
        if isinstance(series, RequestError):
            contents.append(series)
            continue
        count = plan.num_windows * series.width
        part = slice(taken, taken + count)
        taken += count
        read += series.values_TV.size
        own = Forecasts(made.quantiles[part, : plan.horizon], made.mean[part, : plan.horizon])
        sums = _sums(served, series, plan, own)
        for total, more in zip(overall, sums, strict=True):
            for key, value in more.items():
                total[key] = total.get(key, 0.0) + value
        content = {"type": item.type, "name": item.name, "frequency": item.frequency, **_judgement(*sums)}
        if body.options.forecasts:
            content["windows"] = _windows(served, item, series, plan, want, own)
        contents.append(content)
    num_made = taken * plan.horizon * (1 + len(served.levels))
    return answers.write(
        served.identity, "time_series_backtest", contents, read, num_made, overall=_judgement(*overall)
    )


def _sums(served: Served, series: Series, plan: Plan, made: Forecasts) -> tuple[Sums, Sums]:
    """Sums over the windows of one series for `figures.summarise`: the model's, the seasonal naive's."""
    periods = served.meta.seasonality
    actual_NH, naive_NH, scale_N = [], [], []
    for origin in plan.origins(series.length):
        for variate in range(series.width):
            values_T = series.values_TV[:, variate]
            history_T = values_T[:origin]
            period = figures.mase_period(origin, periods)
            actual_NH.append(values_T[origin : origin + plan.horizon])
            naive_NH.append(figures.seasonal_naive(scaling.fill_forward(history_T), plan.horizon, period))
            scale_N.append(figures.mase_scale(history_T, periods))
    actual = np.stack(actual_NH)
    naive_NHQ = np.repeat(np.stack(naive_NH)[:, :, None], len(served.levels), axis=2)
    mask_NH, raw_NH = ~np.isnan(actual), np.nan_to_num(actual)

    def sums(quantiles_NHQ: Array) -> Sums:
        with np.errstate(over="ignore"):  # a history that hardly moved: the figure cannot be had
            found = figures.measure(
                quantiles_NHQ, raw_NH, mask_NH, np.array(scale_N), np.array(served.levels)
            )
        return {name: float(value.sum()) for name, value in found.items()}

    return sums(made.quantiles), sums(naive_NHQ)


def _judgement(model: Sums, naive: Sums) -> Content:
    ours, theirs = figures.summarise(model), figures.summarise(naive)
    ratio = {name: ours[key] / theirs[key] if theirs[key] else float("nan") for name, key in _NAMES.items()}
    return {
        "num_windows": int(model["window_count"]),
        "figures": {name: ours[key] for name, key in _NAMES.items()},
        "seasonal_naive": {name: theirs[key] for name, key in _NAMES.items()},
        "ratio": ratio,
    }


def _windows(
    served: Served, item: TimeSeriesInput, series: Series, plan: Plan, want: Wanted, made: Forecasts
) -> list[Content]:
    quantiles_NHA = answers.interpolate(made.quantiles, served.levels, want.levels)
    found = []
    for i, origin in enumerate(plan.origins(series.length)):
        part = slice(i * series.width, (i + 1) * series.width)
        found.append(
            {
                "origin": origin,
                "start_timestamp": answers.first_time(series, served.meta, origin),
                "mean_forecast": answers.columns(item, made.mean[part]),
                "quantiles": {
                    str(level): answers.columns(item, quantiles_NHA[part, :, a])
                    for a, level in enumerate(want.levels)
                },
                "observed": answers.columns(item, series.values_TV[origin : origin + plan.horizon].T),
            }
        )
    return found
