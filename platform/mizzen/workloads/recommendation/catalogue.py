"""The items: their ids, how often they were met, and their attributes; in memory, in one Arrow file.

Item number n (from 1) is row n - 1. Numbers go by popularity in training, then by id. It holds no users.

How often an item was met is counted three times, so that no held-out item counts for its own prediction:
before the item that is held out for validation (that is, in training), before the one for test, and in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mizzen.errors import DataError
from mizzen.workloads.recommendation import cleaning
from mizzen.workloads.recommendation.config import ItemColumns

FILE = "items.arrow"
PREFIX = "attribute:"
Until = Literal["validation", "test", "end"]
COUNTS: Mapping[Until, str] = {
    "validation": "count_before_validation",
    "test": "count_before_test",
    "end": "count",
}
_NOBODY = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Catalogue:
    """All items that can be recommended."""

    table: pa.Table
    """Columns `item` string, one of int64 for each of `COUNTS`, and `attribute:NAME` for each attribute."""

    @classmethod
    def read(cls, path: Path) -> Catalogue:
        with pa.memory_map(str(path)) as source:
            return cls(pa.ipc.open_file(source).read_all())

    def write(self, path: Path) -> None:
        table = self.table.combine_chunks()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def item_ids(self) -> list[str]:
        """By row."""
        ids: list[str] = self.table.column("item").to_pylist()
        return ids

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Item numbers, from 1, by id."""
        return {item: number for number, item in enumerate(self.item_ids, start=1)}

    def find(self, items: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """The numbers of those items that are known, int64, in their order; and the others, each once."""
        if not items:
            return _NOBODY, []
        numbers = self.numbers
        found = [numbers[item] for item in items if item in numbers]
        unknown = (
            [] if len(found) == len(items) else list(dict.fromkeys(i for i in items if i not in numbers))
        )
        return np.array(found, dtype=np.int64), unknown

    def count(self, until: Until) -> np.ndarray:
        """How often each item was met, int64, by row; see `COUNTS`."""
        counts: np.ndarray = self.table.column(COUNTS[until]).to_numpy()
        return counts

    @cached_property
    def attributes(self) -> dict[str, pa.Array]:
        """Columns of int64, float64, string or list of string, by name."""
        names = [name for name in self.table.column_names if name.startswith(PREFIX)]
        return {name.removeprefix(PREFIX): _one(self.table.column(name)) for name in names}


def build(counts: Mapping[Until, Mapping[str, int]]) -> Catalogue:
    """Items without attributes, numbered by popularity in training, then by id."""
    training = counts["validation"]
    items = sorted(counts["end"], key=lambda item: (-training.get(item, 0), item))
    columns = {"item": pa.array(items, pa.string())}
    for until, name in COUNTS.items():
        columns[name] = pa.array([counts[until].get(item, 0) for item in items], pa.int64())
    return Catalogue(pa.table(columns))


def with_attributes(
    catalogue: Catalogue, batches: Iterable[pa.Table], columns: ItemColumns
) -> tuple[Catalogue, dict[str, int]]:
    """The catalogue with attributes from the item table, and what was found on the way.

    Of rows with the same id the first counts; rows of items that nobody met are left out. Raises
    `DataError` if a column is missing, or holds neither numbers nor texts nor lists of texts.
    """
    known = pa.array(catalogue.item_ids, pa.string())
    kept: list[pa.Table] = []
    num_rows = 0
    for batch in batches:
        num_rows += batch.num_rows
        kept.append(_known_rows(batch, known, columns))
    try:
        table = pa.concat_tables(kept, promote_options="permissive")
    except pa.ArrowException as cause:
        raise DataError(
            f"a column of the item table changes its type between rows: {cause}",
            allowed="one type a column",
            remedy="Write the column as text throughout.",
        ) from None
    rows = _first_rows(_one(table.column(columns.item)), len(catalogue))
    out = catalogue.table
    for name in columns.attributes:
        values = _attribute(name, _one(table.column(name)), columns.separators.get(name))
        out = out.append_column(PREFIX + name, values.take(rows))
    facts = {
        "item_rows_read": num_rows,
        "item_rows_of_items_without_interactions_or_repeated": num_rows - int(pc.count(rows).as_py()),
        "items_without_attributes": int(rows.null_count),
    }
    return Catalogue(out), facts


def _known_rows(batch: pa.Table, known: pa.Array, columns: ItemColumns) -> pa.Table:
    wanted = [columns.item, *columns.attributes]
    missing = [name for name in wanted if name not in batch.column_names]
    if missing:
        raise DataError(
            f"the item table has no column {missing[0]!r}",
            saw=", ".join(batch.column_names),
            remedy="Name the columns under data.item_columns.",
        )
    ids = cleaning.ids(_one(batch.column(columns.item)))
    numbers = pc.index_in(ids, known)
    rows = batch.select(columns.attributes).append_column(columns.item, numbers)
    return rows.filter(pc.is_valid(numbers))


def _first_rows(numbers: pa.Array, num_items: int) -> pa.Array:
    """For each item the first row that names it, or null."""
    first = np.full(num_items, -1, np.int64)
    found = numbers.to_numpy(zero_copy_only=False)
    first[found[::-1]] = np.arange(len(found))[::-1]
    return pa.array(first, mask=first < 0)


def _attribute(name: str, values: pa.Array, separator: str | None) -> pa.Array:
    kind = values.type
    try:
        if separator is not None:
            return _split(values.cast(pa.string()), separator)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return values.cast(pa.list_(pa.string()))
        if pa.types.is_integer(kind):
            return values.cast(pa.int64())
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            numbers = values.cast(pa.float64())
            return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))
        return values.cast(pa.string())
    except pa.ArrowException as cause:
        raise DataError(
            f"the attribute {name!r} of the item table cannot be used: {cause}",
            saw=str(kind),
            allowed="numbers, texts, or lists of texts",
            field=f"data.item_columns.attributes.{name}",
        ) from None


def _split(values: pa.Array, separator: str) -> pa.Array:
    parts = [
        None if text is None else [part.strip() for part in text.split(separator) if part.strip()]
        for text in values.to_pylist()
    ]
    return pa.array(parts, pa.list_(pa.string()))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
