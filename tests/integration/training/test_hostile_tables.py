"""Tables that are broken, read as `mizzen train` reads them: refused by name, or their rows are counted.

Ray Data's own exceptions never come out, and what a table loses is in the report.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ray.exceptions import RayTaskError

from mizzen.errors import DataError
from mizzen.settings import Settings
from mizzen.training import job as jobs
from mizzen.training import launch
from mizzen.training.tables import RaySources
from mizzen.workloads.contract import Prepared

USERS, YEARS = range(4), range(2000, 2008)
ROWS = [(f"u{user}", (user + year) % 7, year) for user in USERS for year in YEARS]
CSV = "user,item,timestamp\n" + "".join(f"{user},{item},{year}\n" for user, item, year in ROWS)
LINES = "".join(f'{{"user": "{user}", "item": {item}, "timestamp": {year}}}\n' for user, item, year in ROWS)


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


USER_COLUMN, ITEM_COLUMN, TIME_COLUMN = zip(*ROWS, strict=True)
PARQUET = parquet(user=USER_COLUMN, item=ITEM_COLUMN, timestamp=TIME_COLUMN)

REFUSED: dict[str, tuple[str | bytes, str]] = {
    "empty.csv": ("", "Empty CSV file"),
    "header.csv": ("user,item,timestamp\n", "no rows"),
    "fewer.csv": (CSV + "u1,2\n", r"Row #34: Expected 3 columns, got 2"),
    "more.csv": (CSV + "u1,2,2010,4\n", "Expected 3 columns, got 4"),
    "quote.csv": (CSV + 'u1,"2,3\nu2,3,4\n', "Expected 3 columns"),
    "zeros.csv": (bytes(100), "cannot read the table"),
    "latin.csv": (CSV.encode() + b"caf\xe9,1,2010\n", "not UTF-8"),
    "utf16.csv": (CSV.encode("utf-16"), "cannot read the table"),
    "twice.csv": (CSV.replace("item,", "user,", 1), '"user" exists 2 times'),
    "other.csv": ("a,b\n1,2\n", "no column"),
    "late.csv": (CSV + CSV.split("\n", 1)[1] * 4000 + "u1,2,never\n", "CSV conversion error"),
    "none.csv.gz": (CSV, "incorrect header check"),
    "cut.csv.gz": (gzip.compress(CSV.encode() * 50)[:-40], "Truncated"),
    "empty.jsonl": ("", "no rows"),
    "broken.jsonl": (LINES + '{"user": "u1", "item"\n' + LINES, "JSON parse error"),
    "arrays.jsonl": ("[1, 2, 3]\n[4]\n", "cannot read the table"),
    "mixed.jsonl": (LINES + '{"user": 1, "item": "x", "timestamp": 1}\n', "changed from"),
    "numbers.jsonl": ("1\n2\n", "cannot read the table"),
    "text.jsonl": ("hello\n", "does not begin"),
    "cut.parquet": (PARQUET[:-20], "cannot read the table"),
    "empty.parquet": (b"", "cannot read the table"),
    "text.parquet": (CSV, "cannot read the table"),
    "null.jsonl": ("null\n" + LINES, "does not begin"),
}
COUNTED: dict[str, tuple[str | bytes, int]] = {
    "bom.csv": ("\ufeff" + CSV.replace("\n", "\r\n"), 0),
    "holes.csv": (CSV + ",1,2010\nu1,,2010\nu1,1,\nu1,1,NaN\nu1,1,1e400\n", 5),
}
"""How many of the rows are dropped."""


def prepared(workload: str, file: Path, settings: Settings) -> Prepared:
    data: dict[str, Any] = {"interactions": str(file)}
    if workload == "forecasting":
        columns = {"series": "user", "target": "item"}
        data = {"path": str(file), "columns": columns, "frequency": "Y", "horizon": 1}
    training = {"steps": 1, "micro_batch_size": 1}
    content = {"name": "hostile", "workload": workload, "data": data, "training": training}
    return launch.prepare(jobs.parse(content, "the test's job"), settings, lambda _: None)


def written(file: Path, content: str | bytes) -> Path:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize("workload", ["recommendation", "forecasting"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_table_is_refused_with_the_reason(
    name: str, workload: str, ray_home: Settings, tmp_path: Path
) -> None:
    content, reason = REFUSED[name]
    with pytest.raises(DataError, match=reason) as refused:
        prepared(workload, written(tmp_path / name, content), ray_home)
    assert not isinstance(refused.value, RayTaskError)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
    assert "Ray" not in str(refused.value)
    if "no column" not in reason:
        assert str(tmp_path / name) in str(refused.value)


@pytest.mark.parametrize("name", COUNTED)
def test_what_a_table_loses_is_in_the_report(name: str, ray_home: Settings, tmp_path: Path) -> None:
    content, num_dropped = COUNTED[name]
    report = prepared("recommendation", written(tmp_path / name, content), ray_home).report
    assert (report.rows_read, report.rows_kept) == (len(ROWS) + num_dropped, len(ROWS))
    assert sum(report.dropped.values()) == num_dropped


def test_a_year_in_a_column_of_whole_numbers_is_read(ray_home: Settings, tmp_path: Path) -> None:
    report = prepared("forecasting", written(tmp_path / "years.csv", CSV), ray_home).report
    assert (report.rows_kept, report.facts["series"]) == (len(ROWS), len(USERS))


def test_the_broken_file_of_a_folder_is_named(ray_home: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    written(folder / "a.csv", CSV)
    broken = written(folder / "b.csv", CSV + "u1,2\n")
    with pytest.raises(DataError, match="Row #34") as refused:
        prepared("recommendation", folder, ray_home)
    assert str(broken) in str(refused.value)


@pytest.mark.parametrize("workload", ["recommendation", "forecasting"])
def test_a_file_of_a_folder_without_a_column_loses_its_rows(
    workload: str, ray_home: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    written(folder / "a.csv", CSV)
    written(folder / "b.csv", "user,item,when\nu1,2,2010\n")
    report = prepared(workload, folder, ray_home).report
    assert (report.rows_read, report.rows_kept, sum(report.dropped.values())) == (len(ROWS) + 1, len(ROWS), 1)


field = st.sampled_from(
    ["u1", "7", "2001-02-03", "1e400", "NaN", "", '"', '"a,b"', "caf\xe9", "\0", "x" * 99]
)
row = st.lists(field, min_size=1, max_size=4).map(",".join)
table = st.lists(row, max_size=6).map(lambda rows: "\n".join(["user,item,timestamp", *rows]))
content = st.one_of(
    table.map(str.encode), table.map(lambda text: text.encode("latin-1")), st.binary(max_size=200)
)
ending = st.sampled_from([".csv", ".csv.gz", ".jsonl", ".json", ".parquet"])


@hypothesis_settings(
    max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(ending, content, st.integers(0, 400))
@example(".parquet", PARQUET, 4)
@example(".jsonl", LINES.encode(), 77)
def test_any_bytes_are_a_table_or_refused(
    ray_home: Settings, tmp_path_factory: pytest.TempPathFactory, ending: str, content: bytes, cut: int
) -> None:
    file = tmp_path_factory.mktemp("any") / f"table{ending}"
    file.write_bytes(content[: len(content) - cut] if cut < len(content) else content)
    sources = RaySources()
    try:
        with sources.explained():
            sources.table(str(file)).count()
    except DataError as refused:
        assert str(file) in str(refused)
        assert not isinstance(refused, RayTaskError)
