"""The files of a checkpoint on this machine, checked before anything reads them.

A rank brings only what it needs: its own files and those that are the same for all. At another number of
workers it needs all of them, once a machine. It loads nothing into a model.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mizzen.datasets import one_process
from mizzen.errors import TrainingError
from mizzen.training.checkpoints import TAG, Checkpoint, Checkpoints, Written

SHARED = f"{TAG}/mp_rank_"
"""Files that start so are for every rank, the others for the one that has written them."""
OFFLOADED = f"{TAG}/offloaded_tensors/"


def needed(checkpoints: Checkpoints, checkpoint: Checkpoint, rank: int, world_size: int) -> list[Written]:
    """What a rank of so many needs. Raises `IntegrityError` if a record cannot be read, `TrainingError`."""
    if checkpoint.world_size == world_size:
        mine = checkpoints.record(checkpoint, rank).files
        shared = [file for file in checkpoint.lead.files if file.name.startswith(SHARED)]
        return list({file.name: file for file in [*mine, *shared]}.values())
    files = every_file(checkpoints, checkpoint)
    if any(file.name.startswith(OFFLOADED) for file in files):
        raise TrainingError(
            "a checkpoint with states on NVMe cannot go on at another number of workers", saw=world_size,
            allowed=str(checkpoint.world_size), remedy="Set scaling.workers back, or offload to the CPU.",
        )  # fmt: skip
    return files


def every_file(checkpoints: Checkpoints, checkpoint: Checkpoint) -> list[Written]:
    """The files of all ranks. Raises `IntegrityError`."""
    return [
        file for rank in range(checkpoint.world_size) for file in checkpoints.record(checkpoint, rank).files
    ]


def brought(checkpoints: Checkpoints, checkpoint: Checkpoint, files: list[Written], scratch: Path) -> Path:
    """A folder of this machine with `files`, all with the bytes that their digests promise.

    Where the checkpoints are on this machine that is their own folder; else one below `scratch`, for all
    processes of the machine. Raises `IntegrityError`.
    """
    here = checkpoints.objects.local_folder
    if here is not None:
        folder = here / checkpoints.folder / checkpoint.name
        for file in files:
            checkpoints.check(checkpoint, file, folder / file.name)
        return folder
    folder = scratch / checkpoint.name
    for file in files:
        with one_process(_locks(folder) / file.name.replace("/", "-")):
            if not (folder / file.name).exists():
                checkpoints.fetch(checkpoint, file, folder / file.name)
    return folder


def universal(checkpoint: Checkpoint, folder: Path, scratch: Path) -> Path:
    """The checkpoint in `folder`, with all its files, for any number of workers; made once a machine."""
    from mizzen.training.universal import convert

    target = scratch / f"{checkpoint.name}-universal"
    with one_process(_locks(target) / "converted"):
        if not target.exists():
            new = target.with_name(f"{target.name}.new")
            shutil.rmtree(new, ignore_errors=True)
            convert(folder, new)
            new.replace(target)
    return target


def remove(checkpoint: Checkpoint, scratch: Path) -> None:
    """Nobody on this machine needs the files any more; several processes may say so at once."""
    for folder in (scratch / checkpoint.name, scratch / f"{checkpoint.name}-universal"):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(_locks(folder), ignore_errors=True)


def _locks(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.locks")
