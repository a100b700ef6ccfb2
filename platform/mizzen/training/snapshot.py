"""What DeepSpeed would write as this rank's shard, copied to host memory: the run may go on when it is taken.

DeepSpeed hands each file that it saves to its checkpoint engine; ours keeps a copy instead of a file. It
writes nothing: `checkpoint_writer` does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from mizzen.training import on_nvme
from mizzen.training.checkpoints import TAG, Part

CGROUP = Path("/sys/fs/cgroup")
"""Of the container, if this process is in one."""
Swapped = dict[int, Callable[[], Any]]
"""See `on_nvme.swapped`."""
KEPT_FREE = 0.1
"""Of the memory. Ray kills a process of ours when less than 5% is left."""


@dataclass(frozen=True)
class Snapshot:
    """A rank's shard as it was."""

    parts: list[Part]
    is_live: bool
    """Memory did not suffice for a copy: the parts are the model's own tensors. The run has to stand still
    until they are written."""


class _Copying(TorchCheckpointEngine):  # type: ignore[misc] # DeepSpeed has no types
    """Keeps a host copy of each state that it is given to save, as long as memory lasts."""

    def __init__(self, folder: Path, budget_bytes: float, swapped: Swapped) -> None:
        self.name, self.zipfile_serialization = "mizzen", True
        self._folder, self._budget_bytes, self._swapped = folder, budget_bytes, swapped
        self.parts: list[Part] = []
        self.is_live = False

    def create(self, info: Any) -> None:
        """See `CheckpointEngine`; there is nothing to make."""

    def save(self, state_dict: Any, path: str) -> None:
        """See `CheckpointEngine`."""
        name = Path(path).relative_to(self._folder).as_posix()
        self._budget_bytes -= size_bytes(state_dict)
        self.is_live = self.is_live or self._budget_bytes < 0
        seen: dict[Any, Any] = {}

        def kept(tensor: Any) -> Any:
            if read := self._swapped.get(id(tensor)):
                return read()
            return tensor if self._budget_bytes < 0 else _copied_once(tensor, seen)

        self.parts.append(Part(name, _mapped(state_dict, kept)))


def taken(engine: Any, scratch: Path, *, exclude_frozen: bool = False, budget_bytes: float) -> Snapshot:
    """This rank's shard of the engine's state as it is now; every rank calls it.

    `scratch` is a folder of this rank's. `exclude_frozen` leaves parameters out that are not trained.
    `budget_bytes` is how much memory a copy may take.
    """
    before, copying = engine.checkpoint_engine, _Copying(scratch, budget_bytes, on_nvme.swapped(engine))
    engine.checkpoint_engine = copying
    try:
        with on_nvme.whole(engine):
            engine.save_checkpoint(
                str(scratch), tag=TAG, save_latest=False, exclude_frozen_parameters=exclude_frozen
            )
    finally:
        engine.checkpoint_engine = before
    _wait_for_copies(engine.device)
    return Snapshot(copying.parts, copying.is_live)


def free_bytes() -> int:
    """Memory of this machine, or of the container that this process is in, that may still be taken."""
    memory = psutil.virtual_memory()
    free = max(0, int(memory.available - KEPT_FREE * memory.total))
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        counters = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    if limit == "max":
        return free
    own = int((1 - KEPT_FREE) * int(limit)) - used + int(counters.get("inactive_file", 0))
    return max(0, min(free, own))


def size_bytes(state: Any) -> int:
    """Bytes of all tensors in `state`, counting those that are one once."""
    import torch

    sizes: dict[Any, int] = {}

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            sizes[value.data_ptr(), value.shape, value.dtype] = value.numel() * value.element_size()
        elif isinstance(value, dict):
            for each in value.values():
                add(each)
        elif isinstance(value, (list, tuple)):
            for each in value:
                add(each)

    add(state)
    return sum(sizes.values())


def _mapped(value: Any, kept: Callable[[Any], Any]) -> Any:
    """`value` with what `kept` says for each tensor in it; nothing else is shared with it."""
    import torch

    if isinstance(value, torch.Tensor):
        return kept(value)
    if isinstance(value, dict):
        copied: Any = copy.copy(value)  # an OrderedDict of PyTorch's has attributes, too
        for name, each in value.items():
            copied[name] = _mapped(each, kept)
        return copied
    if isinstance(value, list):
        return [_mapped(each, kept) for each in value]
    if type(value) is tuple:
        return tuple(_mapped(each, kept) for each in value)
    return copy.deepcopy(value)


def _copied_once(tensor: Any, seen: dict[Any, Any]) -> Any:
    """A copy in host memory, the same for tensors that are one, as tied weights are.

    Views are copied without the rest of their storage.
    """
    key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
    if tensor.numel() == 0 or key not in seen:
        seen[key] = _copied(tensor.detach())
    return seen[key]


def _copied(tensor: Any) -> Any:
    import torch

    if tensor.device.type != "cuda":
        return tensor.to("cpu", copy=True).contiguous()
    # Pinned memory, which PyTorch keeps for the next checkpoint, lets all copies run at once.
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _wait_for_copies(device: Any) -> None:
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
