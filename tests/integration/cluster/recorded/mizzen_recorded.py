"""The digits, and a record of what each worker trains on; on its way a run waits for machines to come and go.

It is installed by its folder being on `PYTHONPATH`. Where it writes is in `RECORDED`, an environment variable
of the cluster's nodes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from mizzen_digits import DigitsWorkload
from mizzen_digits.config import DigitsModel
from mizzen_digits.data import Digits

from mizzen.training import pause
from mizzen.workloads.contract import Batch, Prepared

PATIENCE_S = 300.0
GROWS_AFTER, LOST_AFTER = 10, 7
"""Optimiser steps of the first workers, until there are more; and of those, until a machine is gone."""
GROWN = "grown"


def folder() -> Path:
    """Where the workers write."""
    return Path(os.environ["RECORDED"])


class Numbered(Digits):
    """Examples that know their number."""

    def __getitem__(self, index: int) -> Any:
        return (*super().__getitem__(index), index)


class RecordedWorkload(DigitsWorkload):
    """See the module."""

    name: ClassVar[str] = "recorded"

    def __init__(self) -> None:
        self._num_batches = 0

    def training_data(self, config: DigitsModel, prepared: Prepared) -> Any:
        return Numbered(prepared.folder, "training")

    def collate(self, rows: Sequence[Any]) -> Batch:
        batch = super().collate([row[:2] for row in rows])
        indices = [row[2] for row in rows if len(row) == 3]
        return {**batch, "index": torch.tensor(indices)} if indices else batch

    def _record(self, indices: list[int]) -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        with (folder() / f"{os.getpid()}-{rank}-{size}").open("a") as file:
            file.write(" ".join(map(str, indices)) + "\n")

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        self._record(batch["index"].tolist())
        self._num_batches += 1
        self._wait()
        return super().loss(model, batch)

    def _wait(self) -> None:
        """For machines to come or go, in the middle of a step."""
        grown, until_s = folder() / GROWN, time.monotonic() + PATIENCE_S
        if dist.get_world_size() == 2:
            grown.touch()
            while self._num_batches > LOST_AFTER and time.monotonic() < until_s:
                time.sleep(0.05)  # until the other worker's machine is gone
            return
        while self._num_batches > 2 * GROWS_AFTER and not grown.exists() and time.monotonic() < until_s:
            if pause.wanted():
                return
            time.sleep(0.05)


workload = RecordedWorkload()
