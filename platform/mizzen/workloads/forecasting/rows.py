"""Cleans one batch of rows; runs in Ray Data's workers, and does not know that it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mizzen.workloads.forecasting.config import Columns
from mizzen.workloads.forecasting.frequency import Frequency

if TYPE_CHECKING:
    import pandas as pd

REASONS = (
    "kept",
    "missing series",
    "missing timestamp",
    "unparsable timestamp",
    "missing target",
    "unparsable target",
)
"""Why a row is dropped, by the number in the column `reason` of what `clean` returns."""


def wanted_columns(columns: Columns) -> list[str]:
    """The table's columns that are read."""
    series = [] if columns.series is None else [columns.series]
    return [
        *series,
        columns.timestamp,
        columns.target,
        *columns.past_covariates,
        *columns.known_covariates,
    ]


def clean(frame: pd.DataFrame, columns: Columns, frequency: Frequency) -> pd.DataFrame:
    """Columns `reason` (0 keeps), `series`, `time` (seconds since 1970, UTC), `target`, `past_i`, `known_i`.

    A dropped row stays, emptied, so that its reason can be counted. A row without a target is kept if the
    table has covariates, for they may be there. Infinite numbers count as unparsable.
    """
    import pandas as pd

    # Of several files one may lack a column: then it is missing in all of its rows.
    frame = frame.reindex(columns=wanted_columns(columns))
    size = len(frame)
    reason = np.zeros(size, dtype=np.int64)

    def drop(rows: Any, name: str) -> None:
        reason[(reason == 0) & np.asarray(rows, dtype=bool)] = REASONS.index(name)

    if columns.series is None:
        series = pd.Series(["series"] * size, index=frame.index, dtype=object)
    else:
        named = frame[columns.series]
        series = named.astype(object).map(_as_name)
        drop(named.isna() | (series == ""), "missing series")
    stamp = frame[columns.timestamp]
    drop(stamp.isna() | (stamp.astype(str).str.strip() == ""), "missing timestamp")
    time = _seconds(stamp, frequency)
    drop(time.isna(), "unparsable timestamp")
    target, missing, wrong = _numbers(frame[columns.target])
    drop(wrong, "unparsable target")
    if not columns.past_covariates and not columns.known_covariates:
        drop(missing, "missing target")
    good = reason == 0
    cleaned: dict[str, Any] = {
        "reason": reason,
        "series": np.where(good, series.fillna("").astype(str).to_numpy(dtype=object), ""),
        "time": np.where(good, time.fillna(0).to_numpy(dtype=np.int64), 0),
        "target": np.where(good, target, 0.0),
    }
    for kind, names in (("past", columns.past_covariates), ("known", columns.known_covariates)):
        for i, name in enumerate(names):
            cleaned[f"{kind}_{i}"] = np.where(good, _numbers(frame[name])[0], 0.0)
    return pd.DataFrame(cleaned)


def _as_name(value: Any) -> str:
    """A series' name; a whole number that missing values beside it made a float is written as it was."""
    if isinstance(value, float):
        if np.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() else str(value)
    return "" if value is None else str(value).strip()


def _seconds(stamp: pd.Series[Any], frequency: Frequency) -> pd.Series[Any]:
    """Seconds since 1970, <NA> where unparsable. A whole number is a year if the steps are years."""
    import pandas as pd

    text: Any = stamp
    if pd.api.types.is_numeric_dtype(stamp):
        # With numpy: Ray Data hands Arrow's own types over, which know no remainder.
        number = stamp.to_numpy(dtype=np.float64, na_value=np.nan)
        is_year = (number >= 1) & (number <= 9_999) & (np.floor(number) == number)
        is_year &= (frequency.months % 12 == 0) & (frequency.months > 0)
        years = pd.Series(np.where(is_year, number, np.nan), index=stamp.index).astype("Int64")
        text = years.astype("string").str.zfill(4) + "-01-01"
    times = pd.to_datetime(text, errors="coerce", utc=True, format=None if _is_time(text) else "ISO8601")
    whole = times.dt.tz_localize(None).astype("datetime64[s]")
    seconds: pd.Series[Any] = whole.astype("int64").where(whole.notna()).astype("Int64")
    return seconds


def _is_time(column: Any) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_datetime64_any_dtype(column))


def _numbers(column: pd.Series[Any]) -> tuple[Any, Any, Any]:
    """float64 values with NaN, then where nothing stood, then where something else than a number stood."""
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    missing = (column.isna() | (column.astype(str).str.strip() == "")).to_numpy(dtype=bool)
    wrong = ~missing & ~np.isfinite(values)
    return np.where(np.isfinite(values), values, np.nan), missing, wrong
