"""The spacing of a time series: read from many spellings, counted in calendar steps.

A frequency is a whole number of seconds (half hours, days, weeks) or of months (quarters, years).
It does not know business days, holidays or time zones: times are UTC or of one fixed offset.
"""

from __future__ import annotations

import re
from calendar import isleap
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np

from mizzen.errors import InputError

ALLOWED = (
    "a number and a unit such as 30min, h, D, W, MS, QS, YS (pandas), PT30M, P1D, P1Y (ISO 8601), "
    "or hourly, daily, weekly, monthly, quarterly, yearly"
)

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_SECONDS = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "min": _MINUTE,
    "t": _MINUTE,
    "minute": _MINUTE,
    "minutely": _MINUTE,
    "h": _HOUR,
    "hour": _HOUR,
    "hourly": _HOUR,
    "half-hourly": _HOUR // 2,
    "d": _DAY,
    "day": _DAY,
    "daily": _DAY,
    "w": 7 * _DAY,
    "week": 7 * _DAY,
    "weekly": 7 * _DAY,
}
_MONTHS = {
    "m": 1,
    "ms": 1,
    "me": 1,
    "month": 1,
    "monthly": 1,
    "q": 3,
    "qs": 3,
    "qe": 3,
    "quarter": 3,
    "quarterly": 3,
    "y": 12,
    "ys": 12,
    "ye": 12,
    "a": 12,
    "as": 12,
    "year": 12,
    "yearly": 12,
    "annual": 12,
    "annually": 12,
}
_ISO_DATE = {"Y": (0, 12), "M": (0, 1), "W": (7 * _DAY, 0), "D": (_DAY, 0)}
_ISO_TIME = {"H": (_HOUR, 0), "M": (_MINUTE, 0), "S": (1, 0)}
_MONTH_WORDS = ((12, "year"), (3, "quarter"), (1, "month"))
_SECOND_WORDS = ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute"), (1, "second"))
_LARGEST = 10_000


@dataclass(frozen=True)
class Frequency:
    """One step is `seconds` long, or `months` long; the other is 0."""

    seconds: int
    months: int

    @property
    def iso(self) -> str:
        """The step as an ISO 8601 duration."""
        if self.months:
            return f"P{self.months // 12}Y" if self.months % 12 == 0 else f"P{self.months}M"
        for size, unit in ((_DAY, "D"), (_HOUR, "H"), (_MINUTE, "M")):
            if self.seconds % size == 0:
                return f"P{'' if unit == 'D' else 'T'}{self.seconds // size}{unit}"
        return f"PT{self.seconds}S"

    @property
    def words(self) -> str:
        """The step spelled out, for instance `30 minutes`."""
        units = _MONTH_WORDS if self.months else _SECOND_WORDS
        count = self.months or self.seconds
        size, unit = next((size, unit) for size, unit in units if count % size == 0)
        return unit if count == size else f"{count // size} {unit}s"

    def __str__(self) -> str:
        return f"{self.iso} (every {self.words})"

    def times(self, start: np.datetime64, first: int, count: int) -> np.ndarray[Any, Any]:
        """The times of steps `first` to `first + count - 1` after `start`, as datetime64[s].

        Steps of months keep the day of the month where there is one; from a month's last day on they
        stay on the last day.
        """
        origin = start.astype("datetime64[s]")
        steps = np.arange(first, first + count, dtype=np.int64)
        if self.seconds:
            even: np.ndarray[Any, Any] = origin + (steps * self.seconds).astype("timedelta64[s]")
            return even
        month = origin.astype("datetime64[M]")
        day = (origin.astype("datetime64[D]") - month.astype("datetime64[D]")).astype(np.int64)
        is_last = bool(origin.astype("datetime64[D]") == _last_days(month))
        clock = origin - origin.astype("datetime64[D]").astype("datetime64[s]")
        months = month + (steps * self.months).astype("timedelta64[M]")
        last = _last_days(months)
        days = last if is_last else np.minimum(months.astype("datetime64[D]") + day, last)
        found: np.ndarray[Any, Any] = days.astype("datetime64[s]") + clock
        return found

    def moment(self, start: datetime, step: int) -> datetime:
        """The same time as `times` has for one step; much cheaper for a few of them."""
        if self.seconds:
            return start + timedelta(seconds=self.seconds * step)
        months = start.year * 12 + start.month - 1 + self.months * step
        year, month = months // 12, months % 12 + 1
        last = _last_day(year, month)
        is_last = start.day == _last_day(start.year, start.month)
        return start.replace(year=year, month=month, day=last if is_last else min(start.day, last))

    def years(self, steps: int) -> float:
        """About how many years so many steps last; a little more rather than less."""
        return self.months * steps / 12 + self.seconds * steps / (365 * _DAY)

    def anchor(self, times: np.ndarray[Any, Any]) -> np.datetime64:
        """The first of `times` (N,), N > 0, that is in step with most of them."""
        if self.seconds:
            phase = times.astype("datetime64[s]").astype(np.int64) % self.seconds
        else:
            phase = times.astype("datetime64[M]").astype(np.int64) % self.months
        phases, counts = np.unique(phase, return_counts=True)
        first: np.datetime64 = times[phase == phases[counts.argmax()]][0]
        return first

    def steps(self, start: np.datetime64, times: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """How many steps after `start` each time lies; -1 where it lies on no step, or before `start`."""
        if self.seconds:
            seconds = (times.astype("datetime64[s]") - start.astype("datetime64[s]")).astype(np.int64)
            count, rest = np.divmod(seconds, self.seconds)
        else:
            months = (times.astype("datetime64[M]") - start.astype("datetime64[M]")).astype(np.int64)
            count, rest = np.divmod(months, self.months)
        return np.where((rest == 0) & (count >= 0), count, -1)


def _last_day(year: int, month: int) -> int:
    return 29 if month == 2 and isleap(year) else (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def _last_days(months: Any) -> Any:
    return (months + np.timedelta64(1, "M")).astype("datetime64[D]") - np.timedelta64(1, "D")


@lru_cache(maxsize=256)
def parse(text: str) -> Frequency:
    """The frequency that `text` spells. Raises `InputError` with what is allowed."""
    found = _parse_iso(text.strip()) or _parse_alias(text.strip())
    if found is None:
        raise InputError("no such frequency", saw=repr(text[:40]), allowed=ALLOWED, field="frequency")
    return found


def _parse_iso(text: str) -> Frequency | None:
    match = re.fullmatch(r"P(?:(\d{1,5})([YMWD])|T(\d{1,5})([HMS]))", text)
    if match is None:
        return None
    date_count, date_unit, time_count, time_unit = match.groups()
    seconds, months = _ISO_DATE[date_unit] if date_unit else _ISO_TIME[time_unit]
    return _multiple(int(date_count or time_count), seconds, months)


def _parse_alias(text: str) -> Frequency | None:
    match = re.fullmatch(r"(\d{0,5})\s*([A-Za-z-]+)", text)
    if match is None:
        return None
    count, unit = int(match[1] or 1), match[2].lower()
    anchored = re.fullmatch(r"(w|q|qs|qe|y|ys|ye|a|as)-[a-z]{3}", unit)
    unit = anchored[1] if anchored else unit
    if unit not in _SECONDS and unit not in _MONTHS and len(unit) > 3:
        unit = unit.removesuffix("s")
    return _multiple(count, _SECONDS.get(unit, 0), _MONTHS.get(unit, 0))


def _multiple(count: int, seconds: int, months: int) -> Frequency | None:
    if not 0 < count <= _LARGEST or not (seconds or months):
        return None
    return Frequency(count * seconds, count * months)
