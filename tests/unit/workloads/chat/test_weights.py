"""Weights of folders of all kinds, read tensor by tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mizzen.errors import InputError
from mizzen.workloads.chat import model, weights

Change = Callable[[dict[str, torch.Tensor]], object]


def changed(base: Path, folder: Path, change: Change) -> Path:
    """A copy of `base` in `folder` with `change` made to its tensors."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / weights.WHOLE)
    change(tensors)
    save_file(tensors, folder / weights.WHOLE, {"format": "pt"})
    return folder


def built(folder: Path, **more: Any) -> Any:
    return model.build(model.ChatModel(base=str(folder), **more), dropout=0.0)


def in_parts(base: Path, folder: Path) -> Path:
    """`base` in several files with an index, as large models come."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(base, folder)
    (folder / weights.WHOLE).unlink()
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def test_a_folder_in_several_files_is_read_as_one(tiny_base: Path, tmp_path: Path) -> None:
    parts, whole = built(in_parts(tiny_base, tmp_path / "parts")), built(tiny_base)
    for (name, value), (_, expected) in zip(parts.named_parameters(), whole.named_parameters(), strict=True):
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_the_files_type_is_not_the_models(tiny_base: Path, tmp_path: Path, kind: torch.dtype) -> None:
    folder = changed(
        tiny_base, tmp_path / "halved", lambda t: t.update({k: v.to(kind) for k, v in t.items()})
    )
    embedding = load_file(folder / weights.WHOLE)["model.embed_tokens.weight"]
    assert embedding.dtype == kind
    made = built(folder)
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert torch.equal(made.model.embed_tokens.weight, embedding.float())


def test_tied_weights_stay_one(tiny_base: Path, tmp_path: Path) -> None:
    made = built(tiny_base)
    assert made.lm_head.weight is made.model.embed_tokens.weight
    under_the_other_name = changed(
        tiny_base,
        tmp_path / "other",
        lambda t: t.update({"lm_head.weight": t.pop("model.embed_tokens.weight")}),
    )
    again = built(under_the_other_name)
    assert torch.equal(again.lm_head.weight, made.lm_head.weight)


def test_positions_are_what_transformers_reckons(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    expected = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    made = built(tiny_base)
    for (name, value), (_, other) in zip(made.named_buffers(), expected.named_buffers(), strict=True):
        assert torch.equal(value, other), name
    assert made.generation_config.to_dict() == expected.generation_config.to_dict()


@pytest.mark.parametrize("kind", ["mixture", "gpt2"])
def test_models_of_other_kinds_are_those_that_transformers_reads(kind: str, tmp_path: Path) -> None:
    from transformers import (
        AutoModelForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        MixtralConfig,
        MixtralForCausalLM,
    )

    small = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    fresh: Any
    if kind == "gpt2":
        fresh = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    else:  # in files each expert has tensors of its own, in the model they are one
        fresh = MixtralForCausalLM(
            MixtralConfig(**small, intermediate_size=24, num_key_value_heads=1, num_local_experts=4)
        )
    fresh.save_pretrained(tmp_path)
    if kind == "mixture":
        assert any("experts.3." in name for name in load_file(tmp_path / weights.WHOLE))
    expected: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    made = built(tmp_path).eval()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(made(input_ids=ids).logits, expected(input_ids=ids).logits)
    made.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / weights.WHOLE).keys() == load_file(tmp_path / weights.WHOLE).keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("model.norm.weight"), r"lacks tensors.*model\.norm\.weight"),
        (lambda t: t.update(own=torch.ones(1)), r"holds tensors that the model does not have.*own"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(3)}),
            r"wrong shape: model\.norm\.weight.*\[3\].*\[64\]",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_before_anything_is_read(
    tiny_base: Path, tmp_path: Path, change: Change, said: str
) -> None:
    folder = changed(tiny_base, tmp_path / "changed", change)
    with pytest.raises(InputError, match=said):
        model.skeleton(model.ChatModel(base=str(folder)), dropout=0.0)


def test_what_older_folders_hold_besides_is_passed_over(tiny_base: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    built(changed(tiny_base, tmp_path / "old", lambda t: t.update({name: torch.ones(8)})))


def test_files_that_are_damaged_or_missing_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(tiny_base, cut)
    (cut / weights.WHOLE).write_bytes((tiny_base / weights.WHOLE).read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        built(cut)
    parts = in_parts(tiny_base, tmp_path / "parts")
    next(parts.glob("model-00002*")).unlink()
    with pytest.raises(InputError, match=r"are missing.*model-00002"):
        built(parts)
    (parts / weights.INDEX).write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(InputError, match="are missing"):
        built(parts)
    (parts / weights.INDEX).write_text("[]")
    with pytest.raises(InputError, match="index"):
        built(parts)


def test_quantised_weights_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "q")
    config = json.loads((tiny_base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "q" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="quantised"):
        built(tmp_path / "q")
