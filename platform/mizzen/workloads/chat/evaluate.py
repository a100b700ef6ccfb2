"""How well a model foretells the assistant's words: negative log-likelihood a token, and perplexity.

Legend: B conversations, T tokens, V words of the vocabulary.
It does not judge the wording of answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mizzen.workloads.chat.tokens import IGNORED

if TYPE_CHECKING:
    import torch


def predict(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`logits` (B, T, V) for `input_ids` and `attention_mask`, both (B, T).

    With `position_ids` (B, T) too, a row holds several conversations: one begins wherever positions do.
    """
    # Only where there is no mask does transformers look for beginnings.
    seen = "position_ids" if "position_ids" in inputs else "attention_mask"
    result: Any = model(input_ids=inputs["input_ids"], use_cache=False, **{seen: inputs[seen]})
    return {"logits": result.logits}


def loss(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean negative log-likelihood over all learnt tokens of the batch; 0 if there is none."""
    from torch.nn.functional import cross_entropy

    logits_BTV = predict(model, batch)["logits"]
    target_BT = batch["labels"][:, 1:]
    # Only rows of the vocabulary that are asked for are made fp32: logits are the largest tensor here.
    wanted_BT = target_BT != IGNORED
    total = cross_entropy(logits_BTV[:, :-1][wanted_BT].float(), target_BT[wanted_BT], reduction="sum")
    return total / wanted_BT.sum().clamp(min=1)


def measure(
    outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """`nll_sum` and `num_tokens` of each conversation, (B,)."""
    import torch
    from torch.nn.functional import cross_entropy

    nll_sums, num_tokens = [], []
    for logits_TV, label_T in zip(outputs["logits"], batch["labels"], strict=True):  # one at a time: memory
        wanted_T = label_T[1:] != IGNORED
        nll = cross_entropy(logits_TV[:-1][wanted_T].float(), label_T[1:][wanted_T], reduction="sum")
        nll_sums.append(nll.double())
        num_tokens.append(wanted_T.sum().double())
    return {"nll_sum": torch.stack(nll_sums), "num_tokens": torch.stack(num_tokens)}


def summarise(means: Mapping[str, float]) -> dict[str, float]:
    """`loss` a token, and `perplexity`, its exponential."""
    if not means["num_tokens"]:
        return {"loss": math.nan, "perplexity": math.nan}
    nats = means["nll_sum"] / means["num_tokens"]
    return {"loss": nats, "perplexity": math.exp(min(nats, 700.0))}
