"""The same training without Mizzen: a plain DeepSpeed loop, as its documentation has it, for `torchrun`.

    torchrun --standalone --nproc-per-node 2 bare_deepspeed.py CONFIG.json

From Mizzen it takes what must be the same to be compared: the model, the examples with their order, the loss
and DeepSpeed's configuration. The loop has no metrics, no log, no checks and no checkpoints.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mizzen.training import data as prepared_data
from mizzen.training import elastic
from mizzen.training import job as jobs
from mizzen.training.batches import MicroBatches, SampleStream
from mizzen.training.configuration import configuration, with_buffers
from mizzen.training.engine import SHARED_MEMORY_OP


def main() -> None:
    """Train, and say when the first step was done."""
    given: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(given["num_threads"])
    # As in Mizzen: an extension that training never calls would be compiled at the first start.
    deepspeed.ops.__compatible_ops__[SHARED_MEMORY_OP] = False
    deepspeed.init_distributed("gloo")
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    job = jobs.parse(given["job"], "the job")
    workload, training = job.implementation, job.training
    prepared = prepared_data.opened(Path(given["prepared"]))
    torch.manual_seed(training.seed)
    model = workload.build_model(job.model, prepared, dropout=training.dropout)
    workload.begin_training(job.model, model)
    parameters = list(model.parameters())
    largest = max(parameter.numel() for parameter in parameters)
    config = with_buffers(configuration(job, world_size), largest)
    engine, *_ = deepspeed.initialize(model=model, model_parameters=parameters, config=config)
    torch.manual_seed(training.seed + 1 + rank)
    examples: Any = workload.training_data(job.model, prepared)
    order: Any = MicroBatches(
        SampleStream(len(examples), training.seed), elastic.division(job, world_size), rank
    )
    # A generator of its own, as in Mizzen: else its start takes a number from the one that dropout uses.
    own = torch.Generator()
    batches = iter(DataLoader(examples, batch_sampler=order, collate_fn=workload.collate, generator=own))
    engine.train()
    for step in range(given["num_steps"]):
        loss = workload.loss(engine, next(batches))
        engine.backward(loss)
        engine.step()
        if step == 0 and rank == 0:
            Path(given["first_step"]).write_text(str(time.time()))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
