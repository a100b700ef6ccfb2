from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mizzen.errors import MizzenError
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.chat import export
from mizzen.workloads.chat.decoder import Shape
from mizzen.workloads.chat.tokens import Example, tokenizer_of

TOLERANCE = 2e-4
RUNTIME = OnnxRuntime("CPUExecutionProvider", num_threads=1)


def random_tokens(num: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(2, 280, num).tolist()


def test_every_probe_is_answered_as_by_pytorch(tiny_export: Path, tiny_model: Any) -> None:
    predict = export.open_model(tiny_export, RUNTIME)
    probes = list(export.probes([Example(random_tokens(50, 0), [], False)]))
    assert {"prefill", "decode"} == {probe.name.split(",")[0] for probe in probes}
    for probe in probes:
        expected = export.reference(tiny_model, probe.inputs)["logits"]
        actual = predict(probe.inputs)["logits"]
        assert expected.shape == actual.shape
        assert np.abs(expected).max() > 0.5
        assert np.abs(expected - actual).max() < TOLERANCE, probe.name


def test_the_export_brings_tokenizer_and_chat_template(tiny_export: Path, tiny_base: Path) -> None:
    messages = [{"role": "user", "content": "Grüße 😀"}]
    texts = [tokenizer_of(f).apply_chat_template(messages, tokenize=False) for f in (tiny_export, tiny_base)]
    assert texts[0] == texts[1] and "Grüße 😀" in texts[0]
    assert Shape.read(tiny_export).end_tokens == {tokenizer_of(tiny_base).eos_token_id}


def test_an_export_holds_no_pickle(tiny_export: Path) -> None:
    assert not [f.name for f in tiny_export.iterdir() if f.suffix in (".bin", ".pt", ".pkl", ".pth")]


def test_what_the_builder_says_when_it_fails_is_told(tiny_base: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    unknown = GPT2LMHeadModel(GPT2Config(vocab_size=288, n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(MizzenError, match=r"cannot export this model.*exit code 1.*allowed: an architecture"):
        export.export(unknown, tokenizer_of(tiny_base), tmp_path / "out", "fp32", tmp_path / "cache")
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "cache").iterdir()) == []
