"""Models that no worker need hold whole: built parameter by parameter, and put together again so.

Under ZeRO-3 each parameter is spread over the workers as soon as it has its values, and only the first
worker reads them. It does not train, and it does not know where a workload's values come from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mizzen.errors import TrainingError
from mizzen.training import engine
from mizzen.training.configuration import configuration, with_buffers
from mizzen.training.job import TrainJob
from mizzen.workloads.contract import Prepared, Skeleton

if TYPE_CHECKING:
    import torch

    Placed = Callable[[torch.nn.Parameter], None]


def built(job: TrainJob, prepared: Prepared) -> torch.nn.Module:
    """The model to train, on this worker; `torch.distributed` is up. All workers call it together.

    Parameters have the job's precision from the start: nothing goes through an fp32 copy of the whole.
    """
    dropout = job.training.dropout
    skeleton = job.implementation.skeleton(job.model, prepared, dropout=dropout)
    if skeleton is None:
        return job.implementation.build_model(job.model, prepared, dropout=dropout)
    dtype = dtype_of(job)
    if job.deepspeed.zero_stage < 3:
        return skeleton.filled(dtype=dtype)
    first, placed = _partitioning(job, skeleton.model)
    return skeleton.filled(dtype=dtype, reads=first, placed=placed)


def dtype_of(job: TrainJob) -> torch.dtype:
    """The type of the model's floating-point parameters."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[job.training.precision]


def _partitioning(job: TrainJob, model: torch.nn.Module) -> tuple[bool, Placed]:
    """Whether this worker is the one that reads, and what spreads a parameter of its over all workers.

    `model` is without values.
    """
    engine.choose_accelerator(job)
    import torch

    deepspeed = engine.imported()
    deepspeed.init_distributed(dist_init_required=False)
    workers = torch.distributed.get_world_size()
    buffers = engine.largest(model), engine.frozen_in_a_block(model)
    config = with_buffers(configuration(job, workers), *buffers, workers)
    swapper: Any = None

    def placed(parameter: torch.nn.Parameter) -> None:
        # As DeepSpeed converts a finished model, but with one parameter at a time; it asks the first worker
        # for the values. With parameters on a disk, all share the first one's buffers.
        nonlocal swapper
        one = torch.nn.ParameterList([parameter])
        made = deepspeed.zero.Init(module=one, config_dict_or_path=config, param_swapper=swapper)
        swapper = made.param_swapper

    return torch.distributed.get_rank() == 0, placed


def trained(job: TrainJob, prepared: Prepared, checkpoint: Path | None) -> torch.nn.Module:
    """The model with a checkpoint's values in fp32, whole, on the CPU; with None, as it is before training.

    There is never more than one copy of it, and one parameter. Raises `TrainingError`.
    """
    import torch

    workload = job.implementation
    torch.manual_seed(job.training.seed)
    found = engine.consolidate(checkpoint) if checkpoint is not None else {}
    skeleton = workload.skeleton(job.model, prepared, dropout=0.0)
    if skeleton is None:
        model = workload.build_model(job.model, prepared, dropout=0.0).float()
        if checkpoint is not None:
            model.load_state_dict({name: read() for name, read in found.items()})
        return model
    if checkpoint is not None:
        _check_trained(skeleton, found)
    return skeleton.filled(stored={**skeleton.stored, **found})


def _check_trained(skeleton: Skeleton, found: Any) -> None:
    """Raise `TrainingError` unless the checkpoint holds each parameter that is trained."""
    wanted = {name for name, parameter in skeleton.model.named_parameters() if parameter.requires_grad}
    missing = sorted(wanted - found.keys())
    if missing:
        raise TrainingError(
            "the checkpoint does not hold what was trained",
            saw=f"{len(missing)} parameters are missing, {missing[0]} for one",
            allowed="a checkpoint of this job",
        )
