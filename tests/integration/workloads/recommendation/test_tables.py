"""MovieLens-100K and tables of one's own, read by a real Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
import pytest

from mizzen.errors import DataError
from mizzen.training.tables import RaySources
from mizzen.workloads.contract import Prepared
from mizzen.workloads.recommendation import workload
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.histories import Histories

pytestmark = pytest.mark.usefixtures("ray_home")


def prepare(folder: Path, **data: Any) -> Prepared:
    folder.mkdir()
    report = workload.prepare(workload.data_config.model_validate(data), RaySources(), folder)
    return Prepared(folder, "not looked at", report)


def histories(prepared: Prepared) -> dict[str, list[str]]:
    ids = Catalogue.read(prepared.folder / "items.arrow").item_ids
    read = Histories(prepared.folder / "histories.arrow")
    return {read.user(row): [ids[n - 1] for n in read.items(row)] for row in range(len(read))}


def content(prepared: Prepared) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(prepared.folder.iterdir())}


def test_movielens_is_whole_the_same_each_time_and_as_popular_as_published(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "one", dataset="movielens-100k")
    report = prepared.report
    assert (report.rows_read, report.rows_kept, dict(report.dropped)) == (100_000, 100_000, {})
    assert (report.facts["users"], report.facts["items"]) == (943, 1682)
    assert report.facts["users_whose_last_two_times_tie"] == 415
    assert report.facts["items_without_attributes"] == 0
    # The order of ties is that of the file: the last rows of user 1 there, by time.
    assert histories(prepared)["1"][-3:] == last_items_in_file_order("1", 3)
    again = prepare(tmp_path / "two", dataset="movielens-100k")
    assert content(again) == content(prepared)
    found = workload.baselines(workload.model_config(), prepared, "test")["popularity"]
    assert found["hr@10"] == pytest.approx(0.086, abs=0.0005)
    assert found["ndcg@10"] == pytest.approx(0.044, abs=0.0005)


def last_items_in_file_order(user: str, count: int) -> list[str]:
    """Without Arrow, Ray or pandas: Python's own sort is stable."""
    lines = (RaySources().sample("movielens-100k") / "interactions.csv").read_text().splitlines()[1:]
    rows = [line.split(",") for line in lines]
    mine = sorted((row for row in rows if row[0] == user), key=lambda row: int(row[3]))
    return [row[1] for row in mine[-count:]]


def table(first: int, last: int) -> pa.Table:
    """All at the same time, so that only the order of rows and files can tell what came first."""
    rows = range(first, last)
    return pa.table(
        {
            "who": [f"u{n % 3}" for n in rows],
            "what": [f"i{n:03d}" for n in rows],
            "when": [1_700_000_000] * len(rows),
        }
    )


def write(rows: pa.Table, path: Path) -> None:
    if path.suffix == ".parquet":
        pa.parquet.write_table(rows, path)
    elif path.suffix == ".csv":
        pa.csv.write_csv(rows, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_rows_of_one_time_stay_in_the_order_of_rows_and_files(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    for number, (first, last) in enumerate([(0, 90), (90, 91), (91, 150)]):
        write(table(first, last), folder / f"part-{number}{ending}")
    columns = {"user": "who", "item": "what", "timestamp": "when"}
    prepared = prepare(tmp_path / "out", interactions=str(folder), columns=columns)
    assert histories(prepared) == {f"u{u}": [f"i{n:03d}" for n in range(u, 150, 3)] for u in range(3)}


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(table(0, 30), tmp_path / "met.csv")
    with pytest.raises(DataError, match="no column 'user'; saw who, what, when"):
        prepare(tmp_path / "out", interactions=str(tmp_path / "met.csv"))


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    write(table(0, 0), tmp_path / "met.csv")
    with pytest.raises(DataError):
        prepare(tmp_path / "out", interactions=str(tmp_path / "met.csv"), columns={"user": "who"})
