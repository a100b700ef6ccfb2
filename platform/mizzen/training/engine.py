"""DeepSpeed: its configuration from a job, its engine, its checkpoints. Nothing else imports DeepSpeed.

It does not decide when to step, evaluate or save: `loop` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mizzen.errors import TrainingError
from mizzen.training.configuration import configuration
from mizzen.training.job import TrainJob

if TYPE_CHECKING:
    import torch

TAG = "state"
"""The name that DeepSpeed gives to the one state in each of our checkpoint folders."""

SHARED_MEMORY_OP = "deepspeed_shm_comm"

Position = dict[str, int]
"""Where a run stands: `step` (optimiser steps done) and `samples` (examples consumed)."""


def learning_rate_factor(job: TrainJob, num_steps: int) -> Callable[[int], float]:
    """The learning rate at a step (0, 1, ...) as a share of `training.learning_rate`."""
    import math

    schedule = job.training.schedule

    def factor(step: int) -> float:
        if step < schedule.warmup_steps:
            return (step + 1) / schedule.warmup_steps
        if schedule.type == "constant":
            return 1.0
        done = min(1.0, (step - schedule.warmup_steps) / max(1, num_steps - schedule.warmup_steps))
        left = 1.0 - done if schedule.type == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return schedule.final_ratio + (1.0 - schedule.final_ratio) * left

    return factor


def choose_accelerator(job: TrainJob) -> None:
    """Tell DeepSpeed where `job` trains, before anything imports it: it decides for good at its import."""
    if job.scaling.gpus_per_worker == 0:
        os.environ["DS_ACCELERATOR"] = "cpu"


def start(model: torch.nn.Module, job: TrainJob, num_steps: int) -> Any:
    """A `DeepSpeedEngine` around `model`; `torch.distributed` is up already (Ray Train does that)."""
    choose_accelerator(job)
    import deepspeed
    from torch.optim.lr_scheduler import LambdaLR

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise TrainingError(
            "the model has no parameter to train", remedy="Check the model section of the job."
        )
    # Else DeepSpeed compiles an extension at the first start on a machine, for half a minute and with g++:
    # an all-reduce for inference, which training never calls.
    deepspeed.ops.__compatible_ops__[SHARED_MEMORY_OP] = False
    factor = learning_rate_factor(job, num_steps)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=trainable,
        config=configuration(job),
        lr_scheduler=lambda optimizer: LambdaLR(optimizer, factor),
        dist_init_required=False,
    )
    return engine


def step(engine: Any) -> Any:
    """Let the optimiser step, if a step's last micro-batch is done.

    Returns the norm of the gradients over all ranks before they were clipped, a number or a tensor of one;
    None before the last micro-batch, and if DeepSpeed was told not to reckon it.
    """
    import torch

    last = engine.is_gradient_accumulation_boundary()
    norm = None
    if last and not hasattr(engine.optimizer, "_global_grad_norm"):
        # PyTorch's own optimiser (stage 0, fp32): DeepSpeed clips, and forgets the norm.
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
    engine.step()
    return (engine.get_global_grad_norm() if norm is None else norm) if last else None


def save(engine: Any, folder: Path, position: Position) -> None:
    """Write this rank's shard of the state below `folder`; every rank calls it."""
    engine.save_checkpoint(str(folder), tag=TAG, client_state=dict(position))


def load(engine: Any, folder: Path) -> Position:
    """Restore the state in `folder` at the same number of workers; returns where the run stood."""
    path, state = engine.load_checkpoint(str(folder), tag=TAG)
    if path is None:
        raise TrainingError("the checkpoint cannot be loaded", saw=str(folder), remedy="Start the run anew.")
    return {"step": int(state["step"]), "samples": int(state["samples"])}


def consolidate(folder: Path) -> dict[str, torch.Tensor]:
    """One fp32 state dict from all ranks' shards of a checkpoint, on the CPU."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import torch
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    if any((folder / TAG).glob("*zero_pp_rank_*_optim_states.pt")):
        with _quiet():
            state = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=TAG)
    else:
        # Stage 0 has no shards; the file is DeepSpeed's own of this run, which holds more than tensors.
        content = torch.load(folder / TAG / "mp_rank_00_model_states.pt", "cpu", weights_only=False)
        state = content["module"]
    return {name: tensor.detach().float().contiguous().clone() for name, tensor in state.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed prints what it merges; a failure is an exception and still shows."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
