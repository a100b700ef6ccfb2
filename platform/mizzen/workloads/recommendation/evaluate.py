"""Full-ranking metrics of next-item prediction, and the baseline by popularity.

Each held-out item is ranked among all items but those that its user met before. There is one relevant item
a user, so HR@10 is also recall, and NDCG@10 is 1 / log2(rank + 1) up to rank 10. Of items with the same
score, half count as ahead: so neither a constant score nor a lucky order of the items is rewarded.

Dimensions: B batch, S items seen, V items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mizzen.workloads.contract import Batch, Prepared, Split
from mizzen.workloads.recommendation import catalogue
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.sequences import Questions, collate

CUTOFF = 10


def ranks(scores_BV: Tensor, target_B: Tensor, seen_BS: Tensor) -> Tensor:
    """The rank of each target from 1, float (B,), among the items that are not in `seen`."""
    num_items = scores_BV.shape[1]
    # One column more, for the padding of `seen`.
    hidden_BV = torch.zeros(len(scores_BV), num_items + 1, dtype=torch.bool, device=scores_BV.device)
    hidden_BV = hidden_BV.scatter(1, seen_BS, True)[:, 1:]
    target_B1 = scores_BV.gather(1, target_B[:, None] - 1)
    ahead_B = ((scores_BV > target_B1) & ~hidden_BV).sum(1)
    level_B = ((scores_BV == target_B1) & ~hidden_BV).sum(1) - 1
    # NaN is neither above nor level: a broken model must not come out first.
    broken_B = scores_BV.isnan().any(1)
    rank_B = 1 + ahead_B + level_B.clamp(min=0) / 2
    return torch.where(broken_B, torch.full_like(rank_B, num_items), rank_B)


def measure(outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """`hr@10`, `ndcg@10` and `mrr@10` of each row, shape (B,)."""
    rank_B = ranks(outputs["scores"].float(), batch["target"], batch["seen"])
    hit_B = (rank_B <= CUTOFF).float()
    return {
        f"hr@{CUTOFF}": hit_B,
        f"ndcg@{CUTOFF}": hit_B / torch.log2(rank_B + 1),
        f"mrr@{CUTOFF}": hit_B / rank_B,
    }


def baselines(prepared: Prepared, split: Split) -> dict[str, dict[str, float]]:
    """Metrics of recommending everybody the items that were met most often before the split."""
    items = Catalogue.read(prepared.folder / catalogue.FILE)
    scores_V = torch.from_numpy(items.count(split).astype("float32"))
    questions = Questions(prepared, max_length=1, split=split)
    sums: dict[str, Any] = {}
    for batch in DataLoader(questions, batch_size=256, collate_fn=collate):
        outputs = {"scores": scores_V.expand(len(batch["target"]), -1)}
        for name, values_B in measure(outputs, batch).items():
            sums[name] = sums.get(name, 0.0) + float(values_B.double().sum())
    return {"popularity": {name: total / len(questions) for name, total in sums.items()}}
