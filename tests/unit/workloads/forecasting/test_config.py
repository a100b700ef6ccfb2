"""What a job file may say of data and model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mizzen.training import job
from mizzen.workloads.forecasting import workload
from mizzen.workloads.forecasting.config import DataConfig, ModelConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either dataset or path"),
        ({"dataset": "taylor", "path": "x.csv"}, "either dataset or path"),
        ({"path": "x.csv", "horizon": 3}, "needs frequency and horizon"),
        ({"path": "x.csv", "horizon": 3, "frequency": "sometimes"}, "no such frequency"),
        ({"dataset": "m3"}, "m1-yearly"),
        ({"dataset": "taylor", "columns": {"target": "demand"}}, "a sample has its own"),
        ({"dataset": "taylor", "min_context": 100, "context_length": 50}, "min_context"),
        ({"dataset": "taylor", "colour": "blue"}, "colour"),
        (
            {
                "path": "x.csv",
                "horizon": 3,
                "frequency": "D",
                "columns": {"target": "a", "known_covariates": ["a"]},
            },
            "one role only",
        ),
    ],
)
def test_contradictory_data_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig(**fields)


@pytest.mark.parametrize("levels", [[], [0.1, 0.9], [0.5, 0.1], [0.5, 0.5], [0.0, 0.5], [0.5, 1.0]])
def test_quantiles_without_median_or_order_are_refused(levels: list[float]) -> None:
    with pytest.raises(ValidationError, match="quantiles"):
        ModelConfig(quantiles=levels)


@pytest.mark.parametrize("name", sorted(workload.recipes()))
def test_each_ready_job_file_is_valid(name: str) -> None:
    file: Path = workload.recipes()[name].file
    assert job.load(file).workload == "forecasting"
