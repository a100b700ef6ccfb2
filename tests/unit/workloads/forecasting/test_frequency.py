"""Spellings of a frequency, and steps of the calendar."""

from __future__ import annotations

import numpy as np
import pytest

from mizzen.errors import InputError
from mizzen.workloads.forecasting.frequency import Frequency, parse


def at(*texts: str) -> np.ndarray:
    return np.array(texts, dtype="datetime64[s]")


@pytest.mark.parametrize(
    ("spellings", "iso", "words"),
    [
        (["30min", "30T", "PT30M", "30 minutes", "half-hourly"], "PT30M", "30 minutes"),
        (["h", "H", "1h", "hour", "hourly", "PT1H", "60min"], "PT1H", "hour"),
        (["D", "day", "daily", "P1D", "24h"], "P1D", "day"),
        (["W", "W-SUN", "weekly", "P1W", "7D"], "P7D", "7 days"),
        (["M", "MS", "ME", "monthly", "P1M", "month"], "P1M", "month"),
        (["Q", "QS", "QE-DEC", "quarterly", "P3M", "3 months"], "P3M", "quarter"),
        (["Y", "YS", "YE", "A", "AS-JAN", "yearly", "annual", "P1Y", "P12M", "years"], "P1Y", "year"),
        (["S", "s", "second", "PT1S"], "PT1S", "second"),
    ],
)
def test_all_spellings_of_a_frequency_mean_the_same(spellings: list[str], iso: str, words: str) -> None:
    assert {parse(text) for text in spellings} == {parse(iso)}
    assert parse(iso).iso == iso
    assert parse(iso).words == words


@pytest.mark.parametrize(
    "text", ["", "B", "0D", "P", "PT", "P1H", "PT1D", "1.5h", "fortnightly", "-1D", "999999D", "½h"]
)
def test_what_is_no_frequency_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(InputError, match="allowed: a number and a unit"):
        parse(text)


def test_months_keep_the_day_where_there_is_one() -> None:
    times = parse("M").times(np.datetime64("2024-01-30"), 0, 4)
    assert times.tolist() == at("2024-01-30", "2024-02-29", "2024-03-30", "2024-04-30").tolist()


def test_the_last_day_of_a_month_stays_the_last_day() -> None:
    times = parse("M").times(np.datetime64("2023-02-28T12:00"), 1, 3)
    assert times.tolist() == at("2023-03-31T12", "2023-04-30T12", "2023-05-31T12").tolist()


def test_a_year_after_the_29th_of_february_is_the_last_of_february() -> None:
    assert parse("Y").times(np.datetime64("2024-02-29"), 1, 1).tolist() == at("2025-02-28").tolist()


def test_half_hours_go_over_midnight_and_month() -> None:
    times = parse("30min").times(np.datetime64("2024-02-29T23:00"), 1, 2)
    assert times.tolist() == at("2024-02-29T23:30", "2024-03-01T00:00").tolist()


def test_times_between_steps_are_on_no_step() -> None:
    start = np.datetime64("2024-01-01T00:00:00")
    steps = Frequency(1800, 0).steps(
        start, at("2024-01-01T00:00", "2024-01-01T00:10", "2024-01-01T01:00", "2023-12-31")
    )
    assert steps.tolist() == [0, -1, 2, -1]


def test_a_month_is_one_step_whatever_the_day() -> None:
    steps = parse("Q").steps(
        np.datetime64("2024-01-31"), at("2024-01-31", "2024-04-02", "2024-05-01", "2025-01-15")
    )
    assert steps.tolist() == [0, 1, -1, 4]


def test_the_anchor_is_in_step_with_most_times() -> None:
    times = at("2024-01-01T00:07", "2024-01-01T00:30", "2024-01-01T01:00", "2024-01-01T01:30")
    assert parse("30min").anchor(times) == np.datetime64("2024-01-01T00:30")
