"""A lake on disk and on S3 whose writers are killed, or whose store is away: no acknowledged row is lost."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mizzen.errors import StoreError
from mizzen.store.lake import ParquetLake, rows_once

HERE = Path(__file__).parent
ENOUGH = 200
"""Acknowledged rows after which a writer is killed: some files, on S3 too."""


@contextmanager
def appender(url: str, first: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, HERE / "appender.py", url, first], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def acknowledged_until_killed(url: str, first: str) -> list[str]:
    """What a writer had acknowledged when SIGKILL hit it in the middle of its work."""
    with appender(url, first) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(ENOUGH)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.read().splitlines()
        assert process.wait() == -signal.SIGKILL
    return told


def stored(url: str) -> list[str]:
    return [
        name for table in rows_once(url, "feedback", "event_id") for name in table["event_id"].to_pylist()
    ]


def test_no_acknowledged_row_is_lost_by_kill_9_and_repeats_count_once(url: str) -> None:
    told = [*acknowledged_until_killed(url, "a"), *acknowledged_until_killed(url, "b")]
    assert len(told) >= 2 * ENOUGH
    found = stored(url)
    assert len(set(found)) == len(found)
    assert set(told) <= set(found)

    # Clients that are not sure send again what they have, and what they had no answer for.
    again = [*told[-50:], "a-new"]

    async def repeat() -> None:
        lake = ParquetLake(url)
        rows = [{"event_id": event_id, "n": -1} for event_id in again]
        await lake.append("feedback", rows, next(rows_once(url, "feedback", None)).schema)
        await lake.close()

    asyncio.run(repeat())
    after = stored(url)
    assert sorted(after) == sorted([*found, "a-new"])
    firsts = {
        row["event_id"]: row["n"]
        for table in rows_once(url, "feedback", "event_id")
        for row in table.to_pylist()
    }
    assert firsts["a-0"] == 0
    assert firsts["a-new"] == -1


def test_an_object_store_that_is_away_is_told_after_seconds_and_nothing_is_acknowledged(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    schema = pa.schema([("event_id", pa.string())])

    async def append(url: str) -> None:
        lake = ParquetLake(url)
        try:
            await lake.append("feedback", [{"event_id": "lost"}], schema)
        finally:
            await lake.close()

    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StoreError, match="cannot write"):
            asyncio.run(append(bucket))
    assert stored(bucket) == []
    asyncio.run(append(bucket))
    assert stored(bucket) == ["lost"]
