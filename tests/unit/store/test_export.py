"""Exports of the layers that the workloads use, run at sizes that they were not traced at."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from mizzen.errors import GateError
from mizzen.store.export import OnnxExporter
from mizzen.store.runtime import OnnxRuntime

HISTORY = {"history": {0: "batch", 1: "length"}}


class Attention(nn.Module):
    """One causal block with a padding mask, as sequential recommenders have it."""

    def __init__(self, items: int = 60, size: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.items = nn.Embedding(items, size, padding_idx=0)
        self.places = nn.Embedding(64, size)
        self.norm = nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.dropout = nn.Dropout(0.5)
        self.heads = heads

    def forward(self, history: Tensor) -> Tensor:
        batch, length = history.shape
        x = self.dropout(self.items(history) + self.places(torch.arange(length)))
        q, k, v = (
            part.reshape(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        mask = (causal & (history != 0)[:, None, None, :]) | torch.eye(length, dtype=torch.bool)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, -1))
        return x[:, -1] @ self.items.weight.T


class Recurrent(nn.Module):
    """An LSTM with a scale for each series, as forecasters have it."""

    def __init__(self, bidirectional: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 16, 2, batch_first=True, dropout=0.3, bidirectional=bidirectional, bias=bias)
        self.out = nn.Linear(32 if bidirectional else 16, 5)

    def forward(self, values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        y, (h, _) = self.lstm(values)
        return self.out(y[:, -1]) * scale, h[-1]


class Unrolled(nn.Module):
    """A loop over the length in Python, which tracing writes out for the example's length."""

    def forward(self, values: Tensor) -> Tensor:
        state = torch.zeros_like(values[:, 0])
        for step in range(values.shape[1]):
            state = torch.tanh(state + values[:, step])
        return state


def difference(model: nn.Module, path: Path, inputs: dict[str, Tensor], names: list[str]) -> float:
    with torch.inference_mode():
        expected = model.eval()(**inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    actual = OnnxRuntime("cpu", 1).session(path).run({name: value.numpy() for name, value in inputs.items()})
    assert list(actual) == names
    return max(float(np.abs(e.numpy() - actual[n]).max()) for e, n in zip(expected, names, strict=True))


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> OnnxExporter:
    return OnnxExporter(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def attention(exporter: OnnxExporter) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model, path = Attention(), exporter.cache_dir / "attention.onnx"
    exporter.to_onnx(
        model, {"history": torch.randint(0, 60, (3, 7))}, path, output_names=["scores"], dynamic=HISTORY
    )
    return model, path


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 50), (5, 3), (9, 64)])
def test_attention_keeps_its_answers_at_other_sizes(
    attention: tuple[nn.Module, Path], batch: int, length: int
) -> None:
    model, path = attention
    history = torch.randint(0, 60, (batch, length))
    assert difference(model, path, {"history": history}, ["scores"]) < 1e-5


def test_a_model_is_exported_in_evaluation_mode_and_left_as_it_was(
    attention: tuple[nn.Module, Path], exporter: OnnxExporter
) -> None:
    _, path = attention
    assert not [node for node in onnx.load(path).graph.node if node.op_type == "Dropout"]
    fresh = Attention()
    fresh.train()
    exporter.to_onnx(
        fresh,
        {"history": torch.randint(0, 60, (2, 3))},
        exporter.cache_dir / "fresh.onnx",
        output_names=["scores"],
        dynamic=HISTORY,
    )
    assert fresh.training


def test_the_same_model_gives_the_same_bytes_and_no_path_of_this_machine(
    attention: tuple[nn.Module, Path], exporter: OnnxExporter
) -> None:
    model, path = attention
    again = exporter.cache_dir / "again.onnx"
    history = torch.randint(0, 60, (3, 7))
    exporter.to_onnx(model, {"history": history}, again, output_names=["scores"], dynamic=HISTORY)
    first, second = path.read_bytes(), again.read_bytes()
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()
    assert str(Path(__file__).parent).encode() not in first


@pytest.mark.parametrize(("bidirectional", "bias"), [(False, True), (True, False)])
def test_an_lstm_keeps_its_answers_at_other_lengths(
    exporter: OnnxExporter, bidirectional: bool, bias: bool
) -> None:
    torch.manual_seed(0)
    model = Recurrent(bidirectional, bias)
    lstm, path = model.lstm, exporter.cache_dir / f"lstm-{bidirectional}-{bias}.onnx"
    exporter.to_onnx(
        model,
        {"values": torch.randn(3, 7, 3), "scale": torch.rand(3, 1)},
        path,
        output_names=["quantiles", "state"],
        dynamic={"values": {0: "batch", 1: "length"}, "scale": {0: "batch"}},
    )
    assert model.lstm is lstm
    for batch, length in [(1, 1), (1, 40), (6, 5)]:
        inputs = {"values": torch.randn(batch, length, 3), "scale": torch.rand(batch, 1)}
        assert difference(model, path, inputs, ["quantiles", "state"]) < 1e-6


def test_a_dimension_that_the_export_would_fix_in_silence_is_refused(exporter: OnnxExporter) -> None:
    path = exporter.cache_dir / "unrolled.onnx"
    with pytest.raises(GateError, match="'length' of 'values'"):
        exporter.to_onnx(
            Unrolled(),
            {"values": torch.randn(2, 7, 3)},
            path,
            output_names=["y"],
            dynamic={"values": {0: "batch", 1: "length"}},
        )
    assert not path.exists()


def test_a_model_that_cannot_be_exported_is_named(exporter: OnnxExporter) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum().item() > 0 else x - 1

    with pytest.raises(GateError, match="Branching cannot be exported"):
        exporter.to_onnx(
            Branching(), {"x": torch.ones(2)}, exporter.cache_dir / "b.onnx", output_names=["y"], dynamic={}
        )


def test_a_dynamic_input_that_the_model_has_not_is_refused(exporter: OnnxExporter) -> None:
    with pytest.raises(GateError, match="hstory"):
        exporter.to_onnx(
            Attention(),
            {"history": torch.ones(2, 2, dtype=torch.long)},
            exporter.cache_dir / "x.onnx",
            output_names=["scores"],
            dynamic={"hstory": {0: "batch"}},
        )
