"""Small prepared series of known values, and sources that stand in for files of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mizzen import datasets
from mizzen.workloads.contract import Prepared
from mizzen.workloads.forecasting import data
from mizzen.workloads.forecasting.config import DataConfig
from mizzen.workloads.forecasting.frequency import Frequency
from mizzen.workloads.forecasting.series import Meta, SeriesWriter, Steps


class Samples:
    """Only the samples, as `mizzen data fetch` brings them."""

    def table(self, address: str) -> Any:
        raise AssertionError(f"no table is wanted: {address}")

    def sample(self, name: str) -> Path:
        return datasets.fetch(name)


@pytest.fixture(scope="session")
def m1(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The real M1 yearly series, prepared as the benchmark has them."""
    folder = tmp_path_factory.mktemp("m1")
    return Prepared(
        folder, "", data.prepare(DataConfig(dataset="m1-yearly", context_length=16), Samples(), folder)
    )


def meta(**changes: Any) -> Meta:
    """Daily series, horizon 3, context 8, one held-out window each."""
    fields: dict[str, Any] = {
        "frequency": Frequency(86_400, 0),
        "horizon": 3,
        "context_length": 8,
        "min_context": 2,
        "seasonality": (),
        "test_windows": 1,
        "validation_windows": 1,
        "stride": 3,
        "train_stride": 1,
        "scaling": "difference",
        "calendar": (),
        "past_names": (),
        "known_names": (),
    }
    given = Meta(**{**fields, **changes})
    past, known = len(given.past_names), len(given.known_names)
    moments: dict[str, Any] = {
        "past_mean": (0.0,) * past,
        "past_deviation": (1.0,) * past,
        "known_mean": (0.0,) * known,
        "known_deviation": (1.0,) * known,
    }
    return Meta(**{**fields, **moments, **changes})


def write(folder: Path, about: Meta, targets: list[np.ndarray[Any, Any]]) -> Prepared:
    """`targets` as prepared series, with covariates that count their steps."""
    folder.mkdir(parents=True, exist_ok=True)
    with SeriesWriter(folder) as writer:
        for i, target in enumerate(targets):
            steps = np.arange(len(target), dtype=np.float64)
            past = (
                np.stack([np.sin(steps + j) for j in range(len(about.past_names))], axis=1)
                if about.past_names
                else np.zeros((len(target), 0))
            )
            known = (
                np.stack([np.cos(steps + j) for j in range(len(about.known_names))], axis=1)
                if about.known_names
                else np.zeros((len(target), 0))
            )
            writer.append(Steps(f"s{i}", np.datetime64("2024-01-01T00:00:00", "s"), target, past, known))
    (folder / "meta.json").write_text(about.to_json())
    from mizzen.workloads.contract import DataReport

    return Prepared(folder, "", DataReport(0, 0))


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Prepared]:
    """`prepared(targets, **changes of meta)`."""
    count = 0

    def make(targets: list[np.ndarray[Any, Any]], **changes: Any) -> Prepared:
        nonlocal count
        count += 1
        return write(tmp_path / f"prepared-{count}", meta(**changes), targets)

    return make


@pytest.fixture(scope="session")
def about() -> Callable[..., Meta]:
    """`about(**changes)`: what is known of the small series."""
    return meta


@pytest.fixture(scope="session")
def written() -> Callable[..., Prepared]:
    """`written(folder, meta, targets)`: prepared series in a folder of the caller's."""
    return write
