"""From the body of a request to series that can be forecast; everything that can be wrong is found here.

It does not call the model and does not write answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mizzen.errors import InputError, RequestError
from mizzen.workloads.forecasting import clock, frequency
from mizzen.workloads.forecasting.clock import Start
from mizzen.workloads.forecasting.config import ServeOptions
from mizzen.workloads.forecasting.protocol import ForecastOptions, TimeSeriesInput, Values
from mizzen.workloads.forecasting.series import Meta

Array = np.ndarray[Any, Any]
_LARGEST = 1e30
"""Beyond this, differences of float64 values and their sums may overflow on the way."""


@dataclass(frozen=True)
class Series:
    """One input, checked: T steps, V variates, P past and K known covariates in the model's order.

    `known` may go on beyond the T steps, as far as the horizon of the model; NaN where nothing is known.
    """

    name: str
    values_TV: Array
    past_TP: Array
    known_TK: Array
    start: Start | None = None
    walls: Array | None = None
    """What the clock shows at each step and over the horizon, if the model reads the calendar."""

    @property
    def length(self) -> int:
        """T."""
        return len(self.values_TV)

    @property
    def width(self) -> int:
        """V."""
        return int(self.values_TV.shape[1])

    def num_seen(self, origins: Array, context_length: int) -> Array:
        """Observations of each variate within the context before each of `origins` (N,): (N, V)."""
        before_TV = np.zeros((self.length + 1, self.width), dtype=np.int64)
        np.cumsum(~np.isnan(self.values_TV), axis=0, out=before_TV[1:])
        found: Array = before_TV[origins] - before_TV[np.maximum(0, origins - context_length)]
        return found


@dataclass(frozen=True)
class Wanted:
    """What a request asks of every series: steps, and quantiles in the order that it named them."""

    horizon: int
    levels: tuple[float, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The levels as an answer names them."""
        return tuple(map(str, self.levels))


def wanted_horizon(asked: int | None, meta: Meta, field: str = "options.horizon") -> int:
    """Steps to forecast. Raises `RequestError` with the model's longest horizon."""
    horizon = meta.horizon if asked is None else asked
    if horizon > meta.horizon:
        raise RequestError(
            "the horizon is longer than the model's",
            saw=horizon,
            allowed=f"1 to {meta.horizon} steps",
            remedy="Ask for less, or train a model with a larger data.horizon.",
            field=field,
        )
    return horizon


def wanted(options: ForecastOptions, meta: Meta, levels: list[float]) -> Wanted:
    """What `options` ask for. Raises `RequestError` with the model's longest horizon or its quantiles."""
    horizon = wanted_horizon(options.horizon, meta)
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


def read(
    item: TimeSeriesInput, where: str, meta: Meta, options: ServeOptions, *, ahead: int, timestamps: bool
) -> Series:
    """One input of a request, of which `ahead` steps beyond its end are to be forecast.

    Raises `RequestError` naming the field below `where`.
    """
    check_frequency(item.frequency, meta, f"{where}.frequency", f"series {item.name!r}")
    values_TV = _values(item, where, options)
    length = len(values_TV)
    past_TP = _covariates(item.past_covariates, "past", meta.past_names, length, 0, 0, where)
    look = meta.horizon if ahead else 0
    known_TK = _covariates(item.known_covariates, "known", meta.known_names, length, ahead, look, where)
    start = _start(item, where, meta, length, timestamps)
    walls = None
    if meta.calendar and start is not None:
        walls = start.walls(meta.frequency, 0, length + meta.horizon)
    return Series(item.name, values_TV, past_TP, known_TK, start, walls)


def check_past(series: Series, field: str, meta: Meta) -> None:
    """Raises `RequestError` if a variate has too few observations at its end to be forecast from."""
    past_TV = series.values_TV[-meta.context_length :]
    seen = len(past_TV)
    if math.isnan(past_TV.sum()):
        seen = int((~np.isnan(past_TV)).sum(axis=0).min())
    if seen < meta.min_context:
        raise RequestError(
            f"series {series.name!r} is too short",
            saw=f"{seen} observations that are not null in the last {meta.context_length} steps",
            allowed=f"{meta.min_context} or more",
            field=field,
        )


def check_frequency(text: str, meta: Meta, field: str, what: str) -> None:
    """Raises `RequestError` if `text` does not mean the model's frequency."""
    try:
        given = frequency.parse(text)
    except InputError as cause:
        raise RequestError("no such frequency", saw=repr(text), allowed=cause.allowed, field=field) from None
    if given != meta.frequency:
        raise RequestError(
            f"{what} has another frequency than the model",
            saw=str(given),
            allowed=f"{meta.frequency}, on which the model was trained",
            field=field,
        )


def _values(item: TimeSeriesInput, where: str, options: ServeOptions) -> Array:
    """The observations (T, V), NaN where null."""
    rows: list[Any] = item.series
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
    values = floats(rows, f"{where}.series")
    return values if nested else values[:, None]


def floats(values: list[Any], field: str) -> Array:
    """Numbers as float64, NaN where null. Raises `RequestError` if one is too large to reckon with."""
    array: Array = np.array(values, dtype=np.float64)
    # Not so for NaN either: that a number is missing is looked at only where one may be too large.
    if not (array.min() >= -_LARGEST and array.max() <= _LARGEST) and (np.abs(array) > _LARGEST).any():
        raise RequestError(
            "a value is too large",
            saw=float(np.nanmax(np.abs(array))),
            allowed=f"numbers up to {_LARGEST:g}",
            field=field,
        )
    return array


def _covariates(
    given: dict[str, Values],
    kind: str,
    names: tuple[str, ...],
    length: int,
    ahead: int,
    look: int,
    where: str,
) -> Array:
    """Covariates (length + look, names) in the model's order, NaN where null or beyond what was given.

    `length + ahead` values at least and `length + look` at most must be given of each.
    """
    if not names and not given:
        return np.empty((length + look, 0))
    field = f"{where}.{kind}_covariates"
    if given.keys() != set(names):
        raise RequestError(
            f"the {kind} covariates are not those that the model was trained with",
            saw=", ".join(sorted(given)) or "none",
            allowed=", ".join(names) or "none",
            remedy=_difference(given, names),
            field=field,
        )
    columns_TK: Array = np.full((length + look, len(names)), np.nan)
    for i, name in enumerate(names):
        if not length + ahead <= len(given[name]) <= length + look:
            upto = "" if ahead == look else f" to {length + look}"
            steps = f"one value for each of the {length} steps of series"
            raise RequestError(
                f"the {kind} covariate {name!r} does not span its steps",
                saw=f"{len(given[name])} values",
                allowed=f"{length + ahead}{upto}: {steps}"
                + (f", and of the {ahead} that are forecast" if ahead else ""),
                field=f"{field}.{name}",
            )
        columns_TK[: len(given[name]), i] = floats(given[name], f"{field}.{name}")
    return columns_TK


def _difference(given: dict[str, Values], names: tuple[str, ...]) -> str:
    missing = [f"{name!r} is missing" for name in names if name not in given]
    unknown = [f"{name!r} is not known to the model" for name in sorted(given) if name not in names]
    return f"{'; '.join([*missing, *unknown])}."


def _start(item: TimeSeriesInput, where: str, meta: Meta, length: int, timestamps: bool) -> Start | None:
    """When `item` starts. Raises `RequestError` if it must be said and is not, or is no time."""
    if item.start_timestamp is None:
        if meta.calendar or timestamps or item.timezone is not None:
            reason = "timestamps are asked for" if timestamps else "a timezone is given"
            if meta.calendar:
                reason = "the model reads " + ", ".join(meta.calendar)
            raise RequestError(
                f"series {item.name!r} does not say when it starts",
                allowed=f"start_timestamp in ISO 8601, for {reason}",
                field=f"{where}.start_timestamp",
            )
        return None
    try:
        return clock.read(item.start_timestamp, item.timezone, meta.frequency, length + meta.horizon)
    except ValueError as cause:
        zone = "" if item.timezone is None else f" in {item.timezone!r}"
        raise RequestError(
            f"the start of series {item.name!r} cannot be used: {cause}",
            saw=f"{item.start_timestamp!r}{zone}",
            field=f"{where}.start_timestamp",
        ) from None
