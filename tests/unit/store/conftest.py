"""A draft, a folder to publish and stores to publish it to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mizzen.store.manifest import Draft, GateReport, Lineage, ParityResult
from mizzen.store.store import ModelStore

MakeDraft = Callable[..., Draft]


def a_gate(passed: bool = True) -> GateReport:
    parity = ParityResult(
        probe="batch 2", max_abs=1e-6 if passed else 0.5, mean_abs=1e-7, tolerance=1e-4, passed=passed
    )
    return GateReport(
        parity=(parity,), quality=None, precision="fp32", provider="CPUExecutionProvider", passed=passed
    )


@pytest.fixture
def make_draft() -> MakeDraft:
    def make(name: str = "films", *, passed: bool = True, run_id: str = "run-1") -> Draft:
        lineage = Lineage(
            job={"name": name, "training": {"epochs": 3}},
            data_digest="d" * 64,
            data_report={"rows_read": 10},
            run_id=run_id,
            code_version="0.1.0",
            world_size=2,
            deepspeed={"zero_optimization": {"stage": 1}},
            libraries={"torch": "2.13.0"},
        )
        return Draft(
            name=name,
            workload="recommendation",
            precision="fp32",
            quality={"ndcg@10": 0.1},
            gate=a_gate(passed),
            lineage=lineage,
        )

    return make


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A folder as an export leaves it: two files of the same bytes, one in a folder below, one empty."""
    folder = tmp_path / "export"
    (folder / "vocabulary").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bytes(range(256)) * 100)
    (folder / "vocabulary" / "items.json").write_text("[1, 2, 3]")
    (folder / "vocabulary" / "copy.json").write_text("[1, 2, 3]")
    (folder / "empty").touch()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(f"file://{tmp_path}/store")


@pytest.fixture(params=["file", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ModelStore:
    return ModelStore(f"file://{tmp_path}/store" if request.param == "file" else "memory://")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of `store`."""
    return tmp_path / "store"
