"""Whole weights from a checkpoint of workers that share each layer (DeepSpeed's AutoTP).

Each of those workers has files of its own, as if its share were a model; beside them DeepSpeed writes which
block of the whole each share is. It does not train.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mizzen.errors import TrainingError
from mizzen.training.checkpoints import TAG
from mizzen.workloads.contract import Reader

if TYPE_CHECKING:
    import torch

STATES = "model_states.pt"
PLAN = ("universal_checkpoint_info", "affine_map", "params")
"""Where DeepSpeed keeps the blocks, in each file of weights."""

Readers = dict[str, Reader]


def shares(folder: Path) -> int:
    """How many workers share each layer in the checkpoint `folder`."""
    return max(1, len(list((folder / TAG).glob(f"mp_rank_??_{STATES}"))))


def whole(folder: Path, consolidate: Callable[[Path], Readers]) -> Readers:
    """Readers of the whole weights; `consolidate` makes them of one share, laid down as a model of its own.

    Raises `TrainingError` if DeepSpeed has not written how a parameter is shared.
    """
    ranks = [_share(folder, rank, consolidate) for rank in range(shares(folder))]
    plan, aliases = _plan(folder / TAG / f"mp_rank_00_{STATES}")
    missing = sorted(ranks[0].keys() - plan.keys() - aliases.keys())
    if missing:
        raise TrainingError(
            "the checkpoint does not say how workers share a parameter",
            saw=", ".join(missing[:3]),
            remedy="Train with deepspeed.tensor_parallel: 1.",
        )
    found: Readers = {
        name: partial(_put_together, plan[name], [rank[name] for rank in ranks])
        for name in ranks[0]
        if name in plan
    }
    # A tied parameter is described by the first of its names alone, and not every file has the others.
    return found | {alias: found[name] for alias, name in aliases.items() if alias in ranks[0]}


def _share(folder: Path, rank: int, consolidate: Callable[[Path], Readers]) -> Readers:
    """One worker's share, through links under the names that a model which nobody shares has."""
    mine = f"mp_rank_{rank:02d}"
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / TAG).mkdir()
        for file in (folder / TAG).glob(f"*{mine}_*.pt"):
            (Path(name) / TAG / file.name.replace(mine, "mp_rank_00")).symlink_to(file.absolute())
        # Files are mapped into memory, so they are still read once the links are gone.
        return consolidate(Path(name))


def _plan(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """How each parameter is shared, by its name; and the names of those that have several."""
    import re

    import torch

    content: Any = torch.load(file, "cpu", weights_only=False, mmap=True)  # DeepSpeed's own of this run
    found = content
    for key in PLAN:
        found = found[key]
    # Patterns that stand for one name each: `^model\\.norm\\.weight$`.
    plan = {re.sub(r"\\(.)", r"\1", pattern[1:-1]): entry for pattern, entry in found.items()}
    return plan, dict(content["shared_params"])


def _put_together(entry: Mapping[str, Any], readers: list[Reader]) -> torch.Tensor:
    from deepspeed.checkpoint.affine import ParamAffineMap

    pieces = [piece for rank in entry["ranks"].values() for piece in rank["pieces"]]
    if all(len(piece["locations"]) == len(readers) for piece in pieces):
        return readers[0]()  # each has all of it
    shards = {rank: read() for rank, read in enumerate(readers)}
    tensor: torch.Tensor = ParamAffineMap.from_dict(entry).rebuild(shards)
    return tensor
