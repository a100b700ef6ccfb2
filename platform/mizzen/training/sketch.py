"""A job's model and one of its micro-batches, measured without training: what `plan` reckons with.

A workload that can says what its model looks like without data (`Workload.outline`); for any other, data is
prepared and its largest examples are taken. It does not reckon (`plan`), and it does not prepare data.
"""

from __future__ import annotations

from typing import Any

import torch

from mizzen.errors import TrainingError
from mizzen.training import activations
from mizzen.training.engine import frozen_in_a_block
from mizzen.training.footprint import Parameters
from mizzen.training.job import TrainJob
from mizzen.training.plan import Sizes
from mizzen.training.sharded import dtype_of
from mizzen.workloads.contract import Batch, Outline, Prepared, Workload

NUM_LOOKED_AT = 1024
"""Examples among which the largest are looked for."""


def outline(job: TrainJob) -> Outline | None:
    """The model and a micro-batch, if they are known without data."""
    return job.implementation.outline(
        job.model, dropout=job.training.dropout, batch_size=job.training.micro_batch_size
    )


def outline_of(job: TrainJob, prepared: Prepared) -> Outline:
    """The same from prepared data; a workload that has no skeleton builds its model for it."""
    workload, dropout = job.implementation, job.training.dropout
    skeleton = workload.skeleton(job.model, prepared, dropout=dropout)
    if skeleton is not None:
        model = skeleton.model
    else:
        model = workload.build_model(job.model, prepared, dropout=dropout)
    return Outline(model, largest_batch(job, prepared))


def largest_batch(job: TrainJob, prepared: Prepared) -> Batch:
    """A micro-batch of the largest among examples that are spread evenly over the data."""
    workload = job.implementation
    data: Any = workload.training_data(job.model, prepared)
    if len(data) == 0:
        raise TrainingError("no training example is left after cleaning", remedy="See the data report.")
    spread = range(0, len(data), max(1, len(data) // NUM_LOOKED_AT))
    rows = sorted((data[i] for i in spread), key=lambda row: -_size(workload.collate([row])))
    size = job.training.micro_batch_size
    return workload.collate([rows[i % len(rows)] for i in range(size)])


def _size(batch: Batch) -> int:
    return sum(x.numel() for x in batch.values() if isinstance(x, torch.Tensor))


def measure(job: TrainJob, outlined: Outline) -> Sizes:
    """Count the parameters, and run a micro-batch without values. Raises `TrainingError` if it cannot."""
    workload, model = job.implementation, outlined.model
    if job.training.activation_checkpointing:
        workload.checkpoint_activations(model)
    parameters = count(model, job.deepspeed.tensor_parallel)
    try:
        measured = activations.measure(model, outlined.batch, workload.loss, dtype_of(job))
    except (RuntimeError, NotImplementedError) as cause:
        raise TrainingError(
            f"the loss of the workload {workload.name!r} cannot be run without values",
            saw=str(cause).splitlines()[0] if str(cause) else type(cause).__name__,
            remedy="Its result may depend on shapes alone: no .item(), and no shape that follows from values "
            "but by a mask.",
        ) from cause
    return Sizes(
        parameters=parameters,
        moments=measured.moments,
        entered_bytes=measured.entered_bytes,
        flops=measured.flops,
        count=workload.count(outlined.batch),
        unit=workload.throughput_unit,
        has_skeleton=type(workload).skeleton is not Workload.skeleton,
    )


def count(model: torch.nn.Module, tensor_parallel: int = 1) -> Parameters:
    """The values of each parameter, tied ones once; linear layers are shared by tensor-parallel workers."""
    shared = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear)
        for parameter in module.parameters(recurse=False)
    }
    shared -= {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }

    def values(parameter: torch.nn.Parameter) -> int:
        return -(-parameter.numel() // (tensor_parallel if id(parameter) in shared else 1))

    every = list(model.parameters())  # tied ones once
    return Parameters(
        trainable=tuple(values(p) for p in every if p.requires_grad),
        frozen=tuple(values(p) for p in every if not p.requires_grad),
        frozen_in_a_block=frozen_in_a_block(model),
    )
