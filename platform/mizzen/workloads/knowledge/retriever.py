"""A knowledge base, open for questions: the contract's `Retriever`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mizzen.workloads.contract import ModelIdentity, Passage, Runtime
from mizzen.workloads.knowledge import export, table
from mizzen.workloads.knowledge.config import MAX_WORD_PIECES
from mizzen.workloads.knowledge.index import VectorIndex
from mizzen.workloads.knowledge.word_pieces import WordPieces, batch


class KnowledgeRetriever:
    """Finds passages of one version; safe to call from threads.

    Of a text only the first `max_tokens` word pieces are read.
    """

    max_tokens = MAX_WORD_PIECES

    def __init__(self, folder: Path, runtime: Runtime, identity: ModelIdentity) -> None:
        self.identity = identity
        self._chunks = table.Chunks(folder / table.FILE)
        self._index = VectorIndex(folder / export.INDEX)
        self._word_pieces = WordPieces(folder)
        self._predict = export.open_model(folder, runtime)

    def search(self, question: str, num_passages: int) -> list[Passage]:
        """The passages nearest in meaning, the best first."""
        return self.nearest(self.embed([question])[0], num_passages)

    def nearest(self, embedding_D: NDArray[np.float32], num_passages: int) -> list[Passage]:
        """The passages nearest to an embedding, the best first."""
        passages = []
        for row, score in self._index.nearest(embedding_D, num_passages):
            found = self._chunks[row]
            passages.append(Passage(found.document, found.number, found.chunk.text, score, found.chunk.title))
        return passages

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of unit length, float32, (number of texts, dimensions).

        One text at a time: int8 arithmetic scales by what is in a batch, so in company a text would get
        another embedding than alone.
        """
        rows: list[NDArray[Any]] = [
            self._predict(batch([self._word_pieces.read(text)[0]]))[export.OUTPUT][0] for text in texts
        ]
        return np.stack(rows).astype(np.float32) if rows else np.zeros((0, self.dimensions), np.float32)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """How many word pieces `texts` have, with the two that mark start and end of each."""
        sizes = map(self._word_pieces.read, texts)
        return sum(len(ids) + num_unread for ids, num_unread in sizes)

    @property
    def dimensions(self) -> int:
        """Of an embedding."""
        return self._index.dimensions
