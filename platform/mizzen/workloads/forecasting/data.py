"""Cleans the rows of a table into series on a regular grid, and counts what was dropped and why.

Tables stream through Ray Data: cleaned in parallel, sorted by series and time, and written as they come
out of the sort; at no time are there more rows in memory than a batch and one series. The module does
not cut windows (`windows`), and does not scale the target (`scaling`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mizzen.errors import DataError
from mizzen.workloads.contract import DataReport, Sources
from mizzen.workloads.forecasting import frequency, samples
from mizzen.workloads.forecasting.config import Columns, DataConfig
from mizzen.workloads.forecasting.rows import REASONS, clean, wanted_columns
from mizzen.workloads.forecasting.series import Meta, SeriesWriter, Steps

Array = np.ndarray[Any, Any]
_LARGEST_GAP_FACTOR = 1_000
_SMALLEST_DEVIATION = 1e-8


@dataclass
class _Moments:
    """Sums over the training part, for mean and deviation of covariates."""

    width: int
    count: Array = field(init=False)
    total: Array = field(init=False)
    squares: Array = field(init=False)

    def __post_init__(self) -> None:
        self.count, self.total, self.squares = (np.zeros(self.width) for _ in range(3))

    def add(self, values: Array) -> None:
        """Take in the covariates (T, P) of one series; NaN is not counted."""
        values = values.astype(np.float64)
        self.count += (~np.isnan(values)).sum(axis=0)
        self.total += np.nansum(values, axis=0)
        self.squares += np.nansum(values**2, axis=0)

    def mean_and_deviation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """By column; a column without variation, or never observed, gets deviation 1."""
        count = np.maximum(self.count, 1)
        mean = self.total / count
        deviation = np.sqrt(np.maximum(self.squares / count - mean**2, 0.0))
        deviation = np.where(deviation > _SMALLEST_DEVIATION, deviation, 1.0)
        return tuple(mean.tolist()), tuple(deviation.tolist())


@dataclass
class _Tally:
    """What became of the rows so far."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    missing: int = 0
    lengths: list[int] = field(default_factory=list)
    first: np.datetime64 | None = None
    last: np.datetime64 | None = None


@dataclass(frozen=True)
class _Rows:
    """The rows of one series in the order of time: times (N,), target (N,), past (N, P), known (N, K)."""

    name: str
    times: Array
    target: Array
    past: Array
    known: Array


def prepare(config: DataConfig, sources: Sources, folder: Path) -> DataReport:
    """Write the series of `config` into `folder`. Raises `DataError`."""
    meta = _meta(config)
    tally = _Tally()
    if config.dataset is not None:
        rows = _sample_rows(config.dataset, sources, tally)
    else:
        assert config.path is not None
        rows = _table_rows(config.path, config.columns, meta, sources, tally)
    past, known = _Moments(len(meta.past_names)), _Moments(len(meta.known_names))
    with SeriesWriter(folder) as writer:
        for group in rows:
            series = _on_grid(group, meta, tally)
            if series is None:
                continue
            writer.append(series)
            end = meta.training_end(len(series.target))
            past.add(series.past[:end])
            known.add(series.known[:end])
    if not tally.lengths:
        raise DataError(
            "no series is left after cleaning",
            saw=", ".join(f"{count} rows: {reason}" for reason, count in sorted(tally.dropped.items()))
            or "an empty table",
            allowed=f"series of at least {meta.min_context + meta.held_out} observations",
            remedy="Check data.columns and data.frequency, or ask for less: data.horizon, data.test_windows.",
        )
    if not any(meta.training_end(length) > meta.min_context for length in tally.lengths):
        raise DataError(
            "nothing is left to train on before the held-out windows",
            saw=f"the longest series has {max(tally.lengths)} steps",
            allowed=f"more than {meta.min_context} steps before the first held-out one",
            remedy="Lower data.horizon, data.test_windows, data.validation_windows or data.min_context.",
        )
    meta = _learned(meta, config, tally, past, known)
    (folder / "meta.json").write_text(meta.to_json(), encoding="utf-8")
    return _report(meta, tally)


def _meta(config: DataConfig) -> Meta:
    facts = samples.FACTS[config.dataset] if config.dataset else None
    horizon = config.horizon or (facts.horizon if facts else 0)
    return Meta(
        frequency=frequency.parse(config.frequency or (facts.frequency if facts else "")),
        horizon=horizon,
        context_length=config.context_length,
        min_context=config.min_context,
        seasonality=tuple(sorted(config.seasonality or (facts.seasonality if facts else ()))),
        test_windows=config.test_windows,
        validation_windows=config.validation_windows,
        stride=config.stride or horizon,
        train_stride=config.train_stride,
        scaling=config.scaling,
        calendar=tuple(config.calendar or ()),
        past_names=tuple(config.columns.past_covariates),
        known_names=tuple(config.columns.known_covariates),
    )


def _learned(meta: Meta, config: DataConfig, tally: _Tally, past: _Moments, known: _Moments) -> Meta:
    """With what only the data can say: moments of covariates, and which features of the date to use."""
    calendar = meta.calendar
    if config.calendar is None:
        step = meta.frequency
        day, year = np.timedelta64(86_400, "s"), np.timedelta64(365 * 86_400, "s")
        assert tally.first is not None and tally.last is not None
        span = tally.last - tally.first
        able = {
            "time_of_day": 0 < step.seconds < 86_400 and span >= 2 * day,
            "day_of_week": 0 < step.seconds <= 86_400 and span >= 14 * day,
            "time_of_year": step.months % 12 != 0 or (step.months == 0 and span >= 2 * year),
        }
        able["time_of_year"] = able["time_of_year"] and span >= 2 * year
        calendar = tuple(name for name, can in able.items() if can)
    past_mean, past_deviation = past.mean_and_deviation()
    known_mean, known_deviation = known.mean_and_deviation()
    return replace(
        meta,
        calendar=calendar,
        past_mean=past_mean,
        past_deviation=past_deviation,
        known_mean=known_mean,
        known_deviation=known_deviation,
    )


def _sample_rows(name: str, sources: Sources, tally: _Tally) -> Iterator[_Rows]:
    for series, times, values in samples.read(name, sources.sample(name)):
        tally.read += len(values)
        seen = ~np.isnan(values)
        tally.dropped["missing target"] += int((~seen).sum())
        none = np.zeros((int(seen.sum()), 0))
        yield _Rows(series, times[seen], values[seen], none, none)


def _table_rows(path: str, columns: Columns, meta: Meta, sources: Sources, tally: _Tally) -> Iterator[_Rows]:
    """Rows of each series, series in the order of their names.

    Rows that are equal in series and time come in the order of their values, so that the one that is kept
    does not depend on how the table was cut.
    """
    table = sources.table(path)
    present = table.columns()
    absent = [name for name in wanted_columns(columns) if name not in present]
    if absent:
        raise DataError(
            f"{path} has no column {absent[0]!r}",
            saw=", ".join(map(repr, present)),
            remedy="Name the columns in data.columns.",
            field="data.columns",
        )
    table.context.execution_options.preserve_order = True
    kwargs = {"columns": columns, "frequency": meta.frequency}
    cleaned = table.map_batches(clean, fn_kwargs=kwargs, batch_format="pandas")
    keys = ["reason", "series", "time", "target"]
    keys += [f"past_{i}" for i in range(len(meta.past_names))]
    keys += [f"known_{i}" for i in range(len(meta.known_names))]
    parts: list[dict[str, Array]] = []
    name: str | None = None
    for batch in cleaned.sort(keys).iter_batches(batch_size=65_536, batch_format="numpy"):
        tally.read += len(batch["reason"])
        for reason, count in zip(*np.unique(batch["reason"], return_counts=True), strict=True):
            if reason:
                tally.dropped[REASONS[int(reason)]] += int(count)
        good = batch["reason"] == 0
        if not good.any():
            continue
        kept = {key: value[good] for key, value in batch.items()}
        borders = np.flatnonzero(kept["series"][1:] != kept["series"][:-1]) + 1
        for first, last in zip([0, *borders], [*borders, len(kept["series"])], strict=True):
            part = {key: value[first:last] for key, value in kept.items()}
            if name is not None and part["series"][0] != name:
                yield _joined(name, parts, meta, tally)
                parts = []
            name = str(part["series"][0])
            parts.append(part)
    if name is not None:
        yield _joined(name, parts, meta, tally)


def _joined(name: str, parts: list[dict[str, Array]], meta: Meta, tally: _Tally) -> _Rows:
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    first = np.concatenate([[True], whole["time"][1:] != whole["time"][:-1]])
    tally.dropped["duplicate timestamp"] += int((~first).sum())
    count = int(first.sum())

    def covariates(kind: str, width: int) -> Array:
        columns = [whole[f"{kind}_{i}"][first] for i in range(width)]
        return np.stack(columns, axis=1) if columns else np.zeros((count, 0))

    return _Rows(
        name,
        whole["time"][first].astype("datetime64[s]"),
        whole["target"][first].astype(np.float64),
        covariates("past", len(meta.past_names)),
        covariates("known", len(meta.known_names)),
    )


def _on_grid(rows: _Rows, meta: Meta, tally: _Tally) -> Steps | None:
    """The series from its first to its last observed target, or none if it is too short."""
    anchor = meta.frequency.anchor(rows.times)
    step_N = meta.frequency.steps(anchor, rows.times)
    on = step_N >= 0
    # Two dates of one month, or of one year, are one step.
    first = np.concatenate([[True], step_N[1:] != step_N[:-1]])
    tally.dropped["not on the calendar"] += int((~on).sum())
    tally.dropped["duplicate timestamp"] += int((on & ~first).sum())
    keep = on & first
    observed = step_N[keep & ~np.isnan(rows.target)]
    if len(observed) < meta.min_context + meta.held_out:
        tally.dropped["series too short"] += int(keep.sum())
        return None
    begin, end = int(observed[0]), int(observed[-1]) + 1
    if end - begin > _LARGEST_GAP_FACTOR * len(observed):
        raise DataError(
            f"series {rows.name!r} has {len(observed)} rows on {end - begin} steps of {meta.frequency.words}",
            saw=f"{rows.times[0]} to {rows.times[-1]}",
            remedy="Check data.frequency, and the timestamps for a wrong year.",
        )
    inside = keep & (step_N >= begin) & (step_N < end)
    tally.dropped["outside the observed span"] += int((keep & ~inside).sum())
    at = step_N[inside] - begin

    def place(values: Array) -> Array:
        grid = np.full((end - begin, *values.shape[1:]), np.nan)
        grid[at] = values[inside]
        return grid

    start = meta.frequency.times(anchor, begin, 1)[0]
    series = Steps(rows.name, start, place(rows.target), place(rows.past), place(rows.known))
    tally.kept += len(at)
    tally.steps += end - begin
    tally.missing += int(np.isnan(series.target).sum())
    tally.lengths.append(end - begin)
    last = meta.frequency.times(start, end - begin - 1, 1)[0]
    tally.first = start if tally.first is None else min(tally.first, start)
    tally.last = last if tally.last is None else max(tally.last, last)
    return series


def _report(meta: Meta, tally: _Tally) -> DataReport:
    return DataReport(
        rows_read=tally.read,
        rows_kept=tally.kept,
        dropped={reason: count for reason, count in sorted(tally.dropped.items()) if count},
        facts={
            "series": len(tally.lengths),
            "shortest_series": min(tally.lengths),
            "longest_series": max(tally.lengths),
            "missing_steps": tally.missing,
            "first_time": str(tally.first),
            "last_time": str(tally.last),
            "frequency": meta.frequency.iso,
            "horizon": meta.horizon,
            "calendar_features": list(meta.calendar),
        },
    )
