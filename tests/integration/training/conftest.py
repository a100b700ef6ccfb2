"""A small job on real data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mizzen.training import job as jobs
from mizzen.training.job import TrainJob

SMALL: dict[str, Any] = {
    "name": "digits",
    "workload": "digits",
    "training": {"steps": 24, "micro_batch_size": 16, "learning_rate": 3e-3, "evaluate_every_steps": 8},
    "scaling": {"workers": 2, "cpus_per_worker": 0.5},
}


def small_job(name: str = "digits", **sections: dict[str, Any]) -> TrainJob:
    """`SMALL` by the name `name`, with fields of sections changed."""
    content = {
        **SMALL,
        "name": name,
        **{section: {**SMALL.get(section, {}), **fields} for section, fields in sections.items()},
    }
    return jobs.parse(content, "the test's job")


@pytest.fixture(scope="session")
def job() -> Callable[..., TrainJob]:
    return small_job


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"
