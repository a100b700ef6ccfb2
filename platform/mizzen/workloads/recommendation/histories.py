"""The histories of all users in one Arrow file: one row a user, memory-mapped, never read as a whole.

Rows are sorted by the hash of the user's id (`cleaning.user_key`), then by the id: so a user is found by
bisection, and the first rows are a random sample of the users that never changes.
It does not know what an item number means; that is in `catalogue`.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from mizzen.workloads.recommendation.cleaning import user_key

FILE = "histories.arrow"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.uint64(), nullable=False),
        pa.field("user", pa.string(), nullable=False),
        pa.field("items", pa.list_(pa.int32()), nullable=False),
    ]
)
"""`items` holds item numbers from 1, the oldest first."""


class HistoryWriter:
    """Writes groups of users; each group must follow the last in the order of keys."""

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, SCHEMA)

    def write(self, keys: np.ndarray, users: list[str], offsets: np.ndarray, items: np.ndarray) -> None:
        """User i met `items[offsets[i]:offsets[i + 1]]`."""
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(items, pa.int32()))
        columns = [pa.array(keys, pa.uint64()), pa.array(users, pa.string()), lists]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._sink.close()


class Histories:
    """Random access to the file that `HistoryWriter` wrote; pickled as its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._users = table.column("user")
        self._keys = [chunk.to_numpy() for chunk in table.column("key").chunks]
        lists = table.column("items").chunks
        self._offsets = [chunk.offsets.to_numpy() for chunk in lists]
        self._values = [chunk.values.to_numpy() for chunk in lists]
        self._starts = np.cumsum([0, *(len(keys) for keys in self._keys)])
        self._first_keys = np.array([keys[0] for keys in self._keys], dtype=np.uint64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        return Histories, (self.path,)

    def items(self, row: int) -> np.ndarray:
        """The item numbers of the user in this row, int32, the oldest first; a view on the file."""
        chunk = int(self._starts.searchsorted(row, side="right")) - 1
        offsets, inside = self._offsets[chunk], row - int(self._starts[chunk])
        items: np.ndarray = self._values[chunk][offsets[inside] : offsets[inside + 1]]
        return items

    def user(self, row: int) -> str:
        """The id of the user in this row."""
        return str(self._users[row].as_py())

    def lengths(self) -> np.ndarray:
        """How many items each user met, int64, by row."""
        parts = [np.diff(offsets).astype(np.int64) for offsets in self._offsets]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def find(self, user: str) -> int | None:
        """The row of a user; None if there is no such user."""
        key = np.uint64(user_key(user))
        chunk = int(self._first_keys.searchsorted(key, side="right")) - 1
        if chunk < 0:
            return None
        keys = self._keys[chunk]
        inside = int(keys.searchsorted(key))
        while inside < len(keys) and keys[inside] == key:
            row = int(self._starts[chunk]) + inside
            if self.user(row) == user:
                return row
            inside += 1
        return None
