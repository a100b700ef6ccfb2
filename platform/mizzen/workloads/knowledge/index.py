"""The index over embeddings: usearch's HNSW graph (Malkov and Yashunin 2016, arXiv:1603.09320) in one file.

The key of an embedding is its row in the table of chunks. An index is made at once and never changed, by one
thread: so the same embeddings give the same bytes. It is read as it lies on disk, shared by processes.
Legend: N chunks, D dimensions.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

# Before usearch: its library brings symbols of the C++ runtime that ONNX Runtime, loaded later, would take
# for its own, and crash on (usearch 2.26.6, onnxruntime 1.31.1). No other module imports usearch.
import onnxruntime
from numpy.typing import NDArray
from usearch.index import Index

__all__ = ["VectorIndex", "onnxruntime", "write"]

CONNECTIVITY = 16
EXPANSION_ADD = 128
EXPANSION_SEARCH = 256
"""How many neighbours a search looks at: more than are asked for, so that it misses next to nothing."""


def write(embeddings_ND: NDArray[np.float32], file: Path) -> None:
    """Write the index of `embeddings_ND`, which are of length one."""
    index = Index(
        ndim=embeddings_ND.shape[1],
        metric="ip",
        dtype="f32",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
    )
    index.add(np.arange(len(embeddings_ND), dtype=np.uint64), np.asarray(embeddings_ND), threads=1)
    index.save(str(file))


class VectorIndex:
    """An index on disk, open for questions; safe to call from threads."""

    def __init__(self, file: Path) -> None:
        index: Any = Index.restore(str(file), view=True)
        if index is None:
            raise ValueError(f"{file} is no index")
        index.expansion_search = EXPANSION_SEARCH
        self._index = index
        # A search works in memory that belongs to the index, one for each of *its* threads.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def dimensions(self) -> int:
        """Of an embedding."""
        return int(self._index.ndim)

    def nearest(self, embedding_D: NDArray[np.float32], count: int) -> list[tuple[int, float]]:
        """Rows and cosine similarities of the nearest embeddings, the best first; ties by row."""
        with self._lock:
            found = self._index.search(embedding_D, min(count, len(self._index)), threads=1)
        pairs = [(int(row), 1.0 - float(far)) for row, far in zip(found.keys, found.distances, strict=True)]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))

    def embeddings(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The embeddings of these rows, to the last bit as they were given to `write`."""
        return np.stack(self._index.get(rows.astype(np.uint64))).astype(np.float32)
