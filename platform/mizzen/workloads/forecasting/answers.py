"""From forecasts to the body of an answer: plain numbers and texts, ready to be written as JSON."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic_core import to_json

from mizzen.errors import RequestError
from mizzen.workloads.contract import ModelIdentity
from mizzen.workloads.forecasting.protocol import TimeSeriesInput
from mizzen.workloads.forecasting.requests import Series
from mizzen.workloads.forecasting.series import Meta

Array = np.ndarray[Any, Any]
Content = dict[str, Any]


@dataclass(frozen=True)
class Body:
    """A whole answer, written, and what it cost."""

    json: bytes
    num_tokens: int
    num_refused: int = 0
    """Inputs that have an error in their place."""


@dataclass(frozen=True)
class _Blend:
    """How quantiles are made of the model's: rising, `below + share * (above - below)`, then put in order."""

    below: Array
    above: Array
    share: Array | None
    """None where each is one of the model's."""
    order: Array


def interpolate(quantiles: Array, levels: Sequence[float], asked: Sequence[float]) -> Array:
    """Quantiles (..., A) at the levels that were asked for, from those (..., Q) at the model's `levels`.

    Linear between the model's; they rise with their level if those do.
    """
    blend = _blend(tuple(levels), tuple(asked))
    if blend.share is None:
        return quantiles[..., blend.below]
    low = quantiles[..., blend.below]
    made = low + blend.share * (quantiles[..., blend.above] - low)
    # Rounding in the interpolation may turn equal values by a last digit.
    made = np.maximum.accumulate(made, axis=-1)
    result = np.empty_like(made)
    result[..., blend.order] = made
    return result


@lru_cache(maxsize=1_024)
def _blend(levels: tuple[float, ...], asked: tuple[float, ...]) -> _Blend:
    order = np.argsort(asked)
    if set(asked) <= set(levels):
        at = np.array([levels.index(level) for level in asked])
        return _Blend(at, at, None, order)
    rising_A, level_Q = np.array(asked)[order], np.array(levels)
    above_A = np.searchsorted(level_Q, rising_A).clip(max=len(levels) - 1)
    below_A = np.where(level_Q[above_A] == rising_A, above_A, above_A - 1).clip(min=0)
    apart_A = level_Q[above_A] - level_Q[below_A]
    share_A = (rising_A - level_Q[below_A]) / np.where(apart_A > 0, apart_A, 1.0)
    return _Blend(below_A, above_A, share_A, order)


def columns(item: TimeSeriesInput, values_VH: Array) -> list[Any]:
    """One number a step, or one list a step for a multivariate input, of values by variate."""
    several = item.type == "multivariate_time_series"
    found: list[Any] = (values_VH.T if several else values_VH[0]).tolist()
    return found


def times(series: Series, meta: Meta, first: int, count: int) -> list[str] | None:
    """The times of so many steps, if the request said when the series starts."""
    return None if series.start is None else series.start.written(meta.frequency, first, count)


def first_time(series: Series, meta: Meta, step: int) -> str | None:
    """The time of one step, if the request said when the series starts."""
    found = times(series, meta, step, 1)
    return found[0] if found else None


def write(
    identity: ModelIdentity,
    kind: str,
    contents: Sequence[Content | RequestError],
    read: int,
    made: int,
    **more: Any,
) -> Body:
    """The answer: an output of type `kind` for each content, or for the error that stands in its place.

    `read` observations were read and `made` values were made; `more` stands beside the outputs. What is no
    number (a figure that cannot be had) is written as null.
    """
    request_id = f"{kind.removeprefix('time_series_')}-{uuid.uuid4().hex}"
    outputs = [_output(f"{request_id}-{i}", kind, content) for i, content in enumerate(contents)]
    num_refused = sum(isinstance(content, RequestError) for content in contents)
    answer = {
        "id": request_id,
        "created_at": int(time.time()),
        "status": "partial" if num_refused else "completed",
        "model": identity.name,
        "model_version": identity.version,
        "model_digest": identity.digest,
        **more,
        "outputs": outputs,
        "usage": {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made},
    }
    return Body(to_json(answer, inf_nan_mode="null"), read + made, num_refused)


def _output(output_id: str, kind: str, content: Content | RequestError) -> dict[str, Any]:
    output = {"type": kind, "id": output_id, "status": "completed"}
    if isinstance(content, RequestError):
        error = {
            "message": str(content),
            "type": "invalid_request_error",
            "param": content.field,
            "code": "invalid_request",
        }
        return {**output, "status": "error", "content": [], "error": error}
    return {**output, "content": [content]}
