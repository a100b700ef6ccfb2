"""On which clock steps are counted, and how their times are written: month ends, leap years, summer time."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizzen.workloads.forecasting import clock
from mizzen.workloads.forecasting.frequency import Frequency, parse


def written(start: str, zone: str | None, frequency: str, first: int, count: int) -> list[str]:
    found = clock.read(start, zone, parse(frequency), first + count)
    return found.written(parse(frequency), first, count)


@given(
    start=st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)).map(lambda t: t.replace(microsecond=0)),
    months=st.sampled_from([0, 1, 3, 12]),
    seconds=st.sampled_from([1_800, 86_400, 604_800]),
    step=st.integers(0, 500),
)
def test_one_step_is_where_all_steps_have_it(start: datetime, months: int, seconds: int, step: int) -> None:
    frequency = Frequency(0, months) if months else Frequency(seconds, 0)
    (expected,) = frequency.times(np.datetime64(start, "s"), step, 1)
    assert np.datetime64(frequency.moment(start, step), "s") == expected


def test_month_ends_and_leap_years() -> None:
    assert written("2024-01-31", None, "M", 1, 3) == [
        "2024-02-29T00:00:00",
        "2024-03-31T00:00:00",
        "2024-04-30T00:00:00",
    ]
    assert written("2023-01-30", None, "M", 1, 2) == ["2023-02-28T00:00:00", "2023-03-30T00:00:00"]
    assert written("2023-02-28", None, "D", 1, 1) == ["2023-03-01T00:00:00"]
    assert written("2024-02-28", None, "D", 1, 1) == ["2024-02-29T00:00:00"]


def test_hours_go_by_real_time_when_the_clock_is_put_forward_and_back() -> None:
    assert written("2024-03-31T01:00:00", "Europe/Berlin", "h", 0, 3) == [
        "2024-03-31T01:00:00+01:00",
        "2024-03-31T03:00:00+02:00",
        "2024-03-31T04:00:00+02:00",
    ]
    assert written("2024-10-27T01:00:00", "Europe/Berlin", "h", 0, 4) == [
        "2024-10-27T01:00:00+02:00",
        "2024-10-27T02:00:00+02:00",
        "2024-10-27T02:00:00+01:00",
        "2024-10-27T03:00:00+01:00",
    ]


@pytest.mark.parametrize(("offset", "said"), [("Z", "Z"), ("+00:00", "Z"), ("+00:00:30", "+00:00:30")])
def test_only_utc_itself_is_written_as_z(offset: str, said: str) -> None:
    assert written(f"2024-01-01T00:00:00{offset}", None, "D", 1, 1) == [f"2024-01-02T00:00:00{said}"]


def test_an_offset_tells_the_second_of_two_equal_hours() -> None:
    second = clock.read("2024-10-27T02:00:00+01:00", "Europe/Berlin", parse("h"), 2)
    assert second.written(parse("h"), 0, 2) == ["2024-10-27T02:00:00+01:00", "2024-10-27T03:00:00+01:00"]


def test_days_go_by_the_clock_on_the_wall() -> None:
    assert written("2024-03-30", "Europe/Berlin", "D", 0, 3) == [
        "2024-03-30T00:00:00+01:00",
        "2024-03-31T00:00:00+01:00",
        "2024-04-01T00:00:00+02:00",
    ]


def test_the_model_reads_what_is_written() -> None:
    start = clock.read("2024-10-26T22:30:00Z", "America/New_York", parse("30min"), 9)
    walls = start.walls(parse("30min"), 0, 9)
    texts = start.written(parse("30min"), 0, 9)
    assert [str(wall) for wall in walls] == [text[:19] for text in texts]


@pytest.mark.parametrize(
    ("start", "zone", "said"),
    [
        ("tomorrow", None, "ISO 8601"),
        ("2024-03-31T02:30:00", "Europe/Berlin", "skips that time"),
        ("2024-01-01", "Europe/Atlantis", "no such time zone"),
        ("2024-01-01", "../../etc/passwd", "no such time zone"),
        ("2024-01-01", "Europe", "no such time zone"),
        ("9999-12-31", None, "between the years 2 and 9999"),
        ("0001-01-01", "Europe/Berlin", "between the years 2 and 9999"),
        ("0001-01-01T00:00:00+14:00", "America/New_York", "between the years 2 and 9999"),
    ],
)
def test_what_is_no_start_is_told(start: str, zone: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clock.read(start, zone, parse("D"), 10)
