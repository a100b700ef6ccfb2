"""From a stretch of raw steps to the tensors that the model reads: the same code trains and serves.

Scaling happens here, in float64, not in the graph: a series at 1e9 with steps of 1 would lose its steps
in float32. The model works in scaled units, and so does the comparison of an export with its model.
Only what lies before the origin decides location and scale. It does not read files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mizzen.workloads.forecasting.series import Meta

Array = np.ndarray[Any, Any]
_SMALLEST_SHARE = 1e-12
"""A scale below this share of the level is rounding, not movement: float64 has 16 digits."""
_SMALLEST_LEVEL = 1e-300
"""A hundredth of a level below this may round to 0, and nothing can be divided by that."""
_MOST_DEVIATIONS = 1e9
"""A covariate further away than this from its mean is taken for so far: float32 overflows beyond 1e38."""


@dataclass(frozen=True)
class Scale:
    """`raw = location + scale * scaled`, by window: both (B,), and `scale` is positive."""

    location: Array
    scale: Array

    def down(self, raw: Array) -> Array:
        """Raw values (B, ...) in scaled units."""
        scaled: Array = (raw - _over(self.location, raw)) / _over(self.scale, raw)
        return scaled

    def up(self, scaled: Array) -> Array:
        """Scaled values (B, ...) in raw units. It rises with `scaled`, so what was in order stays so."""
        raw: Array = _over(self.location, scaled) + _over(self.scale, scaled) * scaled.astype(np.float64)
        return raw


def _over(values: Array, others: Array) -> Array:
    """`values` (B,) with as many dimensions as `others` (B, ...) has."""
    return values.reshape(-1, *(1,) * (others.ndim - 1))


def fit(past_BT: Array, kind: str) -> Scale:
    """The scales of the observed steps in each row of `past_BT`, NaN where there is none.

    A past without movement gets a hundredth of its level as its scale. At least one step of each row is
    observed.
    """
    seen_BT = ~np.isnan(past_BT)
    if kind == "difference" and past_BT.shape[1] > 1 and seen_BT.all():  # the usual case, and cheap
        location = past_BT[:, -1]
        scale = np.abs(past_BT[:, 1:] - past_BT[:, :-1]).sum(axis=1) / (past_BT.shape[1] - 1)
    elif kind == "standard":
        count_B = seen_BT.sum(axis=1)
        location = np.where(seen_BT, past_BT, 0.0).sum(axis=1) / count_B
        squares_BT = np.where(seen_BT, past_BT - location[:, None], 0.0) ** 2
        scale = np.sqrt(squares_BT.sum(axis=1) / count_B)
    else:
        row_B = np.arange(len(past_BT))
        # The last step observed up to each one; -1 before the first.
        at_BT = np.maximum.accumulate(np.where(seen_BT, np.arange(past_BT.shape[1]), -1), axis=1)
        location = past_BT[row_B, at_BT[:, -1]]
        before_BT = at_BT[:, :-1]
        moved_BT = seen_BT[:, 1:] & (before_BT >= 0)
        apart_BT = np.arange(1, past_BT.shape[1]) - before_BT
        steps_BT = np.abs(past_BT[:, 1:] - past_BT[row_B[:, None], before_BT]) / apart_BT
        count_B = np.maximum(moved_BT.sum(axis=1), 1)
        scale = np.where(moved_BT, steps_BT, 0.0).sum(axis=1) / count_B
    level = np.abs(location)
    still = ~(scale > _SMALLEST_SHARE * level)
    scale = np.where(still, np.where(level > _SMALLEST_LEVEL, level * 0.01, 1.0), scale)
    return Scale(location, scale)


def calendar_features(names: tuple[str, ...], times: Array) -> Array:
    """Features (..., T, F) of datetime64[s] `times` (..., T), each between -1 and 1."""
    days = times.astype("datetime64[D]")
    columns: list[Array] = []
    for name in names:
        if name == "time_of_day":
            share = (times - days.astype("datetime64[s]")).astype(np.int64) / 86_400
        elif name == "day_of_week":
            weekday = (days.astype(np.int64) + 3) % 7
            columns += [(weekday == day).astype(np.float64) for day in range(7)]
            continue
        else:
            share = (days - times.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) / 365.25
        columns += [np.sin(2 * np.pi * share), np.cos(2 * np.pi * share)]
    return np.stack(columns, axis=-1) if columns else np.zeros((*times.shape, 0))


def num_calendar_features(names: tuple[str, ...]) -> int:
    """How many columns `calendar_features` makes."""
    return sum(7 if name == "day_of_week" else 2 for name in names)


def known_width(meta: Meta) -> int:
    """Columns of the model's `known` input: known covariates, then features of the date."""
    return len(meta.known_names) + num_calendar_features(meta.calendar)


def standardise(raw: Array, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Array:
    """Covariates (..., P) with mean 0 and deviation 1 over the training part; a missing one becomes 0."""
    scaled = (raw.astype(np.float64) - np.array(mean)) / np.array(deviation)
    filled: Array = np.where(np.isnan(scaled), 0.0, scaled.clip(-_MOST_DEVIATIONS, _MOST_DEVIATIONS))
    return filled


def fill_forward(values: Array) -> Array:
    """`values` (..., T) with each missing step as the one before it; steps before the first as the first."""
    seen = ~np.isnan(values)
    if seen.all():
        return values
    at = np.maximum.accumulate(np.where(seen, np.arange(values.shape[-1]), 0), axis=-1)
    at = np.maximum(at, seen.argmax(axis=-1)[..., None])
    return np.take_along_axis(values, at, axis=-1)


def model_inputs(
    meta: Meta,
    scale: Scale,
    length_B: Array,
    past_BT: Array,
    past_BTP: Array,
    known_BTK: Array,
    times_BT: Array,
) -> dict[str, Array]:
    """The model's inputs for windows, float32; zeros before a window's start.

    `past_BT` with T <= context_length and `past_BTP` lie before the origin; `known_BTK` and `times_BT` have
    T + H steps, for they go on over the horizon. Each window is as long as `length_B` says, the end counts.
    """
    inside_BT = np.arange(past_BT.shape[1]) >= past_BT.shape[1] - length_B[:, None]
    inputs = {"past_target": scale.down(fill_forward(past_BT)) * inside_BT, "past_mask": ~np.isnan(past_BT)}
    if meta.past_names:
        past = standardise(past_BTP, meta.past_mean, meta.past_deviation)
        inputs["past_covariates"] = past * inside_BT[:, :, None]
    if known_width(meta):
        columns = [standardise(known_BTK, meta.known_mean, meta.known_deviation)] if meta.known_names else []
        known = np.concatenate([*columns, calendar_features(meta.calendar, times_BT)], axis=2)
        known[:, : past_BT.shape[1]] *= inside_BT[:, :, None]
        inputs["known"] = known
    return {name: value.astype(np.float32) for name, value in inputs.items()}


def pad_left(rows: list[Array], length: int) -> Array:
    """Rows (t, ...) of at most `length` steps as one array (B, length, ...), zeros before their start."""
    padded = np.zeros((len(rows), length, *rows[0].shape[1:]), dtype=rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[length - len(row) :] = row
    return padded
