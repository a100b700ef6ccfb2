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


@dataclass(frozen=True)
class Scale:
    """`raw = location + scale * scaled`; `scale` is positive."""

    location: float
    scale: float

    def down(self, raw: Array) -> Array:
        """Raw values in scaled units."""
        return (raw - self.location) / self.scale

    def up(self, scaled: Array) -> Array:
        """Scaled values in raw units."""
        return self.location + self.scale * scaled.astype(np.float64)


def fit(past: Array, kind: str) -> Scale:
    """The scale of the observed steps in `past` (T,), NaN where there is none.

    A past without movement gets a hundredth of its level as its scale. At least one step is observed.
    """
    at = np.flatnonzero(~np.isnan(past))
    seen = past[at]
    if kind == "standard":
        location, scale = float(seen.mean()), float(seen.std())
    else:
        location = float(seen[-1])
        steps = np.abs(np.diff(seen)) / np.diff(at) if len(seen) > 1 else np.zeros(1)
        scale = float(steps.mean())
    if not scale > _SMALLEST_SHARE * abs(location):
        scale = abs(location) * 0.01 or 1.0
    return Scale(location, scale)


def calendar_features(names: tuple[str, ...], times: Array) -> Array:
    """Features (T, F) of datetime64[s] `times`, each between -1 and 1."""
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
    return np.stack(columns, axis=1) if columns else np.zeros((len(times), 0))


def num_calendar_features(names: tuple[str, ...]) -> int:
    """How many columns `calendar_features` makes."""
    return sum(7 if name == "day_of_week" else 2 for name in names)


def known_width(meta: Meta) -> int:
    """Columns of the model's `known` input: known covariates, then features of the date."""
    return len(meta.known_names) + num_calendar_features(meta.calendar)


def standardise(raw: Array, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Array:
    """Covariates (T, P) with mean 0 and deviation 1 over the training part; a missing one becomes 0."""
    scaled = (raw.astype(np.float64) - np.array(mean)) / np.array(deviation)
    filled: Array = np.where(np.isnan(scaled), 0.0, scaled)
    return filled


def fill_forward(values: Array) -> Array:
    """`values` (T,) with each missing step as the one before it; steps before the first as the first."""
    at = np.where(np.isnan(values), 0, np.arange(len(values)))
    at = np.maximum.accumulate(at)
    filled = values[at]
    return np.where(np.isnan(filled), values[int(np.argmin(np.isnan(values)))], filled)


def model_inputs(
    meta: Meta, scale: Scale, past_target: Array, past: Array, known: Array, times: Array
) -> dict[str, Array]:
    """The model's inputs for one window, float32.

    `past_target` (T,) with T <= context_length and `past` (T, P) lie before the origin; `known` (T + H, K)
    and `times` (T + H,) go on over the horizon.
    """
    observed = ~np.isnan(past_target)
    inputs = {"past_target": scale.down(fill_forward(past_target)), "past_mask": observed}
    if meta.past_names:
        inputs["past_covariates"] = standardise(past, meta.past_mean, meta.past_deviation)
    if known_width(meta):
        columns = [standardise(known, meta.known_mean, meta.known_deviation)] if meta.known_names else []
        inputs["known"] = np.concatenate([*columns, calendar_features(meta.calendar, times)], axis=1)
    return {name: value.astype(np.float32) for name, value in inputs.items()}


def pad_left(rows: list[Array], length: int) -> Array:
    """Rows (t, ...) of at most `length` steps as one array (B, length, ...), zeros before their start."""
    padded = np.zeros((len(rows), length, *rows[0].shape[1:]), dtype=rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[length - len(row) :] = row
    return padded
