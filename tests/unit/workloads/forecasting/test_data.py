"""Preparing the samples; tables of one's own are prepared with Ray in the integration tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mizzen import datasets
from mizzen.errors import DataError
from mizzen.workloads.contract import Prepared
from mizzen.workloads.forecasting import data, samples
from mizzen.workloads.forecasting.config import DataConfig
from mizzen.workloads.forecasting.series import Store


class Folder:
    """A sample that lies in a folder already."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def table(self, address: str) -> Any:
        raise AssertionError(address)

    def sample(self, name: str) -> Path:
        return self.folder


def write_tsf(folder: Path, *lines: str) -> Folder:
    (folder / "m1_yearly_dataset.tsf").write_text("# comment\n@data\n" + "\n".join(lines) + "\n")
    return Folder(folder)


def test_m1_yearly_is_read_whole(m1: Prepared) -> None:
    assert (m1.report.rows_read, m1.report.rows_kept, dict(m1.report.dropped)) == (4_515, 4_515, {})
    store = Store(m1)
    assert len(store) == 181
    assert (store.lengths.min(), store.lengths.max()) == (15, 58)
    assert store.target(0, 0, 3).tolist() == [3600.0, 7700.0, 12300.0]
    assert store.start(0) == np.datetime64("1972-01-01")


def test_taylor_is_twelve_weeks_of_half_hours(tmp_path: Path) -> None:
    config = DataConfig(dataset="taylor", context_length=672, test_windows=14, validation_windows=14)
    report = data.prepare(config, Folder(datasets.fetch("taylor")), tmp_path)
    assert report.rows_kept == 12 * 7 * 48
    assert report.facts["last_time"] == "2000-08-27T23:30:00"
    assert report.facts["calendar_features"] == ["time_of_day", "day_of_week"]
    store = Store(Prepared(tmp_path, "", report))
    assert store.target(0, 0, 2).tolist() == [22262.0, 21756.0]
    origins = store.meta.origins(4032, "test")
    assert (len(origins), origins[0], origins[-1]) == (14, 4032 - 14 * 48, 4032 - 48)


def test_preparing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_tsf(
        tmp_path, *(f"T{i}:19{i}0-01-01 00-00-00:" + ",".join(map(str, range(20))) for i in range(3, 6))
    )
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        data.prepare(DataConfig(dataset="m1-yearly"), source, tmp_path / name)
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()


def test_missing_values_and_short_series_are_counted(tmp_path: Path) -> None:
    source = write_tsf(
        tmp_path,
        "A:1950-01-01 00-00-00:?,?,1,2,?,4,5,6,7,8,9,10,11,12,13,14,15,16,17,?",
        "B:1950-01-01 00-00-00:1,2,3,4,5,6,7",
    )
    (tmp_path / "out").mkdir()
    report = data.prepare(DataConfig(dataset="m1-yearly"), source, tmp_path / "out")
    assert report.rows_read == 27
    assert report.rows_kept == 16
    assert report.dropped == {"missing target": 4, "series too short": 7}
    assert report.facts["missing_steps"] == 1
    store = Store(Prepared(tmp_path / "out", "", report))
    assert store.start(0) == np.datetime64("1952-01-01")
    np.testing.assert_array_equal(store.target(0, 0, 4), [1, 2, np.nan, 4])


def test_nothing_left_says_what_was_dropped(tmp_path: Path) -> None:
    source = write_tsf(tmp_path, "B:1950-01-01 00-00-00:1,2,3")
    with pytest.raises(DataError, match="3 rows: series too short"):
        data.prepare(DataConfig(dataset="m1-yearly"), source, tmp_path)


def test_too_little_to_train_on_is_refused(tmp_path: Path) -> None:
    source = write_tsf(tmp_path, "B:1950-01-01 00-00-00:" + ",".join("1234567890123"))
    with pytest.raises(DataError, match="nothing is left to train on"):
        data.prepare(DataConfig(dataset="m1-yearly"), source, tmp_path)


@pytest.mark.parametrize("line", ["no series", "A:1950-01-01 00-00-00:1,two,3", "A:soon:1,2,3"])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match=r"line 3 of m1_yearly_dataset.tsf is no series"):
        data.prepare(DataConfig(dataset="m1-yearly"), write_tsf(tmp_path, line), tmp_path)


def test_taylors_file_is_read_and_not_run(tmp_path: Path) -> None:
    numbers = ", ".join(map(str, range(1_001)))
    (tmp_path / "taylor.py").write_text(f"raise SystemExit\nx = np.array([{numbers}])\n")
    (_, times, values) = next(samples.read("taylor", tmp_path))
    assert len(values) == len(times) == 1_001
    (tmp_path / "taylor.py").write_text("x = 1")
    with pytest.raises(DataError, match="one list of numbers"):
        next(samples.read("taylor", tmp_path))
