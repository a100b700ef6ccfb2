"""DeepSpeed's operators that are compiled where they are needed: before the model is built, or a clear error.

Each machine compiles an operator once, for minutes, and keeps it. A process that is killed meanwhile leaves a
lock for which all that come later would wait for ever; so those of ours take turns by a lock of their own,
which ends with its process, and what lies there then is nobody's.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mizzen.errors import TrainingError

REMEDY = (
    "Install g++, ninja and libaio with its headers (Debian: build-essential, libaio-dev) on every machine "
    "that trains, or set deepspeed.offload_device: cpu."
)


def load_for_nvme() -> None:
    """Have DeepSpeed's way to files past the kernel's cache ready in this process.

    Raises `TrainingError` if this machine cannot compile it.
    """
    from deepspeed.ops.op_builder import AsyncIOBuilder, PinMemoryBuilder

    for builder in (PinMemoryBuilder(), AsyncIOBuilder()):
        with _alone(builder.name):
            try:
                builder.load(verbose=False)
            except (RuntimeError, OSError, ImportError) as cause:
                text = str(cause).strip().splitlines()
                raise TrainingError(
                    f"DeepSpeed's {builder.name}, which states on NVMe need, cannot be compiled here",
                    saw=text[0] if text else type(cause).__name__,
                    remedy=REMEDY,
                ) from cause


@contextmanager
def _alone(operator: str) -> Iterator[None]:
    """One process of ours at a time, without a lock of PyTorch's that was left behind."""
    folder = _folder(operator)
    with (folder / "mizzen.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (folder / "lock").unlink(missing_ok=True)
        yield


def _folder(operator: str) -> Path:
    """Where PyTorch compiles it; it is there."""
    from torch.utils.cpp_extension import _get_build_directory

    return Path(_get_build_directory(operator, verbose=False))
