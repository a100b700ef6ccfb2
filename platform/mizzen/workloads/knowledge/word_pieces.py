"""Text in the embedding model's word pieces: counted, and as the numbers that the model reads.

Legend: B texts, T word pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mizzen.workloads.knowledge.config import MAX_WORD_PIECES
from mizzen.workloads.knowledge.samples import TOKENIZER

PADDING = 0


class WordPieces:
    """The tokenizer in a model's folder; safe to call from threads."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        # The file of the sample cuts at 128 and fills up to 128.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # A text that says [SEP] means these letters, not the end of a text.
        self._tokenizer.encode_special_tokens = True

    def count(self, text: str) -> int:
        """How many word pieces `text` has, without the two that mark its start and end."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def read(self, text: str) -> tuple[list[int], int]:
        """What the model reads of `text`, start and end marked, and how many pieces did not fit."""
        ids: list[int] = self._tokenizer.encode(text).ids
        if len(ids) <= MAX_WORD_PIECES:
            return ids, 0
        return [*ids[: MAX_WORD_PIECES - 1], ids[-1]], len(ids) - MAX_WORD_PIECES


def batch(rows: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
    """The model's inputs for several texts: `input_ids` and `attention_mask`, int64, (B, T) each."""
    length = max(len(row) for row in rows)
    ids_BT = np.full((len(rows), length), PADDING, np.int64)
    mask_BT = np.zeros((len(rows), length), np.int64)
    for number, row in enumerate(rows):
        ids_BT[number, : len(row)] = row
        mask_BT[number, : len(row)] = 1
    return {"input_ids": ids_BT, "attention_mask": mask_BT}
