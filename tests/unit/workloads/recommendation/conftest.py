"""A small world of interactions, prepared once, and what the platform would hand to the workload.

`TableRows` stands in for a Ray data set: it does in this process what Ray does in others. The integration
tests read the same tables through Ray itself.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx
import numpy as np
import pyarrow as pa
import pytest
import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from mizzen.errors import MizzenError
from mizzen.store.export import OnnxExporter
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.contract import ModelIdentity, Prepared, ServedModel
from mizzen.workloads.recommendation import workload
from mizzen.workloads.recommendation.config import DataConfig

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class TableRows:
    """The part of `ray.data.Dataset` that the workload uses, over blocks in memory."""

    blocks: list[pa.Table]
    context: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(execution_options=SimpleNamespace(preserve_order=False))
    )

    def schema(self) -> Any:
        return self.blocks[0].schema if self.blocks else None

    def map_batches(
        self, function: Callable[..., pa.Table], *, batch_size: None, batch_format: str, fn_kwargs: Any
    ) -> TableRows:
        assert (batch_size, batch_format) == (None, "pyarrow")
        return TableRows([function(block, **fn_kwargs) for block in self.blocks])

    def iter_batches(self, *, batch_size: None, batch_format: str) -> Iterator[pa.Table]:
        assert (batch_size, batch_format) == (None, "pyarrow")
        # Ray hands blocks out in any order unless it was told to keep the order of the file.
        kept = self.context.execution_options.preserve_order
        yield from self.blocks if kept else reversed(self.blocks)


@dataclass
class Tables:
    """The contract's `Sources` over tables in memory."""

    by_address: Mapping[str, list[pa.Table]]

    def table(self, address: str) -> TableRows:
        return TableRows(list(self.by_address[address]))

    def sample(self, name: str) -> Path:
        raise AssertionError(f"no test here asks for the sample {name}")


def prepare_in(folder: Path, tables: Mapping[str, list[pa.Table]], **data: Any) -> Prepared:
    folder.mkdir()
    config = DataConfig.model_validate({"interactions": "met.csv", **data})
    report = workload.prepare(config, Tables(tables), folder)
    return Prepared(folder, "not looked at", report)


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Prepared]:
    """`prepare({address: blocks}, interactions=..., ...)`: prepared data in a new folder."""
    numbers = itertools.count()
    return lambda tables, **data: prepare_in(tmp_path / f"prepared-{next(numbers)}", tables, **data)


@pytest.fixture(scope="session")
def world_tables() -> dict[str, list[pa.Table]]:
    """40 users who each walk round a circle of 24 items, so that the next item can be learned."""
    random = np.random.default_rng(0)
    users, items, times = [], [], []
    for user in range(40):
        length = int(random.integers(8, 30))
        start = int(random.integers(24))
        users += [f"user {user}"] * length
        items += [f"item {(start + step) % 24:02d}" for step in range(length)]
        times += [1_000_000 + 60 * step for step in range(length)]
    catalogue = pa.table(
        {
            "item": [f"item {item:02d}" for item in range(24)],
            "title": [f"The film number {item}" if item else None for item in range(24)],
            "year": [1980 + item if item != 5 else None for item in range(24)],
            "genres": [["even" if item % 2 == 0 else "odd", f"by {item // 8}"] for item in range(24)],
        }
    )
    rows = pa.table({"user": users, "item": items, "timestamp": times})
    return {"met.csv": [rows.slice(0, 200), rows.slice(200)], "items.parquet": [catalogue]}


WORLD = {
    "items": "items.parquet",
    "item_columns": {"attributes": ["title", "year", "genres"]},
}
"""The job's data section for `world_tables`."""


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, world_tables: dict[str, list[pa.Table]]
) -> tuple[Any, Prepared, torch.nn.Module]:
    """A model's configuration, its prepared data, and the model itself, not trained."""
    prepared = prepare_in(tmp_path_factory.mktemp("world") / "prepared", world_tables, **WORLD)
    config = workload.model_config.model_validate({"hidden_size": 16, "max_length": 12, "num_heads": 2})
    torch.manual_seed(0)
    model = workload.build_model(config, prepared, dropout=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            # The first weights are so small that no score would show a difference.
            parameter.add_(0.3 * torch.randn_like(parameter))
    return config, prepared, model.eval()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, world: tuple[Any, Prepared, torch.nn.Module]) -> Path:
    """The folder of `world`'s fp32 export."""
    config, prepared, model = world
    folder = tmp_path_factory.mktemp("exported")
    exporter = OnnxExporter(tmp_path_factory.mktemp("cache"))
    workload.export(model, config, prepared, folder, "fp32", exporter)
    return folder


# --- an endpoint, mounted -------------------------------------------------------------------------


@dataclass
class RememberedRows:
    """The contract's `Lake` in memory; `failure` is raised instead, if there is one."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    failure: Exception | None = None

    async def append(self, table: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
        if self.failure is not None:
            raise self.failure
        assert table == "feedback-cinema"
        self.rows += pa.Table.from_pylist(list(rows), schema=schema).to_pylist()


@dataclass
class Served:
    """An endpoint as the platform mounts it; an unexpected exception fails the test."""

    app: FastAPI
    lake: RememberedRows
    recorder: Any
    runner: asyncio.Runner
    client: httpx.AsyncClient

    def ask(self, path: str, body: Any, content_type: str = "application/json") -> httpx.Response:
        """Send a body, as it is if it is bytes."""
        if isinstance(body, bytes):
            headers = {"content-type": content_type}
            return self.runner.run(self.client.post(path, content=body, headers=headers))
        return self.runner.run(self.client.post(path, json=body))


def alone(function: Callable[[list[T]], list[R]]) -> Callable[[T], Awaitable[R]]:
    """The contract's `Batching` for one caller at a time."""

    async def call(item: T) -> R:
        result = (await asyncio.to_thread(function, [item]))[0]
        if isinstance(result, Exception):
            raise result
        return result

    return call


async def _refused(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, MizzenError):
        body = {"error": str(error), "field": error.field}
        return JSONResponse(body, status_code=error.http_status)
    assert isinstance(error, RequestValidationError)
    # As the platform does: a body that is still bytes was not JSON.
    return JSONResponse({"error": ascii(error)}, status_code=415 if isinstance(error.body, bytes) else 400)


@pytest.fixture(scope="module")
def serve(noted_throughout: Any) -> Iterator[Callable[[Path], Served]]:
    """`serve(folder)`: an endpoint over an exported folder, started; closed at the end."""
    started = []

    def start(folder: Path) -> Served:
        runner, lake, app = asyncio.Runner(), RememberedRows(), FastAPI()
        identity = ModelIdentity("films", 3, "sha256:abc")
        model = ServedModel(
            identity, folder, OnnxRuntime("cpu", 1), alone, "cinema", lake=lake, recorder=noted_throughout
        )
        endpoint = workload.endpoint(model, workload.serve_options())
        for kind in (MizzenError, RequestValidationError):
            app.add_exception_handler(kind, _refused)
        app.include_router(endpoint.router)
        runner.run(endpoint.start())
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
        started.append((runner, client, endpoint))
        return Served(app, lake, noted_throughout, runner, client)

    yield start
    for runner, client, endpoint in started:
        runner.run(client.aclose())
        runner.run(endpoint.close())
        runner.close()


@pytest.fixture(scope="module")
def served(serve: Callable[[Path], Served], exported: Path) -> Served:
    """An endpoint over `exported`."""
    return serve(exported)
