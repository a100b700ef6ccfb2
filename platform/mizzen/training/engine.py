"""DeepSpeed: its configuration from a job, its engine, its checkpoints. Nothing else imports DeepSpeed.

It does not decide when to step, evaluate or save: `loop` does.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mizzen.errors import TrainingError
from mizzen.training import on_nvme, operators, tensor_parallel
from mizzen.training.checkpoints import TAG
from mizzen.training.configuration import configuration, with_buffers
from mizzen.training.job import TrainJob
from mizzen.workloads.contract import Reader, Workload

if TYPE_CHECKING:
    import torch

SHARED_MEMORY_OP = "deepspeed_shm_comm"
BEFORE_OPTIMIZER = ".*lr_scheduler.step\\(\\)` before `optimizer.step.*"
"""PyTorch warns if the very first step of a run is left out."""


def learning_rate_factor(job: TrainJob, num_steps: int) -> Callable[[float], float]:
    """The learning rate at a step (0, 1, ...) as a share of `training.learning_rate`."""
    import math

    schedule = job.training.schedule

    def factor(step: float) -> float:
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


def imported() -> Any:
    """DeepSpeed; whoever may be the first in a process to need it asks here for it.

    Without what it would load for nothing, for each worker: MLflow, where there is one, for its tuner, and
    PyTorch's compiler for Muon, an optimiser that jobs cannot choose.
    """
    with _hidden("mlflow"):
        import deepspeed
    from deepspeed.runtime import compiler

    own = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.original_muon
    finally:
        compiler.compile = own
    return deepspeed


def make_ready(job: TrainJob) -> None:
    """What has to be there before the model is built. Raises `TrainingError` if this machine lacks it."""
    choose_accelerator(job)
    if job.deepspeed.offload_device == "nvme":
        imported()
        operators.load_for_nvme()


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """As if `module` were not installed, unless somebody uses it already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment] # so an import says that there is none
    try:
        yield
    finally:
        del sys.modules[module]


def start(model: torch.nn.Module, job: TrainJob, factor: Callable[[int], float], workers: int) -> Any:
    """A `DeepSpeedEngine` around `model`; `torch.distributed` is up already (Ray Train does that).

    `factor` says the learning rate at a step of the scheduler as a share of `training.learning_rate`.
    """
    choose_accelerator(job)
    from torch.optim.lr_scheduler import LambdaLR

    deepspeed = imported()

    workload = job.implementation
    workload.begin_training(job.model, model)
    if job.training.activation_checkpointing:
        workload.checkpoint_activations(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise TrainingError(
            "the model has no parameter to train", remedy="Check the model section of the job."
        )
    # Else DeepSpeed compiles an extension at the first start on a machine, for half a minute and with g++:
    # an all-reduce for inference, which training never calls.
    deepspeed.ops.__compatible_ops__[SHARED_MEMORY_OP] = False
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=trainable,
        config=with_buffers(configuration(job, workers), largest(model), frozen_in_a_block(model), workers),
        lr_scheduler=lambda optimizer: LambdaLR(optimizer, factor),
        dist_init_required=False,
    )
    if on_nvme.is_used(engine):
        on_nvme.align(engine)
        on_nvme.gather_copies()
    # A skeleton fills what is frozen anew, so checkpoints leave it out.
    sharded = type(job.implementation).skeleton is not Workload.skeleton
    engine.leaves_out_frozen = sharded and len(trainable) < len(list(model.parameters()))
    if on_nvme.is_used(engine) and not engine.leaves_out_frozen:
        on_nvme.check_frozen(engine)
    if job.training.compile:
        engine.compile()
    return engine


def largest(model: torch.nn.Module) -> int:
    """Elements of the largest parameter, whole."""
    return max(int(getattr(each, "ds_numel", each.numel())) for each in model.parameters())


def frozen_in_a_block(model: torch.nn.Module) -> int:
    """How many parameters are not trained in that of the model's repeated blocks that has the most."""
    import torch

    lists = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    frozen = (sum(not each.requires_grad for each in block.parameters()) for of in lists for block in of)
    return max(frozen, default=0)


def readjust(engine: Any, betas: tuple[float, float]) -> None:
    """After a state was restored, which another number of workers may have left: what is right for this."""
    scheduler = engine.lr_scheduler
    for group, base, factor in zip(
        engine.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["betas"] = betas
        group["lr"] = base * factor(scheduler.last_epoch)


def step(engine: Any, doubtful: Sequence[torch.Tensor] = ()) -> Any:
    """Let the optimiser step, if a step's last micro-batch is done.

    A step with a `doubtful` loss that is no finite number, on any rank, changes neither weights nor the
    optimiser's states; with `doubtful` given, neither does one whose gradient is not finite. (DeepSpeed's own
    optimisers never take that one; PyTorch's does, which is there at stage 0 in fp32.)

    Returns the norm of the gradients over all ranks before they were clipped, a number or a tensor of one;
    None before the last micro-batch, and if DeepSpeed was told not to reckon it; NaN, on all ranks, if a
    doubtful loss was not finite.
    """
    import torch

    last = engine.is_gradient_accumulation_boundary()
    norm = None
    if last and isinstance(engine.optimizer, torch.optim.Optimizer):
        # PyTorch's own (stage 0, fp32): DeepSpeed clips, and forgets the norm.
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
    if last and doubtful:
        if not _all_finite(doubtful):
            norm = torch.tensor(torch.nan)
        if norm is not None and not torch.isfinite(norm):
            with _idle(engine.basic_optimizer):
                engine.step()
            return norm
    engine.step()
    return (engine.get_global_grad_norm() if norm is None else norm) if last else None


def _all_finite(losses: Sequence[torch.Tensor]) -> bool:
    """Whether these losses, and those of all other ranks, are finite numbers."""
    import torch
    import torch.distributed as dist

    finite = torch.isfinite(torch.stack(list(losses))).all().int()
    if dist.get_world_size() > 1:
        dist.all_reduce(finite, dist.ReduceOp.MIN)
    return bool(finite)


@contextmanager
def _idle(optimizer: Any) -> Iterator[None]:
    """The optimiser does nothing inside the block when it is told to step.

    So DeepSpeed does all that it does around a step: it clears gradients, and counts.
    """
    own = optimizer.step
    optimizer.step = lambda *_, **__: None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", BEFORE_OPTIMIZER, UserWarning)
            yield
    finally:
        optimizer.step = own


def pass_over(engine: Any) -> None:
    """After a step that was left out: the learning rate moves on, if DeepSpeed has kept it back."""
    if not engine.was_step_applied():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", BEFORE_OPTIMIZER, UserWarning)
            engine.lr_scheduler.step()


def load(engine: Any, folder: Path) -> None:
    """Restore the state in `folder` at the same number of workers; every rank calls it."""
    complete = not engine.leaves_out_frozen
    with on_nvme.whole(engine):
        path, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=complete)
    if path is None:
        raise TrainingError("the checkpoint cannot be loaded", saw=str(folder), remedy="Start the run anew.")


def consolidate(folder: Path) -> dict[str, Reader]:
    """Readers of the model's values in fp32, from all ranks' shards of a checkpoint, on the CPU.

    Shards stay files: a value takes memory when it is read. Frozen parameters that were left out are missing.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if tensor_parallel.shares(folder) > 1:
        return tensor_parallel.whole(folder, consolidate)
    import torch

    imported()
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    if any((folder / TAG).glob("*zero_pp_rank_*_optim_states.pt")):
        with _quiet():
            state = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=TAG, lazy_mode=True)
    else:
        # Stage 0 has no shards; the file is DeepSpeed's own of this run, which holds more than tensors.
        file = folder / TAG / "mp_rank_00_model_states.pt"
        state = torch.load(file, "cpu", weights_only=False, mmap=True)["module"]
    return {name: partial(_in_fp32, value) for name, value in state.items()}


def _in_fp32(value: Any) -> torch.Tensor:
    import torch

    # A copy: of one rank's shard it would be a part of the file, which nobody can save, or change.
    tensor: torch.Tensor = value.contiguous().detach().to(torch.float32, copy=True)
    return tensor


@contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed prints what it merges; a failure is an exception and still shows."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
