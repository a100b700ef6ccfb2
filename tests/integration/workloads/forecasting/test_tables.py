"""Tables of one's own, streamed by a real Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mizzen.errors import DataError
from mizzen.training.tables import RaySources
from mizzen.workloads.contract import DataReport, Prepared
from mizzen.workloads.forecasting import data
from mizzen.workloads.forecasting.config import DataConfig
from mizzen.workloads.forecasting.series import Store

pytestmark = pytest.mark.usefixtures("ray_home")


def rows() -> pd.DataFrame:
    """Two shops, 40 and 30 days, in no order; one day of the first is missing, one stands twice."""
    parts = []
    for shop, days, start in (("b", 40, "2024-01-31"), ("a", 30, "2024-02-01")):
        day = pd.date_range(start, periods=days, freq="D").strftime("%Y-%m-%d")
        step = np.arange(days)
        parts.append(
            pd.DataFrame(
                {"shop": shop, "day": day, "sold": step + 100.0, "price": step % 7, "rain": step / 2}
            )
        )
    table = pd.concat(parts, ignore_index=True).drop(index=5)
    table = pd.concat([table, table.iloc[[9]].assign(sold=999.0)], ignore_index=True)
    return table.sample(frac=1, random_state=3)


def config(path: Path, **changes: Any) -> DataConfig:
    columns = {
        "series": "shop",
        "timestamp": "day",
        "target": "sold",
        "past_covariates": ["rain"],
        "known_covariates": ["price"],
    }
    fields = {"columns": columns, "frequency": "D", "horizon": 3, "context_length": 8, **changes}
    return DataConfig(path=str(path), **fields)


def prepare(given: DataConfig, folder: Path) -> tuple[Store, DataReport]:
    folder.mkdir()
    report = data.prepare(given, RaySources(), folder)
    return Store(Prepared(folder, "", report)), report


def test_csv_json_lines_and_parquet_give_the_same_series(tmp_path: Path) -> None:
    table = rows()
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    (tmp_path / "parts").mkdir()
    for i in range(3):
        table.iloc[i::3].to_parquet(tmp_path / "parts" / f"{i}.parquet")
    contents = []
    for name in ("t.csv", "t.jsonl", "parts"):
        folder = tmp_path / f"out-{name}"
        store, report = prepare(config(tmp_path / name), folder)
        contents.append({file.name: file.read_bytes() for file in folder.iterdir()})
        assert (report.rows_read, report.rows_kept) == (70, 69)
        assert report.dropped == {"duplicate timestamp": 1}
        assert report.facts["missing_steps"] == 1
    assert contents[0] == contents[1] == contents[2]
    assert store.lengths.tolist() == [30, 40]
    assert store.start(1) == np.datetime64("2024-01-31")
    np.testing.assert_array_equal(store.target(1, 4, 7), [104, np.nan, 106])
    np.testing.assert_array_equal(store.known(0, 6, 9)[:, 0], [6, 0, 1])
    np.testing.assert_array_equal(store.past(0, 6, 9)[:, 0], [3, 3.5, 4])


def test_moments_of_covariates_come_from_the_training_part(tmp_path: Path) -> None:
    table = rows()
    table.to_csv(tmp_path / "t.csv", index=False)
    late = table["day"] >= "2024-03-05"
    table.loc[late, "rain"] = 1e9
    table.to_csv(tmp_path / "other.csv", index=False)
    first, _ = prepare(config(tmp_path / "t.csv"), tmp_path / "one")
    second, _ = prepare(config(tmp_path / "other.csv"), tmp_path / "two")
    assert first.meta == second.meta
    assert first.meta.past_deviation[0] > 1


def test_bad_rows_are_dropped_for_their_reasons(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=20, freq="D").strftime("%Y-%m-%d").tolist()
    lines = ["day,sold", *(f"{day},{i}" for i, day in enumerate(days))]
    lines += ["never,1", ",1", "2024-02-01,much", "2024-01-03T07:00:00,5"]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    given = config(tmp_path / "t.csv", columns={"timestamp": "day", "target": "sold"})
    _, report = prepare(given, tmp_path / "out")
    assert report.dropped == {
        "missing timestamp": 1,
        "not on the calendar": 1,
        "unparsable target": 1,
        "unparsable timestamp": 1,
    }
    assert (report.rows_read, report.rows_kept) == (24, 20)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("when,sold\n2024-01-01,1\n")
    with pytest.raises(DataError, match=r"no column 'day'; saw 'when', 'sold'"):
        prepare(config(tmp_path / "t.csv", columns={"timestamp": "day", "target": "sold"}), tmp_path / "out")


def test_a_timestamp_of_a_wrong_century_is_refused(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=20, freq="D").strftime("%Y-%m-%d").tolist()
    lines = ["day,sold", *(f"{day},{i}" for i, day in enumerate([*days, "2924-01-01"]))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="for a wrong year"):
        prepare(config(tmp_path / "t.csv", columns={"timestamp": "day", "target": "sold"}), tmp_path / "out")
