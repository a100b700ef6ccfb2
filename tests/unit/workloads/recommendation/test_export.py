"""The exported network answers like the PyTorch one, and the folder holds all that serving needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mizzen.errors import RequestError
from mizzen.store.export import OnnxExporter
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.contract import Prepared
from mizzen.workloads.recommendation import workload

World = tuple[Any, Prepared, torch.nn.Module]


def test_the_export_matches_pytorch_for_all_batch_sizes_and_lengths(world: World, exported: Path) -> None:
    config, prepared, model = world
    predict = workload.open(exported, OnnxRuntime("cpu", 1))
    probes = list(workload.probes(config, prepared))
    assert {probe.inputs["history"].shape for probe in probes} == {
        (batch, length) for batch in (1, 2, 8, 32) for length in (1, 2, 6, 12)
    }
    for probe in probes:
        expected = workload.reference(model, probe)["scores"]
        found = predict(probe.inputs)["scores"]
        assert found.shape == expected.shape, probe.name
        assert np.abs(found - expected).max() < workload.tolerance["fp32"], probe.name
        assert np.abs(expected).max() > 1, "scores near 0 would match by chance"


def test_an_ensemble_is_exported_as_one_network(world: World, tmp_path: Path) -> None:
    config, prepared, _ = world
    config = config.model_copy(update={"num_members": 3, "history_dropout": 0.2})
    torch.manual_seed(0)
    model = workload.build_model(config, prepared, dropout=0.0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    folder = tmp_path / "out"
    folder.mkdir()
    workload.export(model, config, prepared, folder, "fp32", OnnxExporter(tmp_path / "cache"))
    predict = workload.open(folder, OnnxRuntime("cpu", 1))
    for probe in workload.probes(config, prepared):
        expected, found = workload.reference(model, probe)["scores"], predict(probe.inputs)["scores"]
        assert np.abs(found - expected).max() < workload.tolerance["fp32"], probe.name
    alone = workload.reference(next(model.children())[0], probe)["scores"]
    assert np.abs(found - alone).max() > 0.1, "the other members count too"


def test_the_int8_export_ranks_like_pytorch(world: World, tmp_path: Path) -> None:
    config, prepared, model = world
    folder = tmp_path / "out"
    folder.mkdir()
    workload.export(model, config, prepared, folder, "int8", OnnxExporter(tmp_path / "cache"))
    assert sorted(file.name for file in folder.iterdir()) == [
        "histories.arrow",
        "item_vectors.safetensors",
        "items.arrow",
        "model.onnx",
        "recommender.json",
    ]
    predict = workload.open(folder, OnnxRuntime("cpu", 1))
    probe = list(workload.probes(config, prepared))[-1]
    expected, found = workload.reference(model, probe)["scores"], predict(probe.inputs)["scores"]
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_the_workload_can_be_asked_for_without_importing_torch() -> None:
    source = (
        "import sys; import mizzen.workloads.recommendation as r; r.workload.samples(); r.workload.recipes();"
        "print([name for name in ('torch', 'pandas', 'fastapi', 'ray', 'pyarrow') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"


def test_the_signature_is_that_of_the_exported_graph(exported: Path) -> None:
    import onnx

    signature = workload.signature(exported, OnnxRuntime("cpu", 1))
    graph = onnx.load(exported / "model.onnx").graph
    for specs, values in ((signature.inputs, graph.input), (signature.outputs, graph.output)):
        for spec, value in zip(specs, values, strict=True):
            tensor = value.type.tensor_type
            shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
            kind = {onnx.TensorProto.INT64: "INT64", onnx.TensorProto.FLOAT: "FP32"}[tensor.elem_type]
            assert (spec.name, spec.datatype, spec.shape) == (value.name, kind, shape)


@pytest.mark.parametrize(
    ("history", "told"),
    [
        (np.ones((2, 13), np.int64), "history has the wrong length; saw 13; allowed: 1 to 12"),
        (np.ones((2, 0), np.int64), "saw 0"),
        (np.array([[0, 25]]), "saw 0 to 25; allowed: 1 to 24"),
        (np.array([[-1, 3]]), "saw -1 to 3"),
    ],
)
def test_a_history_that_the_network_was_not_made_for_is_refused(
    exported: Path, history: np.ndarray, told: str
) -> None:
    with pytest.raises(RequestError, match=told):
        workload.open(exported, OnnxRuntime("cpu", 1))({"history": history})
