"""The same training in plain PyTorch on one device: autocast, fused AdamW, clipping, and nothing else.

    python plain_loop.py CONFIG.json

From Mizzen it takes the examples with their order and the loss, which has the clock in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Train."""
    given: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    import torch
    from torch.utils.data import DataLoader

    from mizzen.training import job as jobs
    from mizzen.training.batches import SampleStream

    job = jobs.parse(given["job"], "the job")
    training, workload = job.training, job.implementation
    device = torch.device(given["device"])
    on_gpu = device.type == "cuda"
    prepared: Any = None  # there is nothing to read
    model: Any = workload.build_model(job.model, prepared, dropout=0.0).to(device)
    if training.activation_checkpointing:
        model.activation_checkpointing_enable()
    called: Any = torch.compile(model) if training.compile else model
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=training.learning_rate,
        betas=training.betas,
        weight_decay=training.weight_decay,
        fused=on_gpu,
    )
    examples: Any = workload.training_data(job.model, prepared)
    stream, size = SampleStream(len(examples), training.seed), training.micro_batch_size
    order: Any = [[stream.at(step * size + i) for i in range(size)] for step in range(given["num_steps"])]
    model.train()
    for batch in DataLoader(examples, batch_sampler=order, collate_fn=workload.collate, pin_memory=on_gpu):
        moved = {name: x.to(device, non_blocking=True) for name, x in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            loss: Any = workload.loss(called, moved)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
