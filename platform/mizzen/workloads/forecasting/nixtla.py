"""Nixtla's protocol on our model: `/v2/forecast`, cross-validation and both anomaly detections.

A request is answered whole or not at all, as that protocol has no status for a single series. It does not
know KServe's protocol. N series, T steps of all series, K known and P past covariates.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic_core import to_json

from mizzen.errors import NotFoundError, RequestError
from mizzen.workloads.forecasting import answers, requests
from mizzen.workloads.forecasting.anomalies import check, check_step, interval, judge
from mizzen.workloads.forecasting.answers import Body
from mizzen.workloads.forecasting.backtests import Plan, all_windows
from mizzen.workloads.forecasting.nixtla_protocol import (
    AnomalyDetectionRequest,
    CrossValidationRequest,
    NixtlaForecastRequest,
    NixtlaRequest,
    OnlineAnomalyRequest,
    PastSeries,
)
from mizzen.workloads.forecasting.nixtla_series import known_ahead, offsets, read
from mizzen.workloads.forecasting.predictor import Forecasts, Window
from mizzen.workloads.forecasting.routes import aside
from mizzen.workloads.forecasting.service import Served

Array = np.ndarray[Any, Any]
ITS_OWN = "timegpt-1"
"""The model's name that the client sends when its user did not name one."""


async def forecast(served: Served, body: NixtlaForecastRequest) -> Body:
    """The next `h` steps of each series."""
    _check_model(served, body)
    horizon = requests.wanted_horizon(body.h, served.meta, "h")
    bounds = _bounds(body.level, served)
    future = body.series.X_future or []
    known = list(range(len(future)))
    series = await read(served, body.series, known, future, horizon)
    for one in series:
        requests.check_past(one, "series.sizes", served.meta)
    served.check_num_windows(len(series), 2 * len(bounds), "series.sizes", "Set num_partitions.")
    made = await served.forecasts([Window(one, 0, one.length) for one in series])
    return await _answer(served, made, horizon, bounds)


async def cross_validation(served: Served, body: CrossValidationRequest) -> Body:
    """Forecasts of each series' own past, from rolling origins."""
    _check_model(served, body)
    horizon = requests.wanted_horizon(body.h, served.meta, "h")
    bounds = _bounds(body.level, served)
    plan = Plan(horizon, body.n_windows, body.step_size or horizon, "n_windows")
    series = await read(served, body.series, known_ahead(body.series, body.hist_exog))
    for one in series:
        plan.check(one, "series.sizes", served)
    made = await served.forecasts(all_windows(served, series, plan, 2 * len(bounds)))
    starts = offsets(series)
    steps = np.arange(horizon)
    idxs = [
        start + origin + steps
        for one, start in zip(series, starts, strict=True)
        for origin in plan.origins(one.length)
    ]
    sizes = [plan.num_windows * horizon] * len(series)
    return await _answer(served, made, horizon, bounds, sizes=sizes, idxs=np.concatenate(idxs).tolist())


async def detect_anomalies(served: Served, body: AnomalyDetectionRequest) -> Body:
    """Every point that has enough before it, against the forecast made right before it."""
    known = list(range(len(served.meta.known_names)))
    return await _anomalies(served, body, body.series, known, body.level, None, 1, online=False)


async def detect_anomalies_online(served: Served, body: OnlineAnomalyRequest) -> Body:
    """The last points, against forecasts made every `step_size` points."""
    step = body.h if body.step_size is None else body.step_size
    if step > body.h:
        raise RequestError(
            "forecasts do not reach from one to the next",
            saw=step,
            allowed=f"up to h={body.h}",
            field="step_size",
        )
    check_step(body.h, served, "h")
    known = known_ahead(body.series, body.hist_exog)
    return await _anomalies(
        served, body, body.series, known, body.level, body.detection_size, step, online=True
    )


def check_frequency(served: Served, freq: str) -> None:
    """Raises `RequestError` if `freq` is not the model's; polars writes `30m` for half an hour."""
    spelled = f"{freq}in" if re.fullmatch(r"\d+m", freq) else freq
    requests.check_frequency(spelled, served.meta, "freq", "the request")


def check_name(served: Served, name: str | None) -> None:
    """Raises `NotFoundError` for another model's name."""
    if name not in (None, ITS_OWN, served.identity.name):
        raise NotFoundError(
            "no such model here",
            saw=repr(str(name)[:100]),
            allowed=f"{served.identity.name}, which {ITS_OWN} means here too",
            field="model",
        )


def _check_model(served: Served, body: NixtlaRequest) -> None:
    check_name(served, body.model)
    check_frequency(served, body.freq)
    if served.meta.calendar:
        raise RequestError(
            "this model reads the calendar, and Nixtla's protocol does not send times",
            saw="no times",
            allowed="a model without data.calendar",
            remedy="Use /v1/timeseries/forecast, which has start_timestamp.",
        )


def _bounds(level: Sequence[float] | None, served: Served) -> dict[str, float]:
    """The quantile for each of an answer's `lo-80`, `hi-80`, ..."""
    found: dict[str, float] = {}
    for one in level or ():
        low = high = 0.5
        if one > 0:
            _, low, high = interval(one / 100, served.levels, "level", 100)
        found |= {f"lo-{one}": low, f"hi-{one}": high}
    return found


async def _answer(
    served: Served, made: Forecasts, horizon: int, bounds: dict[str, float], **more: Any
) -> Body:
    def written() -> Body:
        asked = sorted({*bounds.values(), 0.5})
        quantiles_NHA = answers.interpolate(made.quantiles[:, :horizon], served.levels, asked)
        by_name = {
            name: quantiles_NHA[:, :, asked.index(level)].ravel().tolist() for name, level in bounds.items()
        }
        mean = quantiles_NHA[:, :, asked.index(0.5)] if "lo-0" in bounds else made.mean[:, :horizon]
        return _body(served, mean.ravel().tolist(), by_name or None, more)

    return await aside(16 * made.mean.size * (1 + len(bounds)), written)


async def _anomalies(
    served: Served,
    body: NixtlaRequest,
    given: PastSeries,
    known: list[int],
    level: float,
    last: int | None,
    step: int,
    *,
    online: bool,
) -> Body:
    _check_model(served, body)
    _, low, high = interval(level / 100, served.levels, "level", 100)
    series = await read(served, given, known)
    for one in series:
        check(one, "series.sizes", served, last)
    field = "detection_size" if online else "series.sizes"
    judged = await judge(served, series, (low, high), last, step, field)

    def written() -> Body:
        def flat(name: str) -> list[Any]:
            values: list[Any] = np.concatenate([getattr(one, name)[0] for one in judged]).tolist()
            return values

        more: dict[str, Any] = {
            "sizes": [one.score.shape[1] for one in judged],
            "anomaly": flat("anomaly"),
        }
        if online:
            indices = [
                np.arange(start + points.first, start + one.length)
                for one, start, points in zip(series, offsets(series), judged, strict=True)
            ]
            more |= {"idxs": np.concatenate(indices).tolist(), "anomaly_score": flat("score")}
        intervals = {f"lo-{level}": flat("lower"), f"hi-{level}": flat("upper")}
        return _body(served, flat("mean"), intervals, more)

    return await asyncio.to_thread(written)


def _body(
    served: Served, mean: list[float], intervals: dict[str, list[float]] | None, more: dict[str, Any]
) -> Body:
    content = {
        "mean": mean,
        "intervals": intervals,
        "weights_x": None,
        "feature_contributions": None,
        "model": served.identity.name,
        "model_version": served.identity.version,
        "model_digest": served.identity.digest,
        **more,
    }
    return Body(to_json(content, inf_nan_mode="null"), len(mean) * (1 + len(intervals or ())))
