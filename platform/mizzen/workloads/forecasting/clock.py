"""When the steps of a series are: on which clock they are counted, and how they are written.

Without a time zone, a clock is UTC or of the fixed offset that the request wrote: no hour is ever skipped.
With one (an IANA name), steps of days, weeks and months go by the clock on the wall, so a daily series stays
at midnight; shorter steps go by real time, so an hourly series has 23 steps on the day when the clock is put
forward. The model reads what the clock on the wall shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from mizzen.workloads.forecasting.frequency import Frequency

Array = np.ndarray[Any, Any]
_DAY_S = 86_400
_LAST_YEAR = 9_999


@dataclass(frozen=True)
class Start:
    """When a series starts: what the clock on the wall shows, and which clock it is."""

    wall: datetime
    """Without tzinfo."""
    offset: timedelta | None = None
    """From UTC, as the request wrote it."""
    zone: ZoneInfo | None = None

    def walls(self, frequency: Frequency, first: int, count: int) -> Array:
        """What the clock shows at steps `first` to `first + count - 1`, datetime64[s] (count,)."""
        if self.zone is None or not _by_real_time(frequency):
            return frequency.times(np.datetime64(self.wall, "s"), first, count)
        return np.array(
            [moment.replace(tzinfo=None) for moment in self._moments(frequency, first, count)],
            dtype="datetime64[s]",
        )

    def written(self, frequency: Frequency, first: int, count: int) -> list[str]:
        """The same steps in ISO 8601, with the offset from UTC if the request has one or a time zone."""
        return [
            text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text
            for text in (moment.isoformat() for moment in self._moments(frequency, first, count))
        ]

    def _moments(self, frequency: Frequency, first: int, count: int) -> list[datetime]:
        if self.zone is not None and _by_real_time(frequency):
            start_s = int(self.wall.replace(tzinfo=self.zone).timestamp())
            steps_s = range(first * frequency.seconds, (first + count) * frequency.seconds, frequency.seconds)
            return [datetime.fromtimestamp(start_s + step_s, self.zone) for step_s in steps_s]
        clock = self.zone or (None if self.offset is None else timezone(self.offset))
        start = self.wall.replace(tzinfo=clock)  # steps of such a datetime go by the clock, offset and all
        return [frequency.moment(start, first + i) for i in range(count)]


def _by_real_time(frequency: Frequency) -> bool:
    return bool(frequency.seconds % _DAY_S)


@lru_cache(maxsize=1_024)
def read(text: str, zone_name: str | None, frequency: Frequency, num_steps: int) -> Start:
    """The start that `text` (ISO 8601) tells, on the clock of a time zone if one is named.

    Remembered, because the series of a request often start together.

    Raises `ValueError` saying what is wrong: no such time or zone, a time that the zone's clock skips, or
    steps that reach beyond the year 9999.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("it is no time in ISO 8601, such as 2024-01-31T00:30:00Z") from None
    moment = moment.replace(microsecond=0)
    try:
        start = Start(moment.replace(tzinfo=None), moment.utcoffset())
        if zone_name is not None:
            start = _in_zone(moment, zone(zone_name))
        inside = start.wall.year > 1 and start.wall.year + frequency.years(num_steps) + 1 < _LAST_YEAR
    except OverflowError:
        inside = False
    if not inside:
        raise ValueError("the series must lie between the years 2 and 9999")
    return start


def zone(name: str) -> ZoneInfo:
    """The time zone called `name`. Raises `ValueError`."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("there is no such time zone; IANA names such as Europe/Berlin are known") from None


def _in_zone(moment: datetime, zone: ZoneInfo) -> Start:
    if moment.tzinfo is not None:
        return Start(moment.astimezone(zone).replace(tzinfo=None), None, zone)
    there = moment.replace(tzinfo=zone)
    if there.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != moment:
        raise ValueError("the clock of its time zone skips that time")
    return Start(moment, None, zone)
