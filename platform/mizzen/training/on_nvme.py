"""States that DeepSpeed keeps in files on a local disk: where, how they get into a checkpoint, and back.

DeepSpeed's own checkpoint of them is a copy of those files. It forgets how many steps the optimiser has
taken and what is too small for a file, and neither another number of workers nor an export can use it. So
checkpoints of ours hold the values, as they would if the states were in host memory.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mizzen.errors import TrainingError
from mizzen.training.job import TrainJob

if TYPE_CHECKING:
    import torch

FP32 = "fp32"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's."""
Values = Mapping[str, Any]
"""Of a group of parameters on this rank: its weights under `FP32`, and what the optimiser keeps of them."""


def of_run(job: TrainJob, run: str) -> TrainJob:
    """`job` with a folder on the disk that no other run uses: DeepSpeed writes to what it finds there."""
    path = job.deepspeed.nvme_path
    if path is None:
        return job
    options = job.deepspeed.model_copy(update={"nvme_path": str(Path(path) / run)})
    return job.model_copy(update={"deepspeed": options})


def clear(job: TrainJob, rank: int) -> None:
    """Remove what `rank` has, or had before it was killed, in the folder that `of_run` has chosen."""
    if job.deepspeed.nvme_path is None:
        return
    folder = Path(job.deepspeed.nvme_path)
    for own in folder.glob(f"zero_stage_3/*/rank{rank}"):
        shutil.rmtree(own, ignore_errors=True)
    # The last rank of this machine takes what is empty with it.
    for empty in [*folder.glob("zero_stage_3/*"), folder / "zero_stage_3", folder]:
        with suppress(OSError):
            empty.rmdir()


def is_used(engine: Any) -> bool:
    """Whether DeepSpeed keeps the optimiser's states on a disk."""
    return bool(engine.zero_nvme_offload_optimizer())


def swapped(engine: Any) -> dict[int, Callable[[], torch.Tensor]]:
    """By the identity of a tensor that is empty because its values are in a file: how to read them.

    The file is copied beside itself first, for the next step changes it. The values take no memory then, and
    the copy no space once nobody has the tensor any more.
    """
    found: dict[int, Callable[[], torch.Tensor]] = {}
    if is_used(engine):
        for info in engine.optimizer.optimizer_swapper.swap_params_info.values():
            for each in info.tensors:
                if each.compute_tensor.numel() == 0:
                    read = partial(_copied, Path(each.swap_path), info.numel(), info.dtype())
                    found[id(each.compute_tensor)] = read
    return found


def _copied(file: Path, numel: int, dtype: torch.dtype) -> torch.Tensor:
    import torch

    copied = Path(shutil.copyfile(file, file.with_suffix(".copy")))
    values = torch.from_file(str(copied), size=numel, dtype=dtype)
    copied.unlink()
    return values


def check_frozen(engine: Any) -> None:
    """Raise `TrainingError` if a checkpoint would hold parameters that are on a disk and are not trained.

    DeepSpeed takes what is in memory for their values, which is nothing.
    """
    for name, each in engine.module.named_parameters():
        if not each.requires_grad and getattr(each.ds_tensor, "final_location", None) == "nvme":
            raise TrainingError(
                "with this workload, parameters that are not trained cannot lie on NVMe: it has no skeleton "
                "to fill them anew, so checkpoints would have to hold them",
                saw=name,
                remedy="Set deepspeed.offload: optimizer, or offload_device: cpu.",
            )


def align(engine: Any) -> None:
    """Have parts of gradients swapped only where both ends lie on whole blocks.

    DeepSpeed looks at their lengths only. One that begins elsewhere, as after a norm's few weights, is read
    back at a place that the disk does not take, without an error: the step is wrong.
    """
    swapper = engine.optimizer.optimizer_swapper
    block = swapper.numel_alignment

    def split(tensors: Sequence[Any], offsets: Sequence[int]) -> tuple[list[Any], list[int]]:
        pieces: list[tuple[Any, int]] = []
        for tensor, offset in zip(tensors, offsets, strict=True):
            head = min(-offset % block, tensor.numel())
            body = (tensor.numel() - head) // block * block
            bounds: tuple[int, ...] = (0, head, head + body, tensor.numel())
            if not swapper.is_swappable_tensor(numel=body):
                bounds = (0, tensor.numel() // 2, tensor.numel())  # each too small to be swapped
            pieces += [
                (tensor.narrow(0, first, end - first), offset + first)
                for first, end in pairwise(bounds)
                if end > first
            ]
        return [piece for piece, _ in pieces], [offset for _, offset in pieces]

    swapper._adjust_for_misaligned_lengths = split


def gather_copies() -> None:
    """Give the model copies of parameters that are on a disk, not the buffers through which they come.

    With one worker on a CPU there is nothing to gather, and DeepSpeed gives out the buffer, which soon holds
    another parameter. Who keeps a view for the way back, as activation checkpointing does, then reckons with
    that one, without an error.
    """
    from deepspeed.runtime.zero import partition_parameters

    own = partition_parameters._no_gather_coalesced
    if getattr(own, "gives_copies", False):
        return

    @wraps(own)
    def copying(parameters: Sequence[Any]) -> Any:
        handle = own(parameters)
        for each in parameters:
            if each.ds_tensor.final_location == "nvme" and each.data_ptr() == each.ds_tensor.data_ptr():
                each.data = each.data.clone()
        return handle

    copying.gives_copies = True  # type: ignore[attr-defined]
    partition_parameters._no_gather_coalesced = copying


@contextmanager
def whole(engine: Any) -> Iterator[None]:
    """Inside the block DeepSpeed saves and loads checkpoints of values, not of files."""
    if not is_used(engine):
        yield
        return
    optimizer = engine.optimizer
    engine.zero_nvme_offload_optimizer = lambda: False
    optimizer._rigid_load_state_dict = lambda state, load_optimizer_states=True: _load(optimizer, state)
    optimizer.load_hp_checkpoint_state_from_checkpoint_dir_stage3 = lambda folder: _load_universal(
        optimizer, Path(folder) / "zero"
    )
    try:
        yield
    finally:
        del engine.zero_nvme_offload_optimizer
        del optimizer._rigid_load_state_dict
        del optimizer.load_hp_checkpoint_state_from_checkpoint_dir_stage3


def _load(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Restore this rank's shard, of as many ranks as there are now."""
    saved = state["optimizer_state_dict"]
    _restore_settings(optimizer, state, saved["param_groups"])
    _restore(optimizer, lambda group: {FP32: state["fp32_flat_groups"][group], **saved["state"][group]})


def _load_universal(optimizer: Any, folder: Path) -> None:
    """Restore this rank's part of a universal checkpoint."""
    import torch

    common = torch.load(folder / "optimizer_state.pt", weights_only=False)  # of this run
    saved = common["optimizer_state_dict"]
    steps = saved["state"][0]["step"]
    _restore_settings(optimizer, common, saved["param_groups"][:1] * len(optimizer.optimizer.param_groups))

    def values(group: int) -> Values:
        parameters = [(folder / optimizer.param_names[each], each) for each in optimizer.fp16_groups[group]]
        numel = optimizer.fp16_partitioned_groups_flat_numel[group]
        found: dict[str, Any] = {"step": steps}
        for name in (FP32, *MOMENTS):
            flat, offset = torch.zeros(numel), 0
            for where, parameter in parameters:
                part = optimizer.load_hp_checkpoint_state(str(where), name, param=parameter)
                flat[offset : offset + part.numel()] = part
                offset += part.numel()
            found[name] = flat
        return found

    _restore(optimizer, values)


def _restore_settings(optimizer: Any, state: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
    optimizer._load_global_state_stage3(state)
    for group, saved in zip(optimizer.optimizer.param_groups, groups, strict=True):
        group.update({name: value for name, value in saved.items() if name != "params"})


def _restore(optimizer: Any, values: Callable[[int], Values]) -> None:
    """Take each group of parameters from the disk, change it, and put it back, as a step does."""
    import torch

    timers: set[str] = set()
    optimizer._partition_all_parameters()
    for group, weights in enumerate(optimizer.fp32_partitioned_groups_flat):
        found = values(group)
        optimizer._prepare_sub_group(group, timers)
        weights.data.copy_(found[FP32])
        states = optimizer.optimizer.state[weights]
        for name, value in found.items():
            if isinstance(states.get(name), torch.Tensor):
                states[name].data.copy_(value)
            elif name != FP32:
                states[name] = copy.deepcopy(value)  # groups share what they are given, and change it
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer._release_sub_group(group, timers)
    optimizer._post_step(timers)
