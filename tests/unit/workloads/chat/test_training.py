from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import InputError, JobError
from mizzen.workloads.chat import model as base
from mizzen.workloads.chat import training
from mizzen.workloads.contract import TrainingMode

Folder = Callable[..., str]


def mode(**changes: Any) -> TrainingMode:
    usual: dict[str, Any] = {"on_gpu": False, "precision": "fp32", "zero_stage": 1, "tensor_parallel": 1}
    return TrainingMode(**{**usual, "micro_batch_size": 8, "dropout": 0.0, "compile": False, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Makes a base model's folder that has a shape alone."""

    def make(**shape: Any) -> str:
        (tmp_path / "config.json").write_text(json.dumps(shape))
        return str(tmp_path)

    return make


def shaped(folder: str, **fields: Any) -> base.ChatModel:
    return base.ChatModel(base=folder, init="random", **fields)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({}, "no kernels for CPUs"), ({"on_gpu": True}, "bf16 and fp16 alone")],
)
def test_flash_attention_wants_a_gpu_and_half_precision(changes: dict[str, Any], reason: str) -> None:
    flash = base.ChatModel(base="elsewhere", attention="flash")
    with pytest.raises(JobError, match=reason):
        training.check(flash, mode(**changes))
    training.check(flash, mode(on_gpu=True, precision="bf16"))


def test_flash_attention_keeps_packed_conversations_apart_in_a_row_alone() -> None:
    packed = base.ChatModel(base="elsewhere", attention="flash", packing=True)
    on_gpu = {"on_gpu": True, "precision": "bf16"}
    with pytest.raises(JobError, match=r"see each other.*micro_batch_size: 1"):
        training.check(packed, mode(**on_gpu))
    training.check(packed, mode(**on_gpu, micro_batch_size=1))


def test_adapters_do_not_go_with_tensor_parallel() -> None:
    lora = base.ChatModel(base="elsewhere", method="lora")
    with pytest.raises(JobError, match="AutoTP splits linear layers"):
        training.check(lora, mode(tensor_parallel=2))
    training.check(lora, mode())


def test_workers_must_share_heads_evenly(folder: Folder) -> None:
    model = shaped(folder(model_type="llama", num_attention_heads=9, num_key_value_heads=3))
    training.check(model, mode(tensor_parallel=3))
    with pytest.raises(JobError, match="9 heads that share 3 keys"):
        training.check(model, mode(tensor_parallel=2))


def test_a_kind_of_model_that_autotp_was_not_tried_with_is_refused(folder: Folder) -> None:
    model = shaped(folder(model_type="mamba", num_attention_heads=4))
    training.check(model, mode())
    with pytest.raises(JobError, match=r"saw mamba; allowed: .*llama"):
        training.check(model, mode(tensor_parallel=2))


def test_packing_is_for_models_whose_conversations_do_not_see_each_other(folder: Folder) -> None:
    with pytest.raises(JobError, match=r"see each other; saw mamba; allowed: .*llama"):
        training.check(shaped(folder(model_type="mamba"), packing=True), mode())
    training.check(shaped(folder(model_type="mamba")), mode())
    training.check(shaped(folder(model_type="llama"), packing=True), mode())


def test_a_base_model_that_is_elsewhere_is_asked_where_it_is(tmp_path: Path) -> None:
    training.check(base.ChatModel(base=str(tmp_path), packing=True), mode(tensor_parallel=2))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_attention_is_switched_for_training_alone(tiny_base: Path, method: Any) -> None:
    config = base.ChatModel(base=str(tiny_base), attention="eager", method=method)
    model: Any = base.build(config, dropout=0.0)
    assert model.config._attn_implementation == "sdpa"
    training.begin(config, model)
    assert model.config._attn_implementation == "eager"


def test_flash_attention_without_its_package_is_said(tiny_base: Path) -> None:
    config = base.ChatModel(base=str(tiny_base), attention="flash")
    with pytest.raises(InputError, match=r"attention: flash cannot be had.*flash-attn"):
        training.begin(config, base.build(config, dropout=0.0))
