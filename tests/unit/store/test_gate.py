"""The gate, with a small real model that a workload written here exports well or badly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mizzen.errors import DataError
from mizzen.store import gate
from mizzen.store.export import OnnxExporter
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.contract import (
    Batch,
    DataReport,
    Endpoint,
    Exporter,
    NoOptions,
    Precision,
    Predict,
    Prepared,
    Probe,
    QualityMetric,
    Runtime,
    ServedModel,
    Split,
    Workload,
)


class Halves(Workload):
    """Tells whether the numbers in a row sum to more than 0; `damage` is added to its exported weights."""

    name = "halves"
    summary = "for the tests of the gate"
    data_config = model_config = NoOptions
    quality = QualityMetric("accuracy", higher_is_better=True)
    tolerance: ClassVar[Mapping[Precision, float]] = {"fp32": 1e-5}
    output_names = ("score",)

    def __init__(self, damage: float = 0.0, rows: int = 101) -> None:
        self.damage, self.rows = damage, rows

    def prepare(self, data: Any, sources: Any, folder: Path) -> DataReport:
        raise AssertionError("the gate prepares nothing")

    def build_model(self, config: Any, prepared: Prepared, *, dropout: float) -> nn.Module:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Dropout(dropout), nn.Linear(64, 1))
        with torch.no_grad():
            model[0].weight.copy_(torch.eye(64) + 0.001 * torch.randn(64, 64))
            model[2].weight.fill_(1.0)
            model[2].bias.zero_()
        return Named(model)

    def training_data(self, config: Any, prepared: Prepared) -> Any:
        raise AssertionError("the gate does not train")

    def evaluation_data(self, config: Any, prepared: Prepared, split: Split) -> Any:
        generator = torch.Generator().manual_seed({"validation": 2, "test": 3}[split])
        return torch.randn(self.rows, 64, generator=generator)

    def collate(self, rows: Sequence[Tensor]) -> Batch:
        return {"x": torch.stack(list(rows))}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        raise AssertionError("the gate does not train")

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        return batch

    def measure(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": ((outputs["score"][:, 0] > 0) == (batch["x"].sum(1) > 0)).float()}

    def export(
        self,
        model: nn.Module,
        config: Any,
        prepared: Prepared,
        folder: Path,
        precision: Precision,
        exporter: Exporter,
    ) -> None:
        damaged = self.build_model(config, prepared, dropout=0.0)
        damaged.load_state_dict(model.state_dict())
        with torch.no_grad():
            next(damaged.parameters()).add_(self.damage)
        full = folder / "model.onnx"
        exporter.to_onnx(
            damaged,
            {"x": torch.zeros(2, 64)},
            full,
            output_names=self.output_names,
            dynamic={"x": {0: "batch"}},
        )
        if precision != "fp32":
            exporter.quantize(full, folder / "small.onnx", precision)
            (folder / "small.onnx").replace(full)

    def probes(self, config: Any, prepared: Prepared) -> Iterable[Probe]:
        for batch in (1, 8):
            data = self.evaluation_data(config, prepared, "validation")[:batch]
            yield Probe(f"batch {batch}", {"x": data.numpy()})

    def open(self, folder: Path, runtime: Runtime) -> Predict:
        return runtime.session(folder / "model.onnx").run

    def endpoint(self, model: ServedModel, options: Any) -> Endpoint:
        raise AssertionError("the gate serves nothing")


class Named(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return Prepared(tmp_path, "d" * 64, DataReport(0, 0))


def candidate(workload: Workload, prepared: Prepared, precision: Precision = "fp32") -> Any:
    model = workload.build_model(None, prepared, dropout=0.5)
    return gate.make_candidate(
        workload,
        model,
        None,
        prepared,
        prepared.folder / "export",
        precision,
        OnnxExporter(prepared.folder / "cache"),
        OnnxRuntime("cpu", 1),
        batch_size=10,
    )


def test_a_faithful_export_passes_on_every_probe(prepared: Prepared) -> None:
    made = candidate(Halves(), prepared)
    assert (made.workload, made.precision, made.gate.passed) == ("halves", "fp32", True)
    assert [(r.probe, r.tolerance) for r in made.gate.parity] == [("batch 1", 1e-5), ("batch 8", 1e-5)]
    assert all(r.max_abs >= r.mean_abs > 0 or r.max_abs == 0 for r in made.gate.parity)
    assert made.gate.quality is None
    assert made.gate.provider == "CPUExecutionProvider"
    assert (made.folder / "model.onnx").exists()


def test_an_export_with_other_weights_fails(prepared: Prepared) -> None:
    report = candidate(Halves(damage=0.01), prepared).gate
    assert not report.passed
    assert all(result.max_abs > 1e-5 for result in report.parity)


def test_a_good_int8_export_is_judged_by_quality_and_passes(prepared: Prepared) -> None:
    report = candidate(Halves(), prepared, "int8").gate
    assert report.passed
    assert all(result.tolerance is None and result.max_abs > 0 for result in report.parity)
    assert report.quality is not None
    assert report.quality.reference > 0.95
    assert report.quality.relative_loss <= report.quality.limit == 0.02


def test_a_bad_int8_export_loses_quality_and_fails(prepared: Prepared) -> None:
    report = candidate(Halves(damage=-0.5), prepared, "int8").gate
    assert not report.passed
    assert report.quality is not None
    assert report.quality.relative_loss > 0.02


def test_fp32_without_a_tolerance_is_judged_by_quality_too(prepared: Prepared) -> None:
    class Unlimited(Halves):
        tolerance: ClassVar[Mapping[Precision, float]] = {}

    report = candidate(Unlimited(damage=-0.5), prepared).gate
    assert report.quality is not None
    assert not report.passed


def test_a_workload_without_probes_does_not_pass(prepared: Prepared) -> None:
    class Blind(Halves):
        def probes(self, config: Any, prepared: Prepared) -> Iterable[Probe]:
            return ()

    report = candidate(Blind(), prepared).gate
    assert not report.passed
    assert "nothing was judged" in report.lines()[-1]


def test_an_empty_split_is_an_error_and_not_a_pass(prepared: Prepared) -> None:
    with pytest.raises(DataError, match="validation split is empty"):
        candidate(Halves(rows=0), prepared, "int8")


def test_model_and_export_are_evaluated_alike_whatever_the_batch(prepared: Prepared) -> None:
    workload = Halves()
    model = workload.build_model(None, prepared, dropout=0.5)
    made = candidate(workload, prepared)
    predict = workload.open(made.folder, OnnxRuntime("cpu", 1))
    figures = {
        gate.evaluate_model(workload, model, None, prepared, "test", batch_size=size)["accuracy"]
        for size in (1, 10, 101, 1000)
    } | {
        gate.evaluate_exported(workload, predict, None, prepared, "test", batch_size=size)["accuracy"]
        for size in (7, 1000)
    }
    assert len(figures) == 1
    x = workload.evaluation_data(None, prepared, "test")
    with torch.no_grad():
        right = (model.eval()(x)[:, 0] > 0) == (x.sum(1) > 0)
    assert figures.pop() == pytest.approx(float(right.double().mean()))


def arrays(**values: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.asarray(value, dtype=np.float32) for name, value in values.items()}


PROBE = Probe("p", {})


@pytest.mark.parametrize(
    ("expected", "actual", "said"),
    [
        (arrays(y=[1, 2]), arrays(y=[1, np.nan]), "the export's y holds NaN"),
        (arrays(y=[1, 2]), arrays(y=[1, np.inf]), "the export's y holds NaN"),
        (arrays(y=[np.nan, 2]), arrays(y=[np.nan, 2]), "PyTorch's y holds NaN"),
        (arrays(y=[np.inf]), arrays(y=[np.inf]), "PyTorch's y holds NaN or infinity"),
        (arrays(y=[1, 2]), arrays(y=[[1, 2]]), "y has shape [1, 2], PyTorch's is [2]"),
        (arrays(y=[1, 2]), arrays(z=[1, 2]), "outputs are ['z'], PyTorch has ['y']"),
        (arrays(y=[1], z=[1]), arrays(y=[1]), "outputs are ['y']"),
        (arrays(y=[1]), arrays(y=[1], z=[1]), "outputs are ['y', 'z']"),
        (arrays(), arrays(), "outputs are []"),
        (arrays(y=[]), arrays(y=[]), "y is empty"),
    ],
)
@pytest.mark.parametrize("tolerance", [None, 1e9])
def test_outputs_that_cannot_be_compared_fail_at_any_tolerance(
    expected: Any, actual: Any, said: str, tolerance: float | None
) -> None:
    result = gate.compare(PROBE, expected, actual, tolerance)
    assert not result.passed
    assert result.max_abs == float("inf")
    assert said in (result.problem or "")


def test_differences_are_taken_over_all_outputs() -> None:
    result = gate.compare(PROBE, arrays(y=[1, 2], z=[[5, 5]]), arrays(y=[1, 2.5], z=[[5, 4]]), 0.9)
    assert (result.max_abs, result.mean_abs, result.passed) == (1.0, 0.375, False)
    assert gate.compare(PROBE, arrays(y=[1]), arrays(y=[2]), 1.0).passed


numbers = st.floats(-1e6, 1e6, width=32)


@given(st.lists(numbers, min_size=1, max_size=20), st.data())
def test_a_difference_passes_exactly_if_it_is_within_the_tolerance(values: list[float], data: Any) -> None:
    others = data.draw(st.lists(numbers, min_size=len(values), max_size=len(values)))
    tolerance = data.draw(st.floats(0, 1e6))
    result = gate.compare(PROBE, arrays(y=values), arrays(y=others), tolerance)
    largest = max(abs(a - b) for a, b in zip(values, others, strict=True))
    assert result.max_abs == pytest.approx(largest)
    assert result.passed == (result.max_abs <= tolerance)
    assert 0 <= result.mean_abs <= result.max_abs * (1 + 1e-9)


@pytest.mark.parametrize(
    ("higher", "reference", "exported", "passed"),
    [
        (True, 0.5, 0.5, True),
        (True, 0.5, 0.6, True),
        (True, 0.5, 0.491, True),
        (True, 0.5, 0.489, False),
        (False, 20.0, 20.1, True),
        (False, 20.0, 25.2, False),
        (False, 20.0, 19.0, True),
        (True, 0.5, float("nan"), False),
        (True, float("nan"), 0.5, False),
        (False, 20.0, float("inf"), False),
        (False, 0.0, 0.1, False),
        (True, 0.0, 0.0, True),
    ],
)
def test_quality_may_be_lost_by_two_percent_and_no_more(
    higher: bool, reference: float, exported: float, passed: bool
) -> None:
    class Measured(Halves):
        quality = QualityMetric("m", higher_is_better=higher)

    assert gate.judge_quality(Measured(), {"m": reference}, {"m": exported}).passed == passed
