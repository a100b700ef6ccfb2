"""What a chat model and a full micro-batch of it look like: known from the base folder's config.json alone.

It reads no weights and no tokenizer, so a folder without them can be planned with too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mizzen.workloads.chat import model as base
from mizzen.workloads.contract import Batch, Outline

if TYPE_CHECKING:
    import torch


def outline(config: base.ChatModel, *, dropout: float, batch_size: int) -> Outline:
    """Conversations of `max_length` tokens, every one of which is learnt. Raises as `model.skeleton`."""
    shape = config.model_copy(update={"init": "random"})  # where weights lie does not matter
    model = base.skeleton(shape, dropout=dropout).model
    if config.attention == "eager":  # the others hold the same, and flash need not be installed here
        from mizzen.workloads.chat import training

        training.begin(config, model)
    return Outline(model, full_batch(batch_size, config.max_length))


def full_batch(batch_size: int, length: int) -> Batch:
    """As `tokens.collate`, with rows of `length` tokens."""
    import torch

    ids_BT: torch.Tensor = torch.zeros(batch_size, length, dtype=torch.int64)
    return {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": ids_BT}
