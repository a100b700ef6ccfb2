"""Self-attentive sequential recommendation: SASRec, Kang and McAuley, ICDM 2018 (arXiv:1808.09781).

Two things differ from the paper, as in later practice: the loss is a softmax over all items (or a sampled
one with the logQ correction) where the paper takes one negative an item, and positions are counted from
the end, so that an input may be shorter than `max_length` without a change of the scores. Two more can be
asked for: items hidden from the history in training, and several networks of which the mean is taken.

It knows neither users nor item ids: items are numbers from 1, in order of their popularity in training,
and 0 is padding, on the left.

Dimensions: B batch, L length, D hidden size, H heads, d size of a head, V items, N trained positions,
S sampled items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPSILON = 1e-8


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, query_BLD: Tensor, x_BLD: Tensor, visible_B1LL: Tensor) -> Tensor:
        heads = (self.num_heads, -1)
        query_BHLd = self.query(query_BLD).unflatten(-1, heads).transpose(1, 2)
        key_BLD, value_BLD = self.key_value(x_BLD).chunk(2, dim=-1)
        key_BHLd = key_BLD.unflatten(-1, heads).transpose(1, 2)
        value_BHLd = value_BLD.unflatten(-1, heads).transpose(1, 2)
        mixed_BHLd = F.scaled_dot_product_attention(
            query_BHLd,
            key_BHLd,
            value_BHLd,
            attn_mask=visible_B1LL,
            dropout_p=self.dropout if self.training else 0.0,
        )
        out_BLD: Tensor = self.output(mixed_BHLd.transpose(1, 2).flatten(2))
        return out_BLD


class Block(nn.Module):
    """Attention, then a position-wise network, each with a residual connection and dropout."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size, eps=NORM_EPSILON)
        self.attention = Attention(hidden_size, num_heads, dropout)
        self.forward_norm = nn.LayerNorm(hidden_size, eps=NORM_EPSILON)
        self.widen = nn.Linear(hidden_size, hidden_size)
        self.narrow = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, visible_B1LL: Tensor) -> Tensor:
        normed_BLD = self.attention_norm(x_BLD)
        x_BLD = x_BLD + self.dropout(self.attention(normed_BLD, normed_BLD, visible_B1LL))
        inner_BLD = self.dropout(F.relu(self.widen(self.forward_norm(x_BLD))))
        out_BLD: Tensor = x_BLD + self.dropout(self.narrow(inner_BLD))
        return out_BLD


class SASRec(nn.Module):
    """Scores all items as the next one after a history.

    `forward(history)` takes int64 (B, L) with L at most `max_length`, 0 = padding on the left, and returns
    float (B, V): column j belongs to item j + 1. A history of nothing but padding gets finite scores
    without meaning. `forward(history, target)` returns the training loss instead, a mean over the
    positions whose `target` is not 0; in training mode each item of the history is then hidden with the
    probability `history_dropout`, as if it were padding, while its place keeps its target.
    """

    def __init__(
        self,
        num_items: int,
        *,
        hidden_size: int,
        num_blocks: int,
        num_heads: int,
        max_length: int,
        dropout: float,
        history_dropout: float = 0.0,
        num_negatives: int | None = None,
    ) -> None:
        super().__init__()
        self.num_items = num_items
        self.max_length = max_length
        self.history_dropout = history_dropout
        self.num_negatives = num_negatives
        self.items = nn.Embedding(num_items + 1, hidden_size)
        self.positions = nn.Embedding(max_length, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, dropout) for _ in range(num_blocks))
        self.final_norm = nn.LayerNorm(hidden_size, eps=NORM_EPSILON)
        self.apply(_initialise)

    def forward(self, history: Tensor, target: Tensor | None = None) -> Tensor:
        if target is None:
            return self.encode(history)[:, -1] @ self.items.weight[1:].T
        if self.training and self.history_dropout:
            hidden_BL = torch.rand(history.shape, device=history.device) < self.history_dropout
            history = history.masked_fill(hidden_BL, 0)
        x_BLD = self.encode(history)
        trained = target > 0
        x_ND, target_N = x_BLD[trained], target[trained]
        if self.num_negatives is None:
            logits_NV = x_ND @ self.items.weight[1:].T
            return F.cross_entropy(logits_NV, target_N - 1)
        return self._sampled_loss(x_ND, target_N, self.num_negatives)

    def encode(self, history_BL: Tensor) -> Tensor:
        """A vector (B, L, D) for each position, of the items up to it."""
        length = history_BL.shape[1]
        steps_L = torch.arange(length, device=history_BL.device)
        real_BL = history_BL > 0
        # A padded position may see itself: a softmax over nothing would be NaN.
        earlier_LL = steps_L[:, None] > steps_L[None, :]
        itself_LL = steps_L[:, None] == steps_L[None, :]
        visible_B1LL = ((earlier_LL & real_BL[:, None, :]) | itself_LL)[:, None]
        x_BLD = self.items(history_BL) * math.sqrt(self.items.embedding_dim)
        x_BLD = self.dropout(x_BLD + self.positions(steps_L + (self.max_length - length)))
        for block in self.blocks:
            x_BLD = block(x_BLD, visible_B1LL)
        out_BLD: Tensor = self.final_norm(x_BLD)
        return out_BLD

    def _sampled_loss(self, x_ND: Tensor, target_N: Tensor, num_negatives: int) -> Tensor:
        """Sampled softmax with log-uniform negatives and logQ correction (arXiv:1412.2007, section 3).

        Items are numbered by popularity, so log-uniform in the number follows their long tail. A negative
        stands for as many items as its correction says; the target is always there and stands for itself.
        """
        uniform_S = torch.rand(num_negatives, device=x_ND.device)
        negative_S = (uniform_S * math.log(self.num_items + 1)).exp().long().clamp(1, self.num_items)
        negative_SD, positive_ND = self.items(negative_S), self.items(target_N)
        positive_N1 = (x_ND * positive_ND).sum(-1, keepdim=True)
        negative_NS = x_ND @ negative_SD.T - self._log_expected(negative_S, num_negatives)
        negative_NS = negative_NS.masked_fill(target_N[:, None] == negative_S, torch.finfo(x_ND.dtype).min)
        logits_N1S = torch.cat([positive_N1, negative_NS], dim=1)
        return F.cross_entropy(logits_N1S, torch.zeros_like(target_N))

    def _log_expected(self, item_S: Tensor, num_negatives: int) -> Tensor:
        """The logarithm of how often an item is expected among the negatives."""
        probability_S = torch.log1p(1.0 / item_S) / math.log(self.num_items + 1)
        return torch.log(probability_S * num_negatives)


class Ensemble(nn.Module):
    """Several networks of one shape, each trained on its own loss; their scores are averaged.

    It is called as one of them is. Taking the mean of the logits ranks as the mean of the logarithms of
    the probabilities does: for one history, the two differ by a constant.
    """

    def __init__(self, members: Sequence[SASRec]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, history: Tensor, target: Tensor | None = None) -> Tensor:
        return torch.stack([member(history, target) for member in self.members]).mean(0)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
