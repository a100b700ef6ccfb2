"""Whole weights from the files of workers that share each layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mizzen.errors import TrainingError
from mizzen.training import tensor_parallel
from mizzen.training.checkpoints import TAG

WHOLE = {
    "up.weight": torch.arange(24.0).reshape(4, 6),
    "down.weight": torch.arange(24.0, 48.0).reshape(6, 4),
    "norm.weight": torch.arange(6.0),
    "head.weight": torch.arange(6.0),
}


def split(rank: int, name: str) -> torch.Tensor:
    kept = slice(2 * rank, 2 * rank + 2)
    if name == "up.weight":
        return WHOLE[name][kept]
    return WHOLE[name][:, kept] if name == "down.weight" else WHOLE[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint as DeepSpeed writes it, of two workers."""
    from deepspeed.checkpoint.affine import contiguous_split_map, replicated_map

    plan = {
        r"^up\.weight$": contiguous_split_map([4, 6], [2, 2], 0).to_dict(),
        r"^down\.weight$": contiguous_split_map([6, 4], [2, 2], 1).to_dict(),
        r"^norm\.weight$": replicated_map([6], 2).to_dict(),
    }
    (tmp_path / TAG).mkdir()
    for rank in range(2):
        content: dict[str, Any] = {
            # The other name of a tied parameter stands in the first file alone.
            "module": {n: split(rank, n).clone() for n in WHOLE if not (rank and n == "head.weight")},
            "universal_checkpoint_info": {"affine_map": {"version": 1, "params": plan}},
            "shared_params": {"head.weight": "norm.weight"},
        }
        torch.save(content, tmp_path / TAG / f"mp_rank_{rank:02d}_model_states.pt")
    return tmp_path


def one_share(folder: Path) -> dict[str, Any]:
    content = torch.load(folder / TAG / "mp_rank_00_model_states.pt", weights_only=False)
    return {name: partial(torch.clone, tensor) for name, tensor in content["module"].items()}


def test_rows_columns_and_what_all_hold_are_put_together(folder: Path) -> None:
    assert tensor_parallel.shares(folder) == 2
    found = tensor_parallel.whole(folder, one_share)
    assert found.keys() == WHOLE.keys()
    for name, read in found.items():
        assert torch.equal(read(), WHOLE[name]), name


def test_a_parameter_of_which_nothing_is_written_is_refused(folder: Path) -> None:
    def more(folder: Path) -> dict[str, Any]:
        return {**one_share(folder), "strange.weight": lambda: torch.zeros(1)}

    with pytest.raises(TrainingError, match="how workers share a parameter; saw strange"):
        tensor_parallel.whole(folder, more)


def test_a_checkpoint_of_workers_that_share_nothing_says_so(tmp_path: Path) -> None:
    assert tensor_parallel.shares(tmp_path) == 1
