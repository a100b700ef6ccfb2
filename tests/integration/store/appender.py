"""Appends to a lake in a process of its own: `appender.py URL FIRST`.

Many callers at once append rows `FIRST-0`, `FIRST-1`, ... one by one, and each row that is acknowledged is
printed: until somebody kills the process.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

import pyarrow as pa

from mizzen.store.lake import ParquetLake

SCHEMA = pa.schema([("event_id", pa.string()), ("n", pa.int64())])
CALLERS = 20


async def main(url: str, first: str) -> None:
    lake = ParquetLake(url, gather_s=0.002)
    numbers = itertools.count()

    async def keep_appending() -> None:
        for number in numbers:
            row = {"event_id": f"{first}-{number}", "n": number}
            await lake.append("feedback", [row], SCHEMA)
            print(row["event_id"], flush=True)

    await asyncio.gather(*(keep_appending() for _ in range(CALLERS)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
