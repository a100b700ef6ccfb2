"""Exports against PyTorch: both architectures, several batch sizes and lengths, both precisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mizzen.errors import RequestError
from mizzen.store.export import OnnxExporter
from mizzen.store.gate import make_candidate
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.contract import Prepared
from mizzen.workloads.forecasting import workload
from mizzen.workloads.forecasting.config import ModelConfig
from mizzen.workloads.forecasting.export import read_facts

COVARIATES: dict[str, Any] = {"past_names": ("p",), "known_names": ("k",), "calendar": ("day_of_week",)}


def series(count: int, length: int) -> list[np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    return [1e6 + generator.normal(size=length).cumsum() for _ in range(count)]


@pytest.mark.parametrize("architecture", ["tide", "lstm"])
def test_an_export_answers_as_pytorch_does(
    prepared: Callable[..., Prepared], tmp_path: Path, architecture: str
) -> None:
    data = prepared(series(5, 30), seasonality=(2,), **COVARIATES)
    config = ModelConfig(
        architecture=architecture,
        hidden_size=8,
        layers=2,
        members=2,
        anchors=[1, 3],
        inputs=["values", "differences", "seasonal_differences"],
    )
    torch.manual_seed(0)
    model = workload.build_model(config, data, dropout=0.1)
    made = make_candidate(
        workload, model, config, data, tmp_path / "out", "fp32", OnnxExporter(tmp_path), OnnxRuntime()
    )
    assert made.gate.passed
    assert len({probe.name for probe in workload.probes(config, data)}) == 4
    lengths = {probe.inputs["past_target"].shape for probe in workload.probes(config, data)}
    assert lengths == {(1, 8), (3, 5), (8, 8), (2, 2)}
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["forecaster.json", "model.onnx"]
    meta, levels = read_facts(tmp_path / "out")
    assert (meta.known_names, levels) == (("k",), config.quantiles)


def test_int8_is_smaller_and_judged_on_validation(prepared: Callable[..., Prepared], tmp_path: Path) -> None:
    data = prepared(series(5, 30))
    config = ModelConfig(hidden_size=64, layers=2, anchors=[1, 3])
    torch.manual_seed(0)
    model = workload.build_model(config, data, dropout=0.0)
    sizes = {}
    for precision in ("fp32", "int8"):
        folder = tmp_path / precision
        made = make_candidate(
            workload, model, config, data, folder, precision, OnnxExporter(tmp_path), OnnxRuntime()
        )
        assert made.gate.passed
        sizes[precision] = (folder / "model.onnx").stat().st_size
        assert sorted(file.name for file in folder.iterdir()) == ["forecaster.json", "model.onnx"]
    assert made.gate.quality is not None
    assert sizes["int8"] < sizes["fp32"] / 2


def test_the_signature_is_the_graphs(
    prepared: Callable[..., Prepared], exported: Callable[[Path, Prepared], Path], tmp_path: Path
) -> None:
    folder = exported(tmp_path / "model", prepared(series(2, 30), **COVARIATES))
    runtime = OnnxRuntime(num_threads=1)
    signature = workload.signature(folder, runtime)
    assert {tensor.name: tensor.shape for tensor in signature.inputs} == {
        "past_target": (-1, -1),
        "past_mask": (-1, -1),
        "past_covariates": (-1, -1, 1),
        "known": (-1, -1, 8),
    }
    lengths = {"past_target": 5, "past_mask": 5, "past_covariates": 5, "known": 8}
    inputs = {
        tensor.name: np.ones((2, lengths[tensor.name], *tensor.shape[2:]), dtype=np.float32)
        for tensor in signature.inputs
    }
    predict = workload.open(folder, runtime)
    outputs = predict(inputs)
    assert [tensor.name for tensor in signature.outputs] == list(outputs) == ["quantiles", "mean"]
    for tensor in signature.outputs:
        assert outputs[tensor.name].shape == (2, *tensor.shape[1:])
        assert {tensor.datatype, str(outputs[tensor.name].dtype)} == {"FP32", "float32"}
    with pytest.raises(RequestError, match=r"'past_target' has the wrong number of steps; saw 9; .* 1 to 8"):
        predict({**inputs, "past_target": np.ones((2, 9), dtype=np.float32)})
    with pytest.raises(RequestError, match="'known' has the wrong number of steps; saw 7; allowed: 8"):
        predict({**inputs, "known": inputs["known"][:, :7]})
