"""What happens, kept beside the models: tables of Parquet files that only ever grow by whole files.

    lake/TABLE/date=2026-11-22/134501123456-6f1c....parquet

The date is the day (UTC) of writing, so a day that is over never changes, and names sort as they were
written. A name is new each time, so nothing is listed in order to write, and any number of processes write
at once. Rows of callers that come while a file gathers, or while one is written, share the next.

`append` returns when the file is durable. On disk that is: written aside, fsync, renamed, fsync of the
folder (obstore's own `put` leaves out both fsyncs); in object storage: the put was acknowledged. So no
acknowledged row is lost by `kill -9`, nor by a power cut as far as the disk keeps its word. A row whose
writer died before it could acknowledge may be there all the same, and its caller will send it again: such
repeats are told by a key (an event's id), and `rows_once` yields the first of them only. Nothing is compared
in order to write.

It does not merge small files, and removes none.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mizzen.errors import InputError, IntegrityError, OverloadedError, StoreError
from mizzen.store.objects import Objects

logger = logging.getLogger(__name__)

FOLDER = "lake"
UNFINISHED = f"{FOLDER}/.unfinished"
"""Where files lie on disk until they are whole; outside of every table, for readers that take any file."""
TABLE_PATTERN = r"[a-z]([a-z0-9_-]{0,61}[a-z0-9])?"
GATHER_S = 0.05
"""How long the first row of a file waits for others: at most 20 files a second and process."""
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Of rows that wait to be durable, in all; more are refused, so that memory stays bounded."""
PATIENCE_S = 15.0
"""An object store that does not answer is given up after this."""
AT_ONCE = 16
"""Files that are read at the same time."""


@dataclass
class _Group:
    """Rows that will share a file."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    durable: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def size_bytes(self) -> int:
        return sum(batch.nbytes for batch in self.batches)


@dataclass(frozen=True)
class _Kind:
    """What rows must have in common to share a file."""

    table: str
    schema: pa.Schema


class ParquetLake:
    """The contract's `Lake`, for one event loop; `close` it to write what still waits."""

    def __init__(
        self,
        url: str,
        *,
        gather_s: float = GATHER_S,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`url` is the store's. Nothing is written before the first `append`. Raises `StoreError`."""
        self._objects = Objects(url)
        self._gather_s = gather_s
        self._max_waiting_bytes = max_waiting_bytes
        self._patience_s = patience_s
        self._gathering: dict[_Kind, _Group] = {}
        self._writers: dict[_Kind, asyncio.Task[None]] = {}
        self._waiting_bytes = 0
        self._synced: set[Path] = set()
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="mizzen-lake")

    async def append(self, table: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
        """See `contract.Lake.append`. A row that does not fit the schema raises pyarrow's own exception."""
        if not re.fullmatch(TABLE_PATTERN, table):
            raise InputError("a table's name is wrong", saw=repr(table), allowed=TABLE_PATTERN)
        if not rows:
            return
        # Here and not in the writer: a row that does not fit must cost its own caller alone.
        batch = pa.RecordBatch.from_pylist(list(rows), schema=schema)
        if self._waiting_bytes + batch.nbytes > self._max_waiting_bytes:
            raise OverloadedError(
                "too many rows wait to be stored",
                saw=f"{self._waiting_bytes} bytes, and {batch.nbytes} more",
                allowed=f"{self._max_waiting_bytes}",
                remedy="Send them again after the time in Retry-After.",
            )
        group = self._group(_Kind(table, schema))
        group.batches.append(batch)
        self._waiting_bytes += batch.nbytes
        try:
            # Shielded: one caller that goes away must not take the file from the others.
            await asyncio.wait_for(asyncio.shield(group.durable), self._patience_s)
        except TimeoutError:
            raise StoreError(
                f"{self._objects.url} did not take the rows of {table!r} in time",
                saw=f"{self._patience_s:g} s",
                remedy="Check the store, then send them again.",
            ) from None

    async def close(self) -> None:
        """Return when everything that waits is written, or has failed."""
        await asyncio.gather(*self._writers.values())
        self._threads.shutdown(wait=False)

    def _group(self, kind: _Kind) -> _Group:
        group = self._gathering.get(kind)
        if group is None:
            group = self._gathering[kind] = _Group()
        if kind not in self._writers:
            self._writers[kind] = asyncio.create_task(self._write_while_any(kind))
        return group

    async def _write_while_any(self, kind: _Kind) -> None:
        """Write one file after the other until no row of this kind waits."""
        loop = asyncio.get_running_loop()
        while kind in self._gathering:
            await asyncio.sleep(self._gather_s)
            group = self._gathering.pop(kind)
            try:
                await loop.run_in_executor(self._threads, self._write, kind, group)
            except Exception as error:
                # Whatever it is, the callers must know that their rows are not stored.
                self._settle(group, error)
            else:
                self._settle(group, None)
        del self._writers[kind]

    def _settle(self, group: _Group, error: Exception | None) -> None:
        self._waiting_bytes -= group.size_bytes
        if error is None:
            group.durable.set_result(None)
            return
        if not isinstance(error, StoreError):
            logger.error("the lake cannot be written", exc_info=error)
            error = StoreError(f"the lake cannot be written: {type(error).__name__}")
        group.durable.set_exception(error)
        group.durable.exception()  # Looked at: all callers may have gone away.

    def _write(self, kind: _Kind, group: _Group) -> None:
        sink = io.BytesIO()
        pq.write_table(
            pa.Table.from_batches(group.batches, kind.schema),
            sink,
            compression="zstd",
            write_page_checksum=True,
        )
        now = datetime.now(UTC)
        name = f"{now:%H%M%S%f}-{uuid.uuid4().hex}.parquet"
        key = f"{FOLDER}/{kind.table}/date={now:%Y-%m-%d}/{name}"
        if self._objects.local_folder is None:
            self._objects.write(key, sink.getvalue())
        else:
            _write_durably(self._objects.local_folder, key, sink.getvalue(), self._synced)


def _write_durably(store: Path, key: str, data: bytes, synced: set[Path]) -> None:
    """Make a file appear below `store`, whole, and on the disk. Raises `StoreError`.

    `synced` remembers the folders whose entries this process has seen onto the disk.
    """
    target, aside = store / key, store / UNFINISHED / Path(key).name
    try:
        # The store's own folder is never made anew: if it is away, so may be the disk that it is on.
        _make_folder(store, target.parent, synced)
        _make_folder(store, aside.parent, synced)
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(target)
        _sync_folder(target.parent)
    except OSError as cause:
        with suppress(OSError):
            aside.unlink()
        raise StoreError(
            f"cannot write {target}: {cause.strerror or cause}",
            remedy="Check that the store's folder is there, can be written, and that its disk is not full.",
        ) from None


def _make_folder(store: Path, folder: Path, synced: set[Path]) -> None:
    """Make `folder` and what is missing between it and `store`; their entries are on the disk, too."""
    # That a folder is there does not say so: who made it may have been killed before its fsync.
    if folder == store or (folder in synced and folder.is_dir()):
        return
    _make_folder(store, folder.parent, synced)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)
    synced.add(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rows_once(
    url: str,
    table: str,
    key: str | None,
    *,
    columns: Sequence[str] | None = None,
    since: date | None = None,
    until: date | None = None,
) -> Iterator[pa.Table]:
    """The rows of a table, a file at a time in the order of writing; of rows with the same `key` the first.

    `columns` limits what is read (`key` is read in any case; what a file lacks is left out), `since` and
    `until` the days of writing, both included. With `key` None every row is there. It holds the keys that it
    has seen in memory, about 100 bytes for each row. A table that nobody has written to has no files.
    Raises `StoreError`, and `IntegrityError` for a file that is damaged.
    """
    objects = Objects(url)
    where = f"{FOLDER}/{table}"
    names = [name for name in objects.sizes_bytes(where) if _wanted(name, since, until)]
    wanted = None if columns is None else list(dict.fromkeys([*columns, *([key] if key else [])]))
    seen: set[Any] = set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(names), AT_ONCE):
            some = [f"{where}/{name}" for name in names[start : start + AT_ONCE]]
            for name, data in zip(some, pool.map(objects.read, some), strict=True):
                rows = _table(data, wanted, f"{objects.url}/{name}")
                yield _unseen(rows, key, seen) if key else rows


def _wanted(name: str, since: date | None, until: date | None) -> bool:
    match = re.fullmatch(r"date=(\d{4}-\d\d-\d\d)/[^/]+\.parquet", name)
    if match is None:
        return False
    day = date.fromisoformat(match[1])
    return (since is None or day >= since) and (until is None or day <= until)


def _table(data: bytes, columns: Sequence[str] | None, where: str) -> pa.Table:
    try:
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        return file.read(columns and [name for name in columns if name in file.schema_arrow.names])
    except (pa.ArrowException, OSError, UnicodeError) as cause:  # for a damaged page it is an OSError
        raise IntegrityError(
            f"{where} is no Parquet file that can be read: {cause}",
            remedy="Remove this object from the lake.",
        ) from None


def _unseen(rows: pa.Table, key: str, seen: set[Any]) -> pa.Table:
    fresh = []
    for value in rows.column(key).to_pylist():
        fresh.append(value not in seen)
        seen.add(value)
    return rows.filter(pa.array(fresh, pa.bool_()))
