"""Rows that are told to be durable are there, once; what fails costs those whom it concerns, and is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mizzen.errors import InputError, IntegrityError, OverloadedError, StoreError
from mizzen.store.lake import ParquetLake, rows_once

SCHEMA = pa.schema([("id", pa.string()), ("value", pa.float64())])


def rows(*names: str) -> list[dict[str, Any]]:
    return [{"id": name, "value": float(len(name))} for name in names]


def size_bytes(num_rows: int) -> int:
    """That many rows with an id of one letter."""
    return pa.RecordBatch.from_pylist(rows(*"x" * num_rows), schema=SCHEMA).nbytes


def in_lake(url: str, body: Callable[[ParquetLake], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def run() -> None:
        lake = ParquetLake(url, **options)
        try:
            await body(lake)
        finally:
            await lake.close()

    asyncio.run(run())


def files(store: Path) -> list[Path]:
    return sorted((store / "lake" / "clicks").rglob("*.parquet"))


def found(url: str, key: str | None = "id", **options: Any) -> list[str]:
    return [name for table in rows_once(url, "clicks", key, **options) for name in table["id"].to_pylist()]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_rows_are_there_when_append_returns_in_a_file_of_the_day(url: str, folder: Path) -> None:
    async def body(lake: ParquetLake) -> None:
        await lake.append("clicks", rows("a", "b"), SCHEMA)
        (file,) = files(folder)
        assert file.parent.name == f"date={datetime.now(UTC):%Y-%m-%d}"
        assert pq.ParquetFile(file).read().to_pylist() == rows("a", "b")

    in_lake(url, body, gather_s=0)


def test_callers_at_the_same_time_share_a_file_and_each_row_is_there_once(url: str, folder: Path) -> None:
    async def body(lake: ParquetLake) -> None:
        await asyncio.gather(*(lake.append("clicks", rows(f"row {n}"), SCHEMA) for n in range(200)))

    in_lake(url, body)
    assert len(files(folder)) == 1
    assert sorted(found(url)) == sorted(f"row {n}" for n in range(200))


def test_rows_with_other_columns_get_files_of_their_own(url: str, folder: Path) -> None:
    other = pa.schema([("id", pa.string()), ("value", pa.int64())])

    async def body(lake: ParquetLake) -> None:
        await asyncio.gather(
            lake.append("clicks", rows("a"), SCHEMA), lake.append("clicks", [{"id": "b"}], other)
        )

    in_lake(url, body, gather_s=0)
    kinds = {str(pq.ParquetFile(file).schema_arrow.field("value").type) for file in files(folder)}
    assert kinds == {"double", "int64"}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and renamed, as it happens.

    The order of system calls is all that can be seen of durability without cutting the power.
    """
    seen: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.rename

    def recording_fsync(descriptor: int) -> None:
        seen.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def recording_rename(self: Path, target: Path) -> Path:
        seen.append(("rename", str(target)))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "rename", recording_rename)
    return seen


def test_a_file_is_on_the_disk_before_it_has_its_name_and_so_is_every_folder(
    url: str, folder: Path, steps: list[tuple[str, str]]
) -> None:
    in_lake(url, lambda lake: lake.append("clicks", rows("a"), SCHEMA), gather_s=0)
    (file,) = files(folder)
    aside = folder / "lake" / ".unfinished" / file.name
    parents = [folder, folder / "lake", folder / "lake" / "clicks"]
    assert set(steps[:4]) == {("fsync", str(parent)) for parent in parents}
    assert steps[4:] == [("fsync", str(aside)), ("rename", str(file)), ("fsync", str(file.parent))]
    assert not aside.exists()


def test_a_folder_that_somebody_else_made_is_brought_to_the_disk_once(
    url: str, folder: Path, steps: list[tuple[str, str]]
) -> None:
    made = folder / "lake" / "clicks" / f"date={datetime.now(UTC):%Y-%m-%d}"
    made.mkdir(parents=True)

    async def body(lake: ParquetLake) -> None:
        await lake.append("clicks", rows("a"), SCHEMA)
        assert ("fsync", str(made.parent)) in steps
        steps.clear()
        await lake.append("clicks", rows("b"), SCHEMA)
        assert [kind for kind, _ in steps] == ["fsync", "rename", "fsync"]

    in_lake(url, body, gather_s=0)


def test_a_row_that_does_not_fit_costs_its_own_caller_alone(url: str) -> None:
    async def body(lake: ParquetLake) -> None:
        good = asyncio.create_task(lake.append("clicks", rows("good"), SCHEMA))
        with pytest.raises(pa.ArrowInvalid):
            await lake.append("clicks", [{"id": "bad", "value": "no number"}], SCHEMA)
        await good

    in_lake(url, body)
    assert found(url) == ["good"]


def test_a_caller_that_goes_away_takes_nothing_from_the_others(url: str) -> None:
    async def body(lake: ParquetLake) -> None:
        gone = asyncio.create_task(lake.append("clicks", rows("gone"), SCHEMA))
        stays = asyncio.create_task(lake.append("clicks", rows("stays"), SCHEMA))
        await asyncio.sleep(0)
        gone.cancel()
        await stays

    in_lake(url, body)
    assert "stays" in found(url)


def test_more_rows_than_may_wait_are_refused_and_the_others_are_kept(url: str) -> None:
    async def body(lake: ParquetLake) -> None:
        first = asyncio.create_task(lake.append("clicks", rows("a", "b", "c"), SCHEMA))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match=f"{size_bytes(3)} bytes, and {size_bytes(2)} more"):
            await lake.append("clicks", rows("d", "e"), SCHEMA)
        await first
        await lake.append("clicks", rows("d", "e"), SCHEMA)

    in_lake(url, body, max_waiting_bytes=size_bytes(4))
    assert sorted(found(url)) == ["a", "b", "c", "d", "e"]


def test_a_store_that_is_away_is_told_to_all_and_is_not_made_anew_and_writing_goes_on_when_it_is_back(
    url: str, folder: Path, tmp_path: Path
) -> None:
    async def body(lake: ParquetLake) -> None:
        await lake.append("clicks", rows("before"), SCHEMA)
        folder.rename(tmp_path / "away")
        told = await asyncio.gather(
            *(lake.append("clicks", rows(f"lost {n}"), SCHEMA) for n in range(3)), return_exceptions=True
        )
        assert [type(error) for error in told] == [StoreError] * 3
        assert "cannot write" in str(told[0])
        assert not folder.exists()
        (tmp_path / "away").rename(folder)
        await lake.append("clicks", rows("after"), SCHEMA)

    in_lake(url, body, gather_s=0)
    assert found(url) == ["before", "after"]
    assert list((folder / "lake" / ".unfinished").iterdir()) == []


def test_a_store_that_does_not_answer_is_given_up(url: str) -> None:
    async def body(lake: ParquetLake) -> None:
        with pytest.raises(StoreError, match="in time"):
            await lake.append("clicks", rows("slow"), SCHEMA)

    in_lake(url, body, gather_s=0.05, patience_s=0.01)


def test_closing_writes_what_still_waits(url: str) -> None:
    async def body(lake: ParquetLake) -> None:
        waiting = asyncio.create_task(lake.append("clicks", rows("late"), SCHEMA))
        await asyncio.sleep(0)
        await lake.close()
        await waiting

    in_lake(url, body)
    assert found(url) == ["late"]


@pytest.mark.parametrize("table", ["", "Clicks", "a/b", "..", "a" * 64])
def test_a_tables_name_is_checked(url: str, table: str) -> None:
    async def body(lake: ParquetLake) -> None:
        with pytest.raises(InputError, match="table"):
            await lake.append(table, rows("a"), SCHEMA)

    in_lake(url, body)


# --- reading --------------------------------------------------------------------------------------


def written(folder: Path, day: str, name: str, *ids: str) -> None:
    place = folder / "lake" / "clicks" / f"date={day}"
    place.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": ids, "file": [name] * len(ids)})
    pq.write_table(table, place / f"{name}.parquet")


def test_of_repeats_the_first_that_was_written_is_read(url: str, folder: Path) -> None:
    written(folder, "2026-11-22", "080000", "b", "c", "c")
    written(folder, "2026-11-21", "235959", "a", "b")
    written(folder, "2026-11-22", "090000", "a", "d")
    tables = list(rows_once(url, "clicks", "id"))
    assert [table.to_pylist() for table in tables] == [
        [{"id": "a", "file": "235959"}, {"id": "b", "file": "235959"}],
        [{"id": "c", "file": "080000"}],
        [{"id": "d", "file": "090000"}],
    ]
    assert len(found(url, key=None)) == 7


def test_days_and_columns_can_be_chosen(url: str, folder: Path) -> None:
    for day in (20, 21, 22):
        written(folder, f"2026-11-{day}", "000000", f"of {day}")
    day = datetime(2026, 11, 21).date()
    assert found(url, since=day) == ["of 21", "of 22"]
    assert found(url, since=day, until=day) == ["of 21"]
    assert found(url, since=day + timedelta(days=5)) == []
    (only,) = rows_once(url, "clicks", "id", columns=["file", "not there"], since=day, until=day)
    assert only.to_pylist() == [{"file": "000000", "id": "of 21"}]


def test_a_table_that_nobody_wrote_to_is_empty(url: str) -> None:
    assert found(url) == []


def test_a_damaged_file_is_named(url: str, folder: Path) -> None:
    written(folder, "2026-11-22", "080000", "a")
    (folder / "lake" / "clicks" / "date=2026-11-22" / "080000.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(IntegrityError, match=r"080000\.parquet"):
        found(url)


def test_no_damaged_byte_of_a_page_is_read_as_a_row(url: str, folder: Path) -> None:
    names = [f"row {n}" for n in range(200)]
    in_lake(url, lambda lake: lake.append("clicks", rows(*names), SCHEMA), gather_s=0)
    (file,) = files(folder)
    whole = file.read_bytes()
    column = pq.ParquetFile(file).metadata.row_group(0).column(0)
    first = column.dictionary_page_offset
    for place in range(first, first + column.total_compressed_size, 41):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(IntegrityError, match=file.name):
            found(url)
