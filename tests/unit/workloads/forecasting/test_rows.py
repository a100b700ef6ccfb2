"""Cleaning of one batch of rows: what is kept, and why the rest is dropped."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from mizzen.workloads.forecasting.config import Columns
from mizzen.workloads.forecasting.frequency import Frequency, parse
from mizzen.workloads.forecasting.rows import REASONS, clean

DAY = Frequency(86_400, 0)
COLUMNS = Columns(series="shop", timestamp="day", target="sold")


def test_each_row_that_is_dropped_has_its_reason() -> None:
    frame = pd.DataFrame(
        {
            "shop": ["a", None, "a", "a", "a", "a", "a", "  "],
            "day": [
                "2024-01-01",
                "2024-01-01",
                None,
                "someday",
                "2024-01-02",
                "2024-01-03",
                "2024-01-04",
                "2024-01-05",
            ],
            "sold": ["1.5", "1", "1", "1", None, "many", "inf", "1"],
        }
    )
    reasons = Counter(REASONS[i] for i in clean(frame, COLUMNS, DAY)["reason"])
    assert reasons == {
        "kept": 1,
        "missing series": 2,
        "missing timestamp": 1,
        "unparsable timestamp": 1,
        "missing target": 1,
        "unparsable target": 2,
    }


def test_a_row_without_target_stays_if_there_are_covariates() -> None:
    columns = Columns(timestamp="day", target="sold", known_covariates=["price"])
    frame = pd.DataFrame({"day": ["2024-01-01"], "sold": [None], "price": ["2.5"]})
    row = clean(frame, columns, DAY).iloc[0]
    assert row["reason"] == 0
    assert np.isnan(row["target"])
    assert row["known_0"] == 2.5


def test_a_missing_covariate_is_nan_and_drops_nothing() -> None:
    columns = Columns(timestamp="day", target="sold", past_covariates=["price"])
    frame = pd.DataFrame({"day": ["2024-01-01"], "sold": [1.0], "price": ["unknown"]})
    assert np.isnan(clean(frame, columns, DAY)["past_0"].iloc[0])


@pytest.mark.parametrize(
    "stamps",
    [
        ["2024-01-01T02:00:00+02:00", "2024-01-02"],
        pd.to_datetime(["2024-01-01", "2024-01-02"]),
        pd.to_datetime(["2024-01-01", "2024-01-02"]).tz_localize("UTC"),
    ],
)
def test_times_of_any_kind_become_utc_seconds(stamps: object) -> None:
    frame = pd.DataFrame({"day": stamps, "sold": [1.0, 2.0]})
    seconds = clean(frame, Columns(timestamp="day", target="sold"), DAY)["time"].tolist()
    assert seconds == [1_704_067_200, 1_704_153_600]


def test_a_whole_number_is_a_year_only_if_steps_are_years() -> None:
    frame = pd.DataFrame({"year": [1970, 1971, -5], "gdp": [1.0, 2.0, 3.0]})
    columns = Columns(timestamp="year", target="gdp")
    of_arrow = frame.astype({"year": "int64[pyarrow]"})  # as Ray Data hands it over
    pd.testing.assert_frame_equal(clean(of_arrow, columns, parse("Y")), clean(frame, columns, parse("Y")))
    yearly = clean(frame, columns, parse("Y"))
    assert yearly["time"].tolist() == [0, 365 * 86_400, 0]
    assert [REASONS[i] for i in yearly["reason"]] == ["kept", "kept", "unparsable timestamp"]
    assert {REASONS[i] for i in clean(frame, columns, DAY)["reason"]} == {"unparsable timestamp"}


def test_numbers_as_names_are_written_as_whole_numbers() -> None:
    frame = pd.DataFrame({"shop": [1, 2, None], "day": ["2024-01-01"] * 3, "sold": [1.0] * 3})
    assert clean(frame, COLUMNS, DAY)["series"].tolist() == ["1", "2", ""]
