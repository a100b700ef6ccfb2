"""The table of chunks, as it lies in prepared data and in a version: Parquet, a row for each embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mizzen.workloads.knowledge.chunking import Chunk

FILE = "chunks.parquet"
SCHEMA = pa.schema(
    [
        pa.field("document", pa.string(), nullable=False),
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("heading", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Located:
    """A chunk and where it stands."""

    document: str
    number: int
    """In its document, from 0."""
    chunk: Chunk


def write(rows: Sequence[Located], file: Path) -> None:
    """Write the table; the same rows give the same bytes."""
    columns: dict[str, list[Any]] = {
        "document": [row.document for row in rows],
        "chunk": [row.number for row in rows],
        "title": [row.chunk.title for row in rows],
        "heading": [row.chunk.heading for row in rows],
        "text": [row.chunk.text for row in rows],
    }
    pq.write_table(pa.table(columns, schema=SCHEMA), file, compression="zstd")


class Chunks:
    """The table, read; rows are made into objects as they are asked for."""

    def __init__(self, file: Path) -> None:
        self._table: Any = pq.read_table(file, schema=SCHEMA).combine_chunks()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, row: int) -> Located:
        document, number, title, heading, text = (column[row].as_py() for column in self._table.columns)
        return Located(document, number, Chunk(title, text, heading))
