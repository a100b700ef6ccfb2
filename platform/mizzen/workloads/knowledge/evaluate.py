"""How well questions find their chunks: recall@5 and the mean reciprocal rank, over all chunks, exactly.

A question counts as found if one of its right chunks is among the first five; its reciprocal rank is that of
the first right chunk. A wrong chunk that is as near as the right one counts as nearer.
Legend: B questions, N chunks, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mizzen.workloads.contract import Batch, Prepared
from mizzen.workloads.knowledge import data
from mizzen.workloads.knowledge.word_pieces import WordPieces, batch

RECALL = "recall@5"
FIRST = 5
Row = tuple[list[int], tuple[int, ...], torch.Tensor]


class Questions(torch.utils.data.Dataset[Row]):
    """The questions of prepared data: word pieces, rows of the right chunks, and all embeddings (N, D)."""

    def __init__(self, prepared: Prepared) -> None:
        self._questions = data.read_questions(prepared.folder)
        self._word_pieces = WordPieces(prepared.folder)
        self._embeddings_ND = torch.from_numpy(np.load(prepared.folder / data.EMBEDDINGS, allow_pickle=False))

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, number: int) -> Row:
        question = self._questions[number]
        return self._word_pieces.read(question.text)[0], question.chunks, self._embeddings_ND


def collate(rows: Sequence[Row]) -> Batch:
    """The model's inputs, and beside them what `measure` needs."""
    inputs = {name: torch.from_numpy(value) for name, value in batch([row[0] for row in rows]).items()}
    return {**inputs, "right": [row[1] for row in rows], "embeddings": rows[0][2]}


def measure(outputs: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
    """Whether each question found its chunk among the first five, and one over its rank; (B,) each."""
    embeddings_BD: Any = next(iter(outputs.values()))
    scores_BN = embeddings_BD.float() @ batch["embeddings"].T
    ranks = []
    for scores_N, right in zip(scores_BN, batch["right"], strict=True):
        chosen = torch.tensor(right)
        as_near = int((scores_N >= scores_N[chosen].max()).sum())
        ranks.append(1 + as_near - int((scores_N[chosen] >= scores_N[chosen].max()).sum()))
    ranks_B = torch.tensor(ranks, dtype=torch.float64)
    return {RECALL: (ranks_B <= FIRST).double(), "mrr": 1 / ranks_B}
