"""Turns a table of interactions into one history a user, and holds the last two of each out.

Rows are read and cleaned in parallel by Ray Data, and arrive here in the order of the file; they are dealt
to files by the hash of the user, and each such file is then put in order by itself. So memory holds one of
`NUM_PARTS` parts of the rows at a time, and the ids and counts of all items, but never all histories.

Order: by time, and rows of one user with the same time in the order of the file. In MovieLens-100K the last
two times tie for 415 of 943 users, so another rule for ties would hold other items out. With several files
the order is that in which the reader lists them.

It trains nothing and knows no tensors.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mizzen.errors import DataError
from mizzen.workloads.contract import DataReport, Sources
from mizzen.workloads.recommendation import catalogue, cleaning, histories, movielens
from mizzen.workloads.recommendation.catalogue import Catalogue, Until
from mizzen.workloads.recommendation.config import DataConfig, InteractionColumns, ItemColumns

META = "meta.json"
NUM_PARTS = 64
_PART_SHIFT = np.uint64(64 - 6)
HELD_OUT: Mapping[Until, int] = {"validation": 2, "test": 1, "end": 0}
"""How many of a user's last interactions are not known before validation, before test, and at the end."""


@dataclass(frozen=True)
class Tables:
    """Where the two tables are, and what their columns are called."""

    interactions: str
    columns: InteractionColumns
    items: str | None
    item_columns: ItemColumns | None


@dataclass
class Tally:
    """What is counted on the way."""

    rows_read: int = 0
    rows_kept: int = 0
    users: int = 0
    users_tied_at_the_end: int = 0
    first_us: int = cleaning.LATEST_US
    last_us: int = -cleaning.LATEST_US
    dropped: Counter[str] = field(default_factory=Counter)
    counts: dict[Until, Counter[str]] = field(
        default_factory=lambda: {until: Counter() for until in HELD_OUT}
    )


def prepare(data: DataConfig, sources: Sources, folder: Path) -> DataReport:
    """Write `histories.arrow`, `items.arrow` and `meta.json` into `folder`. Raises `DataError`."""
    tables = _tables(data, sources)
    tally = Tally()
    with TemporaryDirectory(dir=folder, prefix=".parts-") as scratch:
        parts = [Path(scratch) / f"part-{number:02d}.arrow" for number in range(NUM_PARTS)]
        _deal(_rows(tables, data, sources, tally), parts, tally)
        for part in parts:
            _settle(part, data, tally)
        items = catalogue.build(tally.counts)
        _check_enough(tally, items, data)
        _write_histories(parts, items, folder / histories.FILE)
    facts = _facts(tally)
    if tables.items is not None and tables.item_columns is not None:
        items, found = catalogue.with_attributes(
            items, _ordered(sources.table(tables.items)), tables.item_columns
        )
        facts |= found
    items.write(folder / catalogue.FILE)
    meta = {
        "num_users": tally.users,
        "num_items": len(items),
        "num_interactions": tally.rows_kept,
        "num_evaluation_users": min(tally.users, data.max_evaluation_users),
    }
    (folder / META).write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n")
    return DataReport(tally.rows_read, tally.rows_kept, dict(sorted(tally.dropped.items())), facts)


def _tables(data: DataConfig, sources: Sources) -> Tables:
    if data.interactions is not None:
        return Tables(data.interactions, data.columns, data.items, data.item_columns)
    folder = sources.sample(str(data.dataset))
    return Tables(
        str(folder / movielens.INTERACTIONS),
        movielens.INTERACTION_COLUMNS,
        str(folder / movielens.ITEMS),
        movielens.ITEM_COLUMNS,
    )


def _ordered(rows: Any) -> Iterator[pa.Table]:
    """The blocks of a Ray data set in the order of the file, whichever is ready first."""
    rows.context.execution_options.preserve_order = True
    yield from rows.iter_batches(batch_size=None, batch_format="pyarrow")


def _rows(tables: Tables, data: DataConfig, sources: Sources, tally: Tally) -> Iterator[pa.Table]:
    """Cleaned batches, in the order of the file; what cannot be used is counted and left out."""
    rows = sources.table(tables.interactions)
    _check_columns(rows.schema(), tables.columns, tables.interactions)
    cleaned = rows.map_batches(
        cleaning.clean,
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs={
            "columns": tables.columns,
            "timestamp_unit": data.timestamp_unit,
            "min_rating": data.min_rating,
            "types": data.types,
        },
    )
    for batch in _ordered(cleaned):
        reason = batch.column("reason").to_numpy()
        for number in np.flatnonzero(np.bincount(reason, minlength=1)):
            if cleaning.REASONS[number] != cleaning.KEPT:
                tally.dropped[cleaning.REASONS[number]] += int((reason == number).sum())
        order = pa.array(np.arange(tally.rows_read, tally.rows_read + batch.num_rows))
        tally.rows_read += batch.num_rows
        yield batch.drop_columns("reason").append_column("order", order).filter(pa.array(reason == 0))


def _check_columns(schema: Any, columns: InteractionColumns, address: str) -> None:
    if schema is None:
        raise DataError("the interaction table is empty", saw=address)
    kinds = dict(zip(schema.names, schema.types, strict=True))
    for role, name in columns.model_dump(exclude_none=True).items():
        if name not in kinds:
            raise DataError(
                f"the interaction table has no column {name!r}",
                saw=", ".join(kinds),
                remedy=f"Name the {role} column under data.columns.{role}.",
                field=f"data.columns.{role}",
            )
    for role in ("user", "item"):
        name = getattr(columns, role)
        if isinstance(kinds[name], pa.DataType) and not cleaning.usable_as_id(kinds[name]):
            raise DataError(
                f"the column {name!r} cannot hold {role} ids",
                saw=str(kinds[name]),
                allowed="texts or numbers",
                field=f"data.columns.{role}",
            )


def _deal(batches: Iterator[pa.Table], parts: list[Path], tally: Tally) -> None:
    """Append each row to the file of its user's part."""
    writers: list[pa.ipc.RecordBatchStreamWriter | None] = [None] * len(parts)
    for batch in batches:
        part = (batch.column("key").to_numpy() >> _PART_SHIFT).astype(np.int64)
        by_part = np.argsort(part, kind="stable")
        batch = batch.take(pa.array(by_part)).combine_chunks()
        edges = np.searchsorted(part[by_part], np.arange(len(parts) + 1))
        for number in np.flatnonzero(np.diff(edges)):
            writer = writers[number]
            if writer is None:
                writer = writers[number] = pa.ipc.new_stream(str(parts[number]), batch.schema)
            writer.write_table(batch.slice(edges[number], edges[number + 1] - edges[number]))
    for writer in writers:
        if writer is not None:
            writer.close()


def _settle(part: Path, data: DataConfig, tally: Tally) -> None:
    """Put one part in order, drop what only a look at a whole user shows, and count the items."""
    if not part.exists():
        return
    with pa.OSFile(str(part)) as source:
        rows = pa.ipc.open_stream(source).read_pandas()
    rows = rows.sort_values(["key", "user", "time_us", "order"], kind="stable", ignore_index=True)
    rows = _drop(rows, rows.duplicated(["user", "item", "time_us"]), "repeats an earlier row", tally)
    if "event" in rows:
        repeats = rows["event"].notna() & rows.duplicated(["user", "event"])
        rows = _drop(rows, repeats, "repeats the event id of an earlier row", tally)
    num_rows = rows.groupby("user", sort=False)["item"].transform("size")
    rows = _drop(rows, num_rows < data.min_interactions, "user with fewer than min_interactions rows", tally)
    from_end = rows.groupby("user", sort=False).cumcount(ascending=False)
    rows = _drop(rows, from_end >= data.max_history, "older than the user's last max_history rows", tally)
    from_end = rows.groupby("user", sort=False).cumcount(ascending=False)
    times = rows["time_us"]
    ties = (from_end == 0) & (times == times.shift())
    tally.rows_kept += len(rows)
    tally.users += int((from_end == 0).sum())
    tally.users_tied_at_the_end += int(ties.sum())
    if len(rows):
        tally.first_us, tally.last_us = min(tally.first_us, times.min()), max(tally.last_us, times.max())
    for until, num_held_out in HELD_OUT.items():
        met = rows["item"][from_end >= num_held_out].value_counts()
        tally.counts[until].update(dict(zip(met.index.tolist(), met.tolist(), strict=True)))
    table = pa.Table.from_pandas(rows[["key", "user", "item"]], preserve_index=False)
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def _drop(rows: pd.DataFrame, which: pd.Series[bool], reason: str, tally: Tally) -> pd.DataFrame:
    if which.any():
        tally.dropped[reason] += int(which.sum())
    return rows[~which].reset_index(drop=True)


def _write_histories(parts: list[Path], items: Catalogue, path: Path) -> None:
    numbers = pd.Index(items.item_ids)
    with histories.HistoryWriter(path) as writer:
        for part in filter(Path.exists, parts):
            with pa.OSFile(str(part)) as source:
                rows = pa.ipc.open_stream(source).read_pandas()
            if len(rows) == 0:
                continue
            first = np.flatnonzero((rows["user"] != rows["user"].shift()).to_numpy())
            writer.write(
                rows["key"].to_numpy()[first],
                rows["user"].iloc[first].tolist(),
                np.append(first, len(rows)),
                numbers.get_indexer(pd.Index(rows["item"])) + 1,
            )


def _check_enough(tally: Tally, items: Catalogue, data: DataConfig) -> None:
    if tally.users == 0 or len(items) < 2:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(tally.dropped.items())) or "none"
        raise DataError(
            "too little is left of the interaction table to train on",
            saw=f"{tally.rows_read} rows, {tally.users} users, {len(items)} items; dropped: {reasons}",
            allowed=f"at least 1 user with {data.min_interactions} interactions, and 2 items",
            remedy="Check data.columns, or lower data.min_interactions.",
        )


def _facts(tally: Tally) -> dict[str, Any]:
    return {
        "users": tally.users,
        "items": len(tally.counts["end"]),
        "first_interaction": _iso(tally.first_us),
        "last_interaction": _iso(tally.last_us),
        "users_whose_last_two_times_tie": tally.users_tied_at_the_end,
        "order_of_ties": "the order of the rows in the file",
    }


def _iso(time_us: int) -> str:
    try:
        return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{time_us} microseconds from 1970"
