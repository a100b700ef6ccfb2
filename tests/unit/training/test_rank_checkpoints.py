"""What a rank does while it waits for the others at a checkpoint."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mizzen.store.objects import Objects
from mizzen.training.checkpoints import Checkpointing, Checkpoints
from mizzen.training.rank_checkpoints import Ears, Rank, RankCheckpoints
from mizzen.workloads.contract import QualityMetric

LIMIT_S = 30.0


def test_a_rank_that_waits_for_another_ones_part_gives_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs, heard = 0, threading.Event()

    def alive() -> None:
        nonlocal signs
        signs += 1
        heard.set()

    def collective(flag: torch.Tensor, op: Any) -> None:
        """The other rank has come when something was heard of this one, and could not write its part."""
        assert heard.wait(LIMIT_S)
        flag.fill_(0)

    monkeypatch.setattr(dist, "all_reduce", collective)
    ears = Ears(lambda kind, text: None, lambda s: None, lambda s, size: None, alive)
    checkpoints = Checkpoints(Objects(tmp_path.as_uri()), "checkpoints", lambda text: None)
    rank = Rank(0, 2, torch.device("cpu"), tmp_path / "scratch")
    quality = QualityMetric("hr@10", higher_is_better=True)
    one = RankCheckpoints(checkpoints, rank, Checkpointing(), quality, "digest", ears)
    assert not one._all_can(True)
    told = signs
    assert told >= 1
    assert not any(thread.name == "mizzen-awake" for thread in threading.enumerate())  # no more of them
