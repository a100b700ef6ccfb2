"""How parameters begin that lie in no file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mizzen.errors import InputError
from mizzen.workloads.chat import model


@pytest.fixture(scope="module")
def shape(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shape and a tokenizer, and no weights."""
    folder = tmp_path_factory.mktemp("shape") / "base"
    shutil.copytree(tiny_base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def built(folder: Path, seed: int = 3, **more: Any) -> Any:
    torch.manual_seed(seed)
    return model.build(model.ChatModel(base=str(folder), init="random", **more), dropout=0.0)


def test_a_model_begins_at_random_as_transformers_would_begin_it(shape: Path) -> None:
    made = built(shape)
    layer = made.model.layers[1]
    assert layer.input_layernorm.weight.eq(1).all()
    for weight in (layer.mlp.up_proj.weight, layer.self_attn.q_proj.weight, made.lm_head.weight):
        assert weight.std().item() == pytest.approx(0.4, rel=0.1)  # the folder's initializer_range
        assert abs(weight.mean().item()) < 0.02
    assert not torch.equal(made.model.layers[0].mlp.up_proj.weight, layer.mlp.up_proj.weight)


def test_the_same_seed_gives_the_same_model(shape: Path) -> None:
    first, again, other = built(shape), built(shape), built(shape, seed=4)
    pairs = list(zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(value, same) for (_, value), same, _ in pairs)
    assert any(not torch.equal(value, another) for (_, value), _, another in pairs)


def test_what_a_class_gives_to_parameters_of_modules_inside_counts(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(
        vocab_size=64, n_embd=64, n_layer=8, n_head=2, n_positions=32, architectures=["GPT2LMHeadModel"]
    ).save_pretrained(tmp_path)
    made = built(tmp_path)
    block = made.transformer.h[3]
    assert block.mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)  # 2 x 8 layers
    assert block.mlp.c_fc.bias.eq(0).all()


def test_adapters_begin_as_peft_begins_them_and_change_nothing(shape: Path) -> None:
    adapted: Any = built(shape, method="lora", lora={"rank": 16})
    down = [value for name, value in adapted.named_parameters() if "lora_A" in name]
    up = [value for name, value in adapted.named_parameters() if "lora_B" in name]
    assert down and up
    assert all(value.eq(0).all() for value in up)
    for value in down:  # uniform within 1/sqrt(inputs): Kaiming with a = sqrt(5)
        assert value.abs().max().item() <= value.shape[1] ** -0.5
        assert value.std().item() == pytest.approx((3 * value.shape[1]) ** -0.5, rel=0.1)
    ids = torch.arange(10)[None]
    adapted.eval()
    with torch.no_grad(), adapted.disable_adapter():
        without = adapted(input_ids=ids).logits
    with torch.no_grad():
        assert torch.equal(adapted(input_ids=ids).logits, without)


def test_a_folder_without_weights_wants_to_be_asked_for(shape: Path) -> None:
    with pytest.raises(InputError, match="no weights in safetensors"):
        model.build(model.ChatModel(base=str(shape)), dropout=0.0)
