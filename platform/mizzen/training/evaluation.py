"""Held-out metrics of a model that is spread over the ranks; all ranks call it together.

Exports are judged in `store.gate`, which takes the same means over the same rows in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mizzen.training.batches import EvaluationBatches
from mizzen.workloads.contract import Split, Workload


def evaluate(
    workload: Workload,
    model: Any,
    config: Any,
    prepared: Any,
    split: Split,
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    device: Any,
    alive: Callable[[], None],
) -> dict[str, float]:
    """The workload's metrics on `split`, the same on every rank; `alive` is called with each batch."""
    import torch
    import torch.distributed

    data: Any = workload.evaluation_data(config, prepared, split)
    sums: dict[str, Any] = {}
    weight_sum = torch.zeros((), dtype=torch.float64, device=device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for indices, weights in EvaluationBatches(len(data), batch_size, rank, world_size):
            alive()
            batch = to_device(workload.collate([data[i] for i in indices]), device)
            outputs = workload.predict(model, workload.inputs(batch))
            values_B = workload.measure({name: value.float() for name, value in outputs.items()}, batch)
            weight_B = torch.tensor(weights, dtype=torch.float64, device=device)
            weight_sum += weight_B.sum()
            for name, value_B in values_B.items():
                # where, not times: a repeated row may be NaN.
                kept_B = torch.where(weight_B > 0, value_B.double(), torch.zeros_like(weight_B))
                sums[name] = sums.get(name, 0) + kept_B.sum()
    model.train(was_training)
    names = sorted(sums)
    total = torch.stack([*(sums[name] for name in names), weight_sum])
    if world_size > 1:
        torch.distributed.all_reduce(total)
    means = {name: float(total[i] / total[-1]) for i, name in enumerate(names)}
    return workload.summarise(means)


def to_device(batch: dict[str, Any], device: Any) -> dict[str, Any]:
    """The batch with its tensors on `device`."""
    import torch

    return {
        k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()
    }
