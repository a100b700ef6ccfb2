"""Which reader a file gets, and what is said when there is none."""

from pathlib import Path

import pytest

from mizzen.errors import DataError
from mizzen.training.tables import _first_file, reader_of


@pytest.mark.parametrize(
    ("file", "reader"),
    [
        ("a.csv", "read_csv"),
        ("A.CSV.gz", "read_csv"),
        ("s3://bucket/b.parquet", "read_parquet"),
        ("c.jsonl", "read_json"),
        ("c.ndjson.gz", "read_json"),
    ],
)
def test_the_reader_follows_from_the_ending(file: str, reader: str) -> None:
    assert reader_of(file) == reader


def test_an_unknown_ending_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(DataError, match=r"table\.xlsx.*\.csv"):
        reader_of("table.xlsx")


def test_a_path_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no table here"):
        _first_file(str(tmp_path / "absent.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no table here"):
        _first_file(str(tmp_path / "empty"))


def test_a_folder_of_two_formats_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.csv").write_text("x\n1\n")
    (folder / "b.jsonl").write_text('{"x": 1}\n')
    with pytest.raises(DataError, match="mixes formats"):
        _first_file(str(folder))


@pytest.mark.parametrize("content", ["null\n", '\n "text"\n', "7"])
def test_json_that_begins_without_a_row_is_refused_before_it_is_read(content: str, tmp_path: Path) -> None:
    file = tmp_path / "table.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match=r"table\.jsonl.*one object a line"):
        _first_file(str(file))
