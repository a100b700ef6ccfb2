"""What lies on a local disk: a folder of the run's own, parts of gradients at places that the disk takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mizzen.errors import TrainingError
from mizzen.training import on_nvme, operators
from mizzen.training.job import TrainJob, parse

BLOCK, SMALLEST = 4, 16


def job_of(path: Path | None) -> TrainJob:
    places = {"offload": "optimizer", "offload_device": "nvme", "nvme_path": str(path)} if path else {}
    content = {
        "name": "films",
        "workload": "recommendation",
        "data": {"dataset": "movielens-100k"},
        "training": {"epochs": 2},
        "deepspeed": {"zero_stage": 3, **places},
    }
    return parse(content, "the test's job")


def engine() -> Any:
    swapper = SimpleNamespace(
        numel_alignment=BLOCK, is_swappable_tensor=lambda numel: numel >= SMALLEST, swap_params_info={}
    )
    return SimpleNamespace(optimizer=SimpleNamespace(optimizer_swapper=swapper))


@given(st.lists(st.integers(1, 80), min_size=1, max_size=6), st.integers(0, 9))
def test_what_is_swapped_begins_and_ends_on_blocks_and_nothing_is_lost(sizes: list[int], first: int) -> None:
    used, tensors, offsets = engine(), [], []
    for size in sizes:
        tensors.append(torch.arange(first, first + size))
        offsets.append(first)
        first += size
    on_nvme.align(used)
    swapper = used.optimizer.optimizer_swapper
    pieces, places = swapper._adjust_for_misaligned_lengths(tensors, offsets)
    assert torch.cat(pieces).tolist() == torch.cat(tensors).tolist()
    for piece, place in zip(pieces, places, strict=True):
        assert piece[0] == place
        if swapper.is_swappable_tensor(numel=piece.numel()):
            assert place % BLOCK == piece.numel() % BLOCK == 0


def test_runs_do_not_share_a_folder_and_leave_nothing(tmp_path: Path) -> None:
    fast = tmp_path / "fast"
    one, other = (on_nvme.of_run(job_of(fast), run) for run in ("one", "other"))
    assert (one.deepspeed.nvme_path, other.deepspeed.nvme_path) == (str(fast / "one"), str(fast / "other"))
    for run in ("one", "other"):
        for kind in ("optimizer", "float32params"):
            for rank in (0, 1):
                (fast / run / "zero_stage_3" / kind / f"rank{rank}").mkdir(parents=True)
                (fast / run / "zero_stage_3" / kind / f"rank{rank}" / "1.tensor.swp").touch()
    on_nvme.clear(one, 1)
    assert sorted(path.name for path in (fast / "one" / "zero_stage_3").rglob("rank*")) == ["rank0", "rank0"]
    on_nvme.clear(one, 0)
    assert [path.name for path in fast.iterdir()] == ["other"]


def test_a_job_that_keeps_nothing_on_a_disk_stays_as_it_is() -> None:
    plain = job_of(None)
    assert on_nvme.of_run(plain, "one") is plain
    on_nvme.clear(plain, 0)


def test_a_lock_that_a_killed_process_left_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "_folder", lambda operator: tmp_path)
    (tmp_path / "lock").touch()
    with operators._alone("async_io"):
        assert not (tmp_path / "lock").exists()


def test_without_libaio_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepspeed.ops.op_builder import PinMemoryBuilder

    def load(self: Any, verbose: bool) -> None:
        raise RuntimeError("Unable to JIT load the pin_memory op\nmore")

    monkeypatch.setattr(operators, "_folder", lambda operator: tmp_path)
    monkeypatch.setattr(PinMemoryBuilder, "load", load)
    with pytest.raises(TrainingError) as caught:
        operators.load_for_nvme()
    assert caught.value.saw == "Unable to JIT load the pin_memory op"
    assert "libaio-dev" in str(caught.value.remedy)


def test_frozen_parameters_on_a_disk_are_refused_where_checkpoints_would_have_to_hold_them() -> None:
    model = torch.nn.Linear(2, 2)
    for each in model.parameters():
        each.ds_tensor = SimpleNamespace(final_location=None)
    on_nvme.check_frozen(SimpleNamespace(module=model))
    model.weight.ds_tensor.final_location = "nvme"
    on_nvme.check_frozen(SimpleNamespace(module=model))
    model.weight.requires_grad = False
    with pytest.raises(TrainingError, match=r"saw weight.*offload_device: cpu"):
        on_nvme.check_frozen(SimpleNamespace(module=model))
