"""What is compared of series in training and in requests, to see whether they drift.

All of it is of the context alone that the model would read at the end of a series. N series, T steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mizzen.workloads.contract import Features, Prepared
from mizzen.workloads.forecasting import scaling
from mizzen.workloads.forecasting.requests import Series
from mizzen.workloads.forecasting.series import Store

Array = np.ndarray[Any, Any]
MAX_VALUES = 2_000
"""Contexts of the training data that are looked at."""


def of(contexts: Sequence[Array]) -> Features:
    """Features of stretches (T,) of any length, each with an observation; NaN is a gap.

    - `context_length`: steps.
    - `log10_level`: of the mean absolute value. NaN where all values are 0.
    - `variation`: the mean change from step to step, as a share of the level.
    - `trend`: from -1, when every step falls, over 0, when the end is where the start was, to 1.
    - `missing_ratio`: the share of gaps.
    """
    length_N = np.array([len(context) for context in contexts])
    values_NT = np.full((len(contexts), int(length_N.max())), np.nan)
    for values_T, context in zip(values_NT, contexts, strict=True):
        values_T[-len(context) :] = context
    seen_NT = ~np.isnan(values_NT)
    num_seen_N = seen_NT.sum(axis=1)
    level_N = np.where(seen_NT, np.abs(values_NT), 0.0).sum(axis=1) / num_seen_N
    filled_NT = scaling.fill_forward(values_NT)  # what lies before a context is as its first step
    path_N = np.abs(np.diff(filled_NT, axis=1)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        variation_N = path_N / np.maximum(length_N - 1, 1) / level_N
        trend_N = np.where(path_N > 0, (filled_NT[:, -1] - filled_NT[:, 0]) / path_N, 0.0)
        found = {
            "context_length": length_N,
            "log10_level": np.log10(level_N),
            "variation": variation_N,
            "trend": trend_N,
            "missing_ratio": 1 - num_seen_N / length_N,
        }
    return {name: values_N.tolist() for name, values_N in found.items()}


def contexts(series: Iterable[Series], context_length: int) -> list[Array]:
    """The end of each variate that has an observation there."""
    ends = [column_T for one in series for column_T in one.values_TV[-context_length:].T]
    return [end_T for end_T in ends if not np.isnan(end_T).all()]


def in_training(prepared: Prepared) -> Features:
    """Of contexts as requests send them: those that end with a series, and others that are as long.

    Held-out steps are looked at too: nothing is learnt from them, and requests go on after them.
    """
    store = Store(prepared)
    length = store.meta.context_length
    count = max(1, MAX_VALUES // max(1, len(store)))
    found = []
    for series in range(0, len(store), max(1, len(store) // MAX_VALUES)):
        end = int(store.lengths[series])
        for origin in np.unique(np.linspace(min(end, length), end, count).astype(int)).tolist():
            context_T = store.target(series, max(0, origin - length), origin)
            if not np.isnan(context_T).all():
                found.append(context_T)
    return of(found) if found else {}
