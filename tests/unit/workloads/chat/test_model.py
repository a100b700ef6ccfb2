from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mizzen.errors import InputError, NotFoundError
from mizzen.workloads.chat import model, samples


def lora(base: Path, **options: Any) -> model.ChatModel:
    return model.ChatModel(base=str(base), method="lora", lora=model.Lora(**options))


def test_the_base_models_weights_are_taken_in_full_precision(tiny_base: Path) -> None:
    from safetensors.torch import load_file

    built = model.build(model.ChatModel(base=str(tiny_base)), dropout=0.0)
    saved = load_file(tiny_base / "model.safetensors")
    state = built.state_dict()
    assert saved and all(torch.equal(state[name], value) for name, value in saved.items())
    assert all(parameter.requires_grad for parameter in built.parameters())


def test_dropout_reaches_the_attention(tiny_base: Path) -> None:
    built: Any = model.build(model.ChatModel(base=str(tiny_base)), dropout=0.25)
    assert built.config.attention_dropout == 0.25


def test_adapters_alone_are_trained_and_merging_keeps_what_the_model_says(tiny_base: Path) -> None:
    torch.manual_seed(1)
    adapted: Any = model.build(lora(tiny_base, rank=4), dropout=0.0)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # zero at first: something must have been learnt for merging to show
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        expected = adapted.eval()(input_ids=ids).logits
        merged: Any = model.finish(adapted)
        assert torch.allclose(merged(input_ids=ids).logits, expected, atol=1e-4)
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_the_same_seed_gives_the_same_adapters(tiny_base: Path) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(model.build(lora(tiny_base), dropout=0.0).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(tiny_base: Path) -> None:
    with pytest.raises(InputError, match=r"allowed: .*k_proj.*q_proj"):
        model.build(lora(tiny_base, target_modules=["attention"]), dropout=0.0)


def test_a_folder_without_safetensors_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_base / "config.json", tmp_path)
    (tmp_path / "pytest_model.bin").write_bytes(b"\x80\x04K*.")
    with pytest.raises(InputError, match="no weights in safetensors"):
        model.build(model.ChatModel(base=str(tmp_path)), dropout=0.0)


def test_code_in_the_models_folder_is_never_run(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(InputError, match="cannot be read"):
        model.build(model.ChatModel(base=str(folder)), dropout=0.0)
    assert not (tmp_path / "ran").exists()


def test_a_base_that_is_nowhere_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mizzen import settings

    with pytest.raises(NotFoundError, match="no such base model"):
        model.base_folder(model.ChatModel(base=str(tmp_path / "nothing")))
    monkeypatch.setenv("MIZZEN_HOME", str(tmp_path))
    settings.current.cache_clear()
    with pytest.raises(NotFoundError, match=f"mizzen data fetch {samples.BASE}"):
        model.base_folder(model.ChatModel())


def test_the_sample_is_asked_for_only_where_it_is_used(tmp_path: Path) -> None:
    assert model.samples_needed(model.ChatModel()) == (samples.BASE,)
    assert model.samples_needed(model.ChatModel(base=str(tmp_path))) == ()


@pytest.mark.parametrize(
    "section", [{"lora": {"rank": 4}}, {"method": "qlora"}, {"max_length": 2}, {"bass": "x"}]
)
def test_contradictory_sections_are_refused(section: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model.ChatModel.model_validate(section)
