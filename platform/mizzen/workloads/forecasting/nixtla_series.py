"""From the series of Nixtla's protocol, which lie one after the other in one list, to checked series.

N series, T steps, H steps of the horizon, K known and P past covariates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mizzen.errors import RequestError
from mizzen.workloads.forecasting import requests
from mizzen.workloads.forecasting.nixtla_protocol import PastSeries
from mizzen.workloads.forecasting.protocol import Values
from mizzen.workloads.forecasting.requests import Series
from mizzen.workloads.forecasting.routes import aside
from mizzen.workloads.forecasting.service import Served

Array = np.ndarray[Any, Any]


def known_ahead(series: PastSeries, hist_exog: list[int] | None) -> list[int]:
    """Which lists of `X` are known ahead: those that are not named as historic."""
    historic = set(hist_exog or ())
    count = len(series.X or ())
    if not historic <= set(range(count)):
        raise RequestError(
            "hist_exog names a list that X does not have",
            saw=max(historic),
            allowed=f"0 to {count - 1}" if count else "none: there is no X",
            field="hist_exog",
        )
    return [i for i in range(count) if i not in historic]


async def read(
    served: Served, given: PastSeries, known: list[int], future: list[Values] | None = None, horizon: int = 0
) -> list[Series]:
    """The series of a request. Raises `RequestError` if lengths or covariates do not fit."""
    served.check_num_series(len(given.sizes), "series.sizes")
    numbers = len(given.y) * (1 + len(given.X or ()))
    return await aside(8 * numbers, lambda: _split(served, given, known, future, horizon))


def _split(
    served: Served, given: PastSeries, known: list[int], future: list[Values] | None, horizon: int
) -> list[Series]:
    meta, options = served.meta, served.options
    if sum(given.sizes) != len(given.y):
        raise RequestError(
            "the sizes of the series do not add up",
            saw=f"{sum(given.sizes)}",
            allowed=f"{len(given.y)}, the length of series.y",
            field="series.sizes",
        )
    if max(given.sizes) > options.max_length:
        raise RequestError(
            "a series is too long",
            saw=max(given.sizes),
            allowed=f"{options.max_length}",
            field="series.sizes",
        )
    count = len(given.X or ())
    past = [i for i in range(count) if i not in set(known)]
    fit = (len(known), len(past)) == (len(meta.known_names), len(meta.past_names))
    if not fit or not set(known) <= set(range(count)):
        raise RequestError(
            "the covariates are not those that the model was trained with",
            saw=f"{count} in X, of which {len(past)} are historic, and {len(known)} that are known ahead",
            allowed=f"known ahead: {', '.join(meta.known_names) or 'none'};"
            f" historic: {', '.join(meta.past_names) or 'none'}; in this order",
            field="series.X",
        )
    values_T = requests.floats(given.y, "series.y")
    columns = [_column(row, len(values_T), f"series.X.{i}") for i, row in enumerate(given.X or ())]
    past_TP = _stack([columns[i] for i in past], len(values_T))
    known_TK = _stack([columns[i] for i in known], len(values_T))
    ahead = _ahead(served, future, len(given.sizes), horizon) if future is not None else None
    found = []
    for i, (start, size) in enumerate(zip(_offsets(given.sizes), given.sizes, strict=True)):
        part = slice(start, start + size)
        own = known_TK[part] if ahead is None else np.concatenate([known_TK[part], ahead[i]])
        found.append(Series(str(i), values_T[part, None], past_TP[part], own))
    return found


def _ahead(served: Served, future: list[Values], count: int, horizon: int) -> Array:
    """Known covariates of the horizon (N, H, K), NaN beyond the steps asked for."""
    names = served.meta.known_names
    ahead = np.full((count, served.meta.horizon, len(names)), np.nan)
    for k, row in enumerate(future):
        values = _column(row, count * horizon, f"series.X_future.{k}")
        ahead[:, :horizon, k] = values.reshape(count, horizon)
    return ahead


def _column(values: Sequence[float | None], length: int, field: str) -> Array:
    if len(values) != length:
        raise RequestError(
            "a covariate does not span its steps",
            saw=f"{len(values)} values",
            allowed=f"{length}",
            field=field,
        )
    return requests.floats(list(values), field)


def _stack(columns: list[Array], length: int) -> Array:
    return np.stack(columns, axis=1) if columns else np.zeros((length, 0))


def _offsets(sizes: Sequence[int]) -> list[int]:
    ends: list[int] = np.cumsum([0, *sizes[:-1]]).tolist()
    return ends


def offsets(series: Sequence[Series]) -> list[int]:
    """Where in `y` each series starts."""
    return _offsets([one.length for one in series])
