"""The gate: may this export stand in for the model that it was made from?

Two questions. Parity: does it answer held-out probes as PyTorch does, within the workload's tolerance?
Quality, for anything but fp32: is the workload's own metric, on held-out data, at most a little worse?
The answer is a `GateReport`; what is done about it (no alias, an exit code) is decided elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mizzen import tracing
from mizzen.errors import DataError
from mizzen.store.manifest import Candidate, GateReport, ParityResult, QualityResult
from mizzen.workloads.contract import Exporter, Precision, Predict, Prepared, Probe, Runtime, Split, Workload

Outputs = Mapping[str, np.ndarray[Any, Any]]


def make_candidate(
    workload: Workload,
    model: torch.nn.Module,
    config: Any,
    prepared: Prepared,
    folder: Path,
    precision: Precision,
    exporter: Exporter,
    runtime: Runtime,
    *,
    batch_size: int = 64,
) -> Candidate:
    """Export `model` (as `Workload.finish_model` left it) into `folder` and judge the export."""
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    with tracing.part("export", precision=precision):
        workload.export(model, config, prepared, folder, precision, exporter)
    with tracing.part("gate"):
        gate = judge(workload, model, config, prepared, folder, precision, runtime, batch_size=batch_size)
    return Candidate(folder=folder, workload=workload.name, precision=precision, gate=gate)


def judge(
    workload: Workload,
    model: torch.nn.Module,
    config: Any,
    prepared: Prepared,
    folder: Path,
    precision: Precision,
    runtime: Runtime,
    *,
    batch_size: int = 64,
) -> GateReport:
    """Compare the export in `folder` with `model`, which is put into evaluation mode."""
    model.eval()
    predict = workload.open(folder, runtime)
    tolerance = workload.tolerance.get(precision)
    parity = tuple(
        compare(probe, workload.reference(model, probe), predict(probe.inputs), tolerance)
        for probe in workload.probes(config, prepared)
    )
    quality = None
    if precision != "fp32" or tolerance is None:
        reference = evaluate_model(workload, model, config, prepared, "validation", batch_size=batch_size)
        exported = evaluate_exported(workload, predict, config, prepared, "validation", batch_size=batch_size)
        quality = judge_quality(workload, reference, exported)
    judged = quality is not None or bool(parity)
    good = all(result.passed for result in parity) and (quality is None or quality.passed)
    return GateReport(
        parity=parity,
        quality=quality,
        precision=precision,
        provider=runtime.provider,
        passed=judged and good,
    )


def compare(probe: Probe, expected: Outputs, actual: Outputs, tolerance: float | None) -> ParityResult:
    """The differences between two sets of outputs, over all of them together."""
    problem = _incomparable(expected, actual)
    if problem is not None:
        return ParityResult(
            probe=probe.name,
            max_abs=float("inf"),
            mean_abs=float("inf"),
            tolerance=tolerance,
            passed=False,
            problem=problem,
        )
    differences = np.concatenate(
        [np.abs(_wide(expected[name]) - _wide(actual[name])).ravel() for name in expected]
    )
    max_abs = float(differences.max())
    return ParityResult(
        probe=probe.name,
        max_abs=max_abs,
        mean_abs=float(differences.mean()),
        tolerance=tolerance,
        passed=tolerance is None or max_abs <= tolerance,
    )


def _incomparable(expected: Outputs, actual: Outputs) -> str | None:
    """Why two sets of outputs cannot be subtracted, or None."""
    if not expected or set(expected) != set(actual):
        return f"outputs are {sorted(actual)}, PyTorch has {sorted(expected)}"
    for name, value in expected.items():
        if value.shape != actual[name].shape:
            return f"{name} has shape {list(actual[name].shape)}, PyTorch's is {list(value.shape)}"
        for who, array in (("PyTorch's", value), ("the export's", actual[name])):
            if not np.isfinite(_wide(array)).all():
                return f"{who} {name} holds NaN or infinity"
        if value.size == 0:
            return f"{name} is empty"
    return None


def _wide(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(array, dtype=np.float64)


def judge_quality(
    workload: Workload, reference: Mapping[str, float], exported: Mapping[str, float]
) -> QualityResult:
    """Whether the export's metric is close enough to the model's. NaN never passes."""
    metric = workload.quality
    loss = metric.relative_loss(reference[metric.name], exported[metric.name])
    return QualityResult(
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        reference=reference[metric.name],
        exported=exported[metric.name],
        relative_loss=loss,
        limit=metric.max_relative_loss,
        passed=bool(loss <= metric.max_relative_loss),
    )


def evaluate_model(
    workload: Workload,
    model: torch.nn.Module,
    config: Any,
    prepared: Prepared,
    split: Split,
    *,
    batch_size: int,
) -> dict[str, float]:
    """The workload's metrics of a PyTorch model on a split, in this process."""
    model.eval()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def outputs(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        moved = {name: value.to(device) for name, value in inputs.items()}
        return {name: value.cpu() for name, value in workload.predict(model, moved).items()}

    return _evaluate(workload, outputs, config, prepared, split, batch_size)


def evaluate_exported(
    workload: Workload, predict: Predict, config: Any, prepared: Prepared, split: Split, *, batch_size: int
) -> dict[str, float]:
    """The same metrics of an exported model, as `Workload.open` returns it."""

    def outputs(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        arrays = predict({name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}

    return _evaluate(workload, outputs, config, prepared, split, batch_size)


def _evaluate(
    workload: Workload, outputs: Any, config: Any, prepared: Prepared, split: Split, batch_size: int
) -> dict[str, float]:
    data: Any = workload.evaluation_data(config, prepared, split)
    if len(data) == 0:
        raise DataError(f"the {split} split is empty", remedy="Give more data, or hold out more of it.")
    sums: dict[str, float] = defaultdict(float)
    with torch.inference_mode():
        for start in range(0, len(data), batch_size):
            rows: Sequence[Any] = [data[i] for i in range(start, min(start + batch_size, len(data)))]
            batch = workload.collate(rows)
            figures = workload.measure(outputs(workload.inputs(batch)), batch)
            for name, values_B in figures.items():
                sums[name] += float(values_B.double().sum())
    return workload.summarise({name: total / len(data) for name, total in sums.items()})
