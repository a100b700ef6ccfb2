"""Small prepared series of known values, and sources that stand in for files of one's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from mizzen import datasets
from mizzen.errors import MizzenError
from mizzen.serving.replies import reply
from mizzen.store.export import OnnxExporter
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.contract import Endpoint, ModelIdentity, Prepared, ServedModel
from mizzen.workloads.forecasting import data, workload
from mizzen.workloads.forecasting.config import DataConfig, ModelConfig, ServeOptions
from mizzen.workloads.forecasting.frequency import Frequency
from mizzen.workloads.forecasting.series import Meta, SeriesWriter, Steps

T = TypeVar("T")
R = TypeVar("R")
FORECAST = "/v1/timeseries/forecast"
LEVELS = [0.1, 0.25, 0.5, 0.75, 0.9]


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


class Immediate:
    """Batching of one: notes how many items it ran."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, function: Callable[[list[T]], list[R]]) -> Callable[[T], Awaitable[R]]:
        async def one(item: T) -> R:
            self.count += 1
            return (await asyncio.to_thread(function, [item]))[0]

        return one


def export(folder: Path, data: Prepared) -> Path:
    config = ModelConfig(hidden_size=8, anchors=[1], quantiles=LEVELS)
    torch.manual_seed(0)
    model = workload.build_model(config, data, dropout=0.0).eval()
    folder.mkdir()
    workload.export(model, config, data, folder, "fp32", OnnxExporter(folder.parent))
    return folder


@pytest.fixture(scope="session")
def plain(
    tmp_path_factory: pytest.TempPathFactory, about: Callable[..., Meta], written: Callable[..., Prepared]
) -> Path:
    """A yearly model without calendar and covariates."""
    folder = tmp_path_factory.mktemp("plain")
    data = written(folder / "data", about(frequency=Frequency(0, 12)), [np.arange(20.0)])
    return export(folder / "model", data)


@pytest.fixture(scope="session")
def rich(
    tmp_path_factory: pytest.TempPathFactory, about: Callable[..., Meta], written: Callable[..., Prepared]
) -> Path:
    """A half-hourly model with calendar and covariates."""
    folder = tmp_path_factory.mktemp("rich")
    meta = about(
        frequency=Frequency(1_800, 0),
        calendar=("time_of_day", "day_of_week"),
        past_names=("rain",),
        known_names=("price",),
    )
    return export(folder / "model", written(folder / "data", meta, [np.arange(20.0)]))


def make_endpoint(folder: Path, batching: Any = None, served_with: Any = None, **options: Any) -> Endpoint:
    """`served_with` are more fields of the `ServedModel`."""
    identity = ModelIdentity("forecasting", 3, "sha256:abc")
    served = ServedModel(
        identity,
        folder,
        OnnxRuntime(num_threads=1),
        batching or Immediate(),
        "forecasting",
        **(served_with or {}),
    )
    return workload.endpoint(served, ServeOptions(**options))


async def answer_error(_: Request, exception: Exception) -> Response:
    """Errors become replies as in Mizzen's own application."""
    answer = reply(exception, "test")
    return Response(answer.body(), answer.status, media_type="application/json")


def send(
    folder: Path, body: Any, batching: Any = None, path: str = FORECAST, **options: Any
) -> httpx.Response:
    """The answer of the model in `folder` to `body`, which may be text that is no JSON."""
    endpoint = make_endpoint(folder, batching, **options)
    app = FastAPI()
    app.include_router(endpoint.router)
    for kind in (MizzenError, RequestValidationError):
        app.add_exception_handler(kind, answer_error)

    async def answered() -> httpx.Response:
        await endpoint.start()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            content = body if isinstance(body, str) else json.dumps(body)
            response = await client.post(path, content=content, headers={"content-type": "application/json"})
        await endpoint.close()
        return response

    return asyncio.run(answered())


@pytest.fixture(scope="session")
def post() -> Callable[..., httpx.Response]:
    """`post(folder, body, batching, path=..., **options)`."""
    return send


@pytest.fixture(scope="session")
def immediate() -> type[Immediate]:
    """A batching of one that counts."""
    return Immediate


@pytest.fixture(scope="session")
def endpoint_of() -> Callable[..., Endpoint]:
    """`endpoint_of(folder, batching, **options)`, not started."""
    return make_endpoint


@pytest.fixture(scope="session")
def exported() -> Callable[[Path, Prepared], Path]:
    """`exported(folder, prepared)`: a small untrained model, exported to `folder`, which is given back."""
    return export
