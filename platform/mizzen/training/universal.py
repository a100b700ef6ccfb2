"""A checkpoint for another number of workers: DeepSpeed's universal checkpoint, made where it is loaded.

    zero/NAME/{fp32,exp_avg,exp_avg_sq,step}.pt    each parameter whole, with its optimiser states
    *_model_states.pt                              what is the same on all ranks: counters, schedule

It converts within a ZeRO stage, not from one stage to another. What comes out is the same training, but not
bit for bit: gradients are summed in another order. See Lian et al., "Universal Checkpointing" (2024).
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from mizzen.training.checkpoints import TAG


def is_needed(folder: Path) -> bool:
    """Whether a checkpoint has shards that depend on the number of workers: without ZeRO it has none."""
    return any((folder / TAG).glob("*_optim_states.pt"))


def convert(folder: Path, target: Path) -> None:
    """Write the universal checkpoint of the one in `folder`, which has all ranks' files, into `target`."""
    from deepspeed.checkpoint import ds_to_universal

    options = Namespace(
        input_folder=str(folder / TAG),
        output_folder=str(target / TAG),
        # In this process: children of a Ray worker would start Ray once more.
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # patterns of layers, which tensor parallel alone has
    )
    (target / TAG).mkdir(parents=True)
    with _quiet():
        ds_to_universal.main(options)


@contextmanager
def loading(engine: Any, folder: Path) -> Iterator[None]:
    """Inside the block `engine.load_checkpoint` takes the universal checkpoint in `folder`.

    DeepSpeed restores the parameters that it trains, and no buffers: after the block those are restored,
    too. Frozen parameters stay as they were built.
    """
    engine._config.load_universal_checkpoint = True
    try:
        yield
    finally:
        engine._config.load_universal_checkpoint = False
    _restore_buffers(engine.module, folder)


def _restore_buffers(module: Any, folder: Path) -> None:
    import torch

    # Each rank has all buffers; the first rank's file is always there.
    file = min((folder / TAG).glob("*model_states.pt"))
    content = torch.load(file, "cpu", weights_only=False, mmap=True)
    buffers = dict(module.named_buffers())
    for name in content["buffer_names"]:
        buffers[name].copy_(content["module"][name])


@contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed prints each step and shows bars; a failure is an exception and still shows."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
