"""`POST /v1/timeseries/anomalies`: points that lie outside of the interval in which they were to be expected.

The interval of a point comes from a forecast that is made from the points before it alone.
V variates, N points, H steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mizzen.errors import RequestError
from mizzen.workloads.forecasting import answers
from mizzen.workloads.forecasting.answers import Body, Content
from mizzen.workloads.forecasting.judged_protocol import AnomalyRequest
from mizzen.workloads.forecasting.predictor import Window
from mizzen.workloads.forecasting.protocol import TimeSeriesInput
from mizzen.workloads.forecasting.requests import Series
from mizzen.workloads.forecasting.service import Found, Served

Array = np.ndarray[Any, Any]
_LARGEST_SCORE = 1e9
"""Where the interval has no width, any distance would be infinitely far out."""


@dataclass(frozen=True)
class Judged:
    """The points of one series from step `first` on, (V, N) each; NaN where a point was not judged."""

    first: int
    mean: Array
    median: Array
    lower: Array
    upper: Array
    score: Array
    anomaly: Array
    """Whether the point was judged and lies outside."""


def interval(
    level: float | None, levels: Sequence[float], field: str, unit: int = 1
) -> tuple[float, float, float]:
    """`level` and the quantiles that bound its interval; the widest for None.

    An error speaks of levels times `unit`: 100 where a request has percents. Raises `RequestError` if they
    lie outside of the model's outermost.
    """
    widest = round(1 - 2 * max(levels[0], 1 - levels[-1]), 10)
    wanted = widest if level is None else level
    if not 0 < wanted <= widest:
        raise RequestError(
            "the model does not know so wide an interval" if widest > 0 else "the model knows no interval",
            saw=f"{wanted * unit:g}",
            allowed=f"up to {widest * unit:g}, which lies between its quantiles {levels[0]} and {levels[-1]}",
            remedy="Ask for less, or train with wider model.quantiles.",
            field=field,
        )
    # Within the model's levels whatever the rounding: 1 - 0.8 is a little less than 0.2.
    low = max(levels[0], round((1 - wanted) / 2, 10))
    return wanted, low, min(levels[-1], round((1 + wanted) / 2, 10))


def check(series: Series, field: str, served: Served, last: int | None) -> None:
    """Raises `RequestError` if `series` is too short for its `last` points to be judged."""
    needed = served.meta.min_context + (last or 1)
    if series.length < needed:
        raise RequestError(
            f"series {series.name!r} is too short",
            saw=f"{series.length} steps",
            allowed=f"{needed} or more: {served.meta.min_context} before the first point judged,"
            f" and the {last or 1} to be judged",
            field=field,
        )


async def anomalies(served: Served, body: AnomalyRequest) -> Body:
    """Flags, scores and intervals of the last points of each input."""
    options = body.options
    level, low, high = interval(options.level, served.levels, "options.level")
    check_step(options.step, served, "options.step")
    found = await served.read(
        body.model,
        body.inputs,
        ahead=0,
        timestamps=options.timestamps,
        check=lambda series, field: check(series, field, served, options.last),
    )
    good = [one for one in found if isinstance(one, Series)]
    judged = await judge(served, good, (low, high), options.last, options.step, "options.last")
    return await asyncio.to_thread(_answer, served, body, level, found, judged)


def check_step(step: int, served: Served, field: str) -> None:
    """Raises `RequestError` if points would lie further ahead than the model forecasts."""
    if step > served.meta.horizon:
        raise RequestError(
            "forecasts do not reach from one to the next",
            saw=f"a step of {step}",
            allowed=f"1 to {served.meta.horizon}, the model's horizon",
            field=field,
        )


async def judge(
    served: Served,
    series: Sequence[Series],
    bounds: tuple[float, float],
    last: int | None,
    step: int,
    field: str,
) -> list[Judged]:
    """Each series' `last` points (all if None) against forecasts made every `step` points."""
    firsts = [served.meta.min_context if last is None else one.length - last for one in series]
    count = sum(
        one.width * -(-(one.length - first) // step) for one, first in zip(series, firsts, strict=True)
    )
    remedy = "Judge fewer points, or with a larger step, or send several requests."
    served.check_num_windows(count, len(served.levels), field, remedy)
    places = [_places(one, served, first, step) for one, first in zip(series, firsts, strict=True)]
    windows = [
        Window(one, variate, origin)
        for one, mine in zip(series, places, strict=True)
        for variate, origin in mine
    ]
    values = np.zeros((0, step, 4))
    if windows:
        made = await served.forecasts(windows)
        quantiles_NHA = answers.interpolate(made.quantiles, served.levels, (bounds[0], 0.5, bounds[1]))
        values = np.concatenate([made.mean[:, :, None], quantiles_NHA], axis=2)[:, :step]
    found, taken = [], 0
    for one, first, mine in zip(series, firsts, places, strict=True):
        points = _judged(one, first, step, mine, values[taken : taken + len(mine)])
        served.records.judged(points.score, points.anomaly)
        found.append(points)
        taken += len(mine)
    return found


def _places(series: Series, served: Served, first: int, step: int) -> list[tuple[int, int]]:
    """Variate and origin of the forecasts that can be made: with enough observations in the context."""
    origins = np.arange(first, series.length, step)
    enough = series.num_seen(origins, served.meta.context_length) >= served.meta.min_context
    return [
        (variate, int(origin)) for variate in range(series.width) for origin in origins[enough[:, variate]]
    ]


def _judged(series: Series, first: int, step: int, places: list[tuple[int, int]], made: Array) -> Judged:
    """Points of one series; `made` (places, step, 4) holds mean, lower, median, upper."""
    count = series.length - first
    points = np.full((4, series.width, count + step), np.nan)
    for i, (variate, origin) in enumerate(places):
        points[:, variate, origin - first : origin - first + step] = made[i].T
    mean, lower, median, upper = points[:, :, :count]
    actual = series.values_TV[first:].T
    distance = actual - median
    reach = np.where(distance >= 0, upper - median, median - lower)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        score = np.where(distance == 0, 0.0, np.abs(distance) / reach)
    score = np.where(np.isnan(distance), np.nan, np.minimum(score, _LARGEST_SCORE))
    return Judged(first, mean, median, lower, upper, score, (actual < lower) | (actual > upper))


def _answer(
    served: Served, body: AnomalyRequest, level: float, found: list[Found], judged: list[Judged]
) -> Body:
    contents: list[Content | RequestError] = []
    left, read, made = iter(judged), 0, 0
    for item, series in zip(body.inputs, found, strict=True):
        if isinstance(series, RequestError):
            contents.append(series)
            continue
        points = next(left)
        read += series.values_TV.size
        made += 4 * points.score.size
        content = _content(served, item, series, level, points)
        if body.options.timestamps:
            count = points.score.shape[1]
            content["timestamps"] = answers.times(series, served.meta, points.first, count)
        contents.append(content)
    return answers.write(served.identity, "time_series_anomalies", contents, read, made)


def _content(served: Served, item: TimeSeriesInput, series: Series, level: float, points: Judged) -> Content:
    flags = points.anomaly.astype(object)
    flags[np.isnan(points.score)] = None
    return {
        "type": item.type,
        "name": item.name,
        "frequency": item.frequency,
        "first": points.first,
        "start_timestamp": answers.first_time(series, served.meta, points.first),
        "level": level,
        "num_anomalies": int(points.anomaly.sum()),
        "anomaly": answers.columns(item, flags),
        "score": answers.columns(item, points.score),
        "lower": answers.columns(item, points.lower),
        "upper": answers.columns(item, points.upper),
        "median": answers.columns(item, points.median),
    }
