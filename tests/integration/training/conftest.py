"""One Ray for all training tests, and a small job on real data."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mizzen import settings
from mizzen.training import job as jobs
from mizzen.training import launch
from mizzen.training.job import TrainJob

SMALL: dict[str, Any] = {
    "name": "digits",
    "workload": "digits",
    "training": {"steps": 24, "micro_batch_size": 16, "learning_rate": 3e-3, "evaluate_every_steps": 8},
    "scaling": {"workers": 2, "cpus_per_worker": 0.5},
}


def small_job(**sections: dict[str, Any]) -> TrainJob:
    """`SMALL`, with fields of sections changed."""
    content = {**SMALL, **{name: {**SMALL.get(name, {}), **fields} for name, fields in sections.items()}}
    return jobs.parse(content, "the test's job")


@pytest.fixture(scope="package")
def ray_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[settings.Settings]:
    home = tmp_path_factory.mktemp("ray-home")
    shared = settings.read({"MIZZEN_HOME": str(home)})
    with launch.ray_for([small_job()], shared):
        yield shared


@pytest.fixture(scope="session")
def job() -> Callable[..., TrainJob]:
    return small_job


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"
