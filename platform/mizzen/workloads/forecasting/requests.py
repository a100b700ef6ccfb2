"""From the body of a request to windows for the model, and from its quantiles back to a body.

Everything that can be wrong with a request is found here, before the model is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

from mizzen.errors import InputError, RequestError
from mizzen.workloads.forecasting import frequency, scaling
from mizzen.workloads.forecasting.config import ServeOptions
from mizzen.workloads.forecasting.protocol import (
    ForecastOptions,
    TimeSeriesForecast,
    TimeSeriesInput,
    Values,
)
from mizzen.workloads.forecasting.scaling import Scale
from mizzen.workloads.forecasting.series import Meta

Array = np.ndarray[Any, Any]
_LARGEST = 1e30
"""Beyond this, differences of float64 values and their sums may overflow on the way."""


@dataclass(frozen=True)
class Window:
    """One variate, ready for the model."""

    inputs: dict[str, Array]
    scale: Scale


@dataclass(frozen=True)
class Wanted:
    """What a request asks of every series: steps, and quantiles in the order that it named them."""

    horizon: int
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Start:
    """When a series starts: the time on the clock, and the offset from UTC that it was written with.

    The model reads the clock of the request; in training it read UTC.
    """

    time: np.datetime64
    offset: timedelta | None

    def spell(self, time: np.datetime64) -> str:
        """`time` as ISO 8601, with the offset that the request used."""
        moment: datetime = time.astype("datetime64[s]").item()
        if self.offset is None:
            return moment.isoformat()
        written = moment.replace(tzinfo=timezone(self.offset)).isoformat()
        return written if self.offset else written.replace("+00:00", "Z")


def wanted(options: ForecastOptions, meta: Meta, levels: list[float]) -> Wanted:
    """What `options` ask for. Raises `RequestError` with the model's longest horizon or its quantiles."""
    horizon = meta.horizon if options.horizon is None else options.horizon
    if horizon > meta.horizon:
        raise RequestError(
            "the horizon is longer than the model's",
            saw=horizon,
            allowed=f"1 to {meta.horizon} steps",
            remedy="Ask for less, or train a model with a larger data.horizon.",
            field="options.horizon",
        )
    asked = tuple(levels if options.quantiles is None else options.quantiles)
    outside = [level for level in asked if not levels[0] <= level <= levels[-1]]
    if outside or len(set(asked)) != len(asked):
        raise RequestError(
            "a quantile is outside of what the model was trained for"
            if outside
            else "a quantile stands twice",
            saw=", ".join(map(str, outside or asked)),
            allowed=f"{levels[0]} to {levels[-1]}, each once",
            remedy="Train with wider model.quantiles for more extreme ones." if outside else None,
            field="options.quantiles",
        )
    return Wanted(horizon, asked)


def windows(item: TimeSeriesInput, where: str, meta: Meta, options: ServeOptions) -> list[Window]:
    """The windows of one input, one a variate. Raises `RequestError` naming the field below `where`."""
    _check_frequency(item, where, meta)
    series_TV = _series(item, where, options)
    length = len(series_TV)
    past_TP = _covariates(item.past_covariates, meta.past_names, length, f"{where}.past_covariates", "series")
    known_TK = _covariates(
        item.known_covariates,
        meta.known_names,
        length + meta.horizon,
        f"{where}.known_covariates",
        f"series and its horizon of {meta.horizon}",
    )
    start = start_of(item, where, meta)
    begin = max(0, length - meta.context_length)
    if start is None:
        times_T = np.zeros(length - begin + meta.horizon, dtype="datetime64[s]")
    else:
        times_T = meta.frequency.times(start.time, begin, length - begin + meta.horizon)
    found = []
    for variate in range(series_TV.shape[1]):
        past_T = series_TV[begin:, variate]
        seen = int((~np.isnan(past_T)).sum())
        if seen < meta.min_context:
            raise RequestError(
                f"series {item.name!r} is too short",
                saw=f"{seen} observations that are not null in the last {meta.context_length} steps",
                allowed=f"{meta.min_context} or more",
                field=f"{where}.series",
            )
        scale = scaling.fit(past_T, meta.scaling)
        inputs = scaling.model_inputs(meta, scale, past_T, past_TP[begin:], known_TK[begin:], times_T)
        found.append(Window(inputs, scale))
    return found


def _check_frequency(item: TimeSeriesInput, where: str, meta: Meta) -> None:
    try:
        given = frequency.parse(item.frequency)
    except InputError as cause:
        raise RequestError(
            "no such frequency", saw=repr(item.frequency), allowed=cause.allowed, field=f"{where}.frequency"
        ) from None
    if given != meta.frequency:
        raise RequestError(
            f"series {item.name!r} has another frequency than the model",
            saw=str(given),
            allowed=f"{meta.frequency}, on which the model was trained",
            field=f"{where}.frequency",
        )


def _series(item: TimeSeriesInput, where: str, options: ServeOptions) -> Array:
    """The observations (T, V), NaN where null."""
    rows: list[Any] = list(item.series)
    nested = isinstance(rows[0], list)
    if nested != (item.type == "multivariate_time_series"):
        raise RequestError(
            f"series {item.name!r} does not have the shape of its type",
            saw=f"{item.type} with {'lists' if nested else 'numbers'}",
            allowed="univariate_time_series: a list of numbers; multivariate_time_series: one list a step",
            field=f"{where}.series",
        )
    if len(rows) > options.max_length:
        raise RequestError(
            f"series {item.name!r} is too long",
            saw=f"{len(rows)} steps",
            allowed=f"{options.max_length}",
            remedy="Send the last steps only.",
            field=f"{where}.series",
        )
    widths = {len(row) for row in rows} if nested else {1}
    if len(widths) > 1 or 0 in widths:
        raise RequestError(
            f"the steps of series {item.name!r} do not have as many values each",
            saw=", ".join(map(str, sorted(widths))),
            allowed="one value a variate, or null",
            field=f"{where}.series",
        )
    values = _floats(rows, f"{where}.series")
    return values if nested else values[:, None]


def _floats(values: list[Any], field: str) -> Array:
    array: Array = np.array(values, dtype=np.float64)
    if (np.abs(array) > _LARGEST).any():
        raise RequestError(
            "a value is too large",
            saw=float(np.nanmax(np.abs(array))),
            allowed=f"numbers up to {_LARGEST:g}",
            field=field,
        )
    return array


def _covariates(
    given: dict[str, Values], names: tuple[str, ...], length: int, field: str, spans: str
) -> Array:
    """Covariates (length, names) in the model's order, NaN where null."""
    if set(given) != set(names):
        raise RequestError(
            "the covariates are not those that the model was trained with",
            saw=", ".join(sorted(given)) or "none",
            allowed=", ".join(names) or "none",
            field=field,
        )
    for name in names:
        if len(given[name]) != length:
            raise RequestError(
                f"the covariate {name!r} does not span its steps",
                saw=f"{len(given[name])} values",
                allowed=f"{length}, as many as {spans} have",
                field=f"{field}.{name}",
            )
    columns = [_floats(list(given[name]), f"{field}.{name}") for name in names]
    return np.stack(columns, axis=1) if columns else np.zeros((length, 0))


def start_of(item: TimeSeriesInput, where: str, meta: Meta) -> Start | None:
    """When `item` starts. Raises `RequestError` if it must be said and is not, or is no time."""
    field = f"{where}.start_timestamp"
    if item.start_timestamp is None:
        if meta.calendar:
            raise RequestError(
                f"series {item.name!r} does not say when it starts",
                allowed="start_timestamp in ISO 8601: the model reads " + ", ".join(meta.calendar),
                field=field,
            )
        return None
    try:
        moment = datetime.fromisoformat(item.start_timestamp)
        offset = moment.utcoffset()
        time = np.datetime64(moment.replace(tzinfo=None), "s")
        last = meta.frequency.times(time, 0, len(item.series) + meta.horizon)[-1]
        beyond = last > np.datetime64("9999-12-31", "s")
    except (ValueError, OverflowError):
        raise RequestError(
            f"the start of series {item.name!r} is no time",
            saw=repr(item.start_timestamp),
            allowed="ISO 8601, for instance 2024-01-31T00:30:00Z",
            field=field,
        ) from None
    if beyond:
        raise RequestError(
            f"series {item.name!r} reaches beyond the year 9999", saw=item.start_timestamp, field=field
        )
    return Start(time, offset)


def interpolate(quantiles_HQ: Array, levels: list[float], asked: tuple[float, ...]) -> Array:
    """Quantiles (H, A) at the levels that were asked for: linear between the model's, and never crossing."""
    order = np.argsort(asked)
    rising = np.array(asked)[order]
    made = np.stack([np.interp(rising, levels, row) for row in quantiles_HQ])
    # Rounding in the interpolation may turn equal values by a last digit.
    made = np.maximum.accumulate(made, axis=1)
    result = np.empty_like(made)
    result[:, order] = made
    return result


def forecast(
    item: TimeSeriesInput,
    where: str,
    meta: Meta,
    want: Wanted,
    levels: list[float],
    answers: list[tuple[Array, Array]],
) -> TimeSeriesForecast:
    """The forecast of one input from raw quantiles (H, Q) and means (H,), one pair a variate."""
    start = start_of(item, where, meta)
    at = None
    if start is not None:
        at = start.spell(meta.frequency.times(start.time, len(item.series), 1)[0])
    made = [interpolate(quantiles_HQ[: want.horizon], levels, want.levels) for quantiles_HQ, _ in answers]
    several = item.type == "multivariate_time_series"

    def steps(columns: list[Array]) -> Any:
        return np.stack(columns, axis=1).tolist() if several else columns[0].tolist()

    return TimeSeriesForecast(
        type=item.type,
        name=item.name,
        mean_forecast=steps([mean_H[: want.horizon] for _, mean_H in answers]),
        frequency=item.frequency,
        start_timestamp=at,
        quantiles={str(level): steps([m[:, i] for m in made]) for i, level in enumerate(want.levels)},
    )
