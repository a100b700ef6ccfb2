"""Several conversations in one row of tokens, so that few tokens are padding.

Positions begin anew with each conversation: by that transformers keeps attention within it. Which
conversations share a row follows from their lengths alone, so it is the same on every worker and after every
restart; lengths are kept in the cache, since all conversations have to be tokenised for them.

It does not decide the order in which rows are trained: the platform does.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mizzen import settings
from mizzen.workloads.chat.tokens import IGNORED, Example, Examples

if TYPE_CHECKING:
    import numpy as np

KINDS = frozenset(
    {
        *("apertus", "arcee", "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text"),
        *("glm", "glm4", "gpt2", "gpt_neox", "granite", "llama", "mistral", "mixtral", "nemotron", "olmo"),
        *("olmo2", "olmo3", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "seed_oss", "smollm3", "stablelm"),
        *("starcoder2",),
    }
)
"""Kinds of models (`model_type`) whose conversations do not see each other in a row: a test shows it.
Others take positions from elsewhere (OPT, Falcon), or carry a state along the row (Mamba)."""


@dataclass(frozen=True)
class Row:
    """Conversations one after the other."""

    conversations: tuple[Example, ...]
    max_length: int
    """What the row is filled up to: all rows have one length."""


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Numbers of conversations by row: best fit, the longest first. None counts more than `capacity`.

    At most 11/9 of the fewest possible rows, and one more (Johnson 1974).
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # rows by what is left in them
    rooms: list[int] = []  # its keys, in order
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = min(lengths[i], capacity)
        at = bisect_left(rooms, length)
        if at < len(rooms):
            room = rooms[at]
            row = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[at]
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(i)
        left = room - length
        if left not in with_room:
            with_room[left] = []
            insort(rooms, left)
        with_room[left].append(row)
    return [sorted(row) for row in rows]


class PackedExamples:
    """A map-style data set of rows."""

    def __init__(self, examples: Examples, lengths: Sequence[int], max_length: int) -> None:
        self._examples = examples
        self._max_length = max_length
        self._rows = pack(lengths, max_length)
        self.filled_share = sum(lengths) / (len(self._rows) * max_length) if self._rows else 0.0

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return Row(tuple(self._examples[i] for i in self._rows[index]), self._max_length)


def lengths_of(examples: Examples, digest: str, base: Path, max_length: int) -> np.ndarray[Any, Any]:
    """Tokens of each conversation, from the cache if they were counted before.

    `digest` is the data's; `base` the folder with the tokenizer. Workers that count at the same time write
    the same bytes, each at once.
    """
    import numpy as np

    tokenizer = b"".join(
        (base / name).read_bytes()
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        if (base / name).is_file()
    )
    key = hashlib.sha256(f"{digest} {max_length} ".encode() + tokenizer).hexdigest()[:32]
    file = settings.current().cache_dir / "conversation-lengths" / f"{key}.npy"
    if not file.is_file():
        counted = np.fromiter((len(examples[i].input_ids) for i in range(len(examples))), np.int32)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{key}-{os.getpid()}.unfinished")
        with unfinished.open("wb") as stream:
            np.save(stream, counted)
        unfinished.replace(file)
    found: np.ndarray[Any, Any] = np.load(file)
    return found


def collate(rows: Sequence[Row]) -> dict[str, Any]:
    """`input_ids`, `position_ids`, `labels` and `attention_mask`, each (B, T) with T = `max_length`.

    The mask only says what is no padding; attention follows from the positions. Padding is a conversation of
    its own, that nothing is learnt from. Nor is the first token of a conversation learnt: what stands before
    it is not its own.
    """
    import torch

    size = (len(rows), rows[0].max_length)
    input_ids_BT = torch.zeros(size, dtype=torch.int64)
    position_ids_BT = torch.arange(size[1]).repeat(len(rows), 1)
    attention_mask_BT = torch.zeros(size, dtype=torch.int64)
    labels_BT = torch.full(size, IGNORED, dtype=torch.int64)
    for b, row in enumerate(rows):
        start = 0
        for example in row.conversations:
            end = start + len(example.input_ids)
            input_ids_BT[b, start:end] = torch.tensor(example.input_ids)
            position_ids_BT[b, start:end] = torch.arange(end - start)
            labels_BT[b, start + 1 : end] = torch.tensor(example.labels[1:])
            start = end
        attention_mask_BT[b, :start] = 1
        position_ids_BT[b, start:] = torch.arange(size[1] - start)
    return {
        "input_ids": input_ids_BT,
        "position_ids": position_ids_BT,
        "attention_mask": attention_mask_BT,
        "labels": labels_BT,
    }
