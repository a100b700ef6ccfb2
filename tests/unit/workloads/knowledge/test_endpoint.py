from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from openai import AsyncOpenAI

from mizzen import metrics
from mizzen.errors import MizzenError
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.contract import METER, DataReport, Meter, ModelIdentity, Prepared, ServedModel
from mizzen.workloads.knowledge import data, workload
from mizzen.workloads.knowledge.retriever import KnowledgeRetriever

T = TypeVar("T")
R = TypeVar("R")
IDENTITY = ModelIdentity("kb", 3, "d" * 64)
WATCHED: list[Any] = []
"""Features of questions, in their order."""


class OneByOne:
    """The contract's `Batching` without waiting."""

    def __call__(self, function: Callable[[list[T]], list[R]]) -> Callable[[T], Awaitable[R]]:
        async def one(item: T) -> R:
            return (await asyncio.to_thread(function, [item]))[0]

        return one


@pytest.fixture(scope="module")
def app(version: Path, noted_throughout: Any) -> FastAPI:
    """The endpoint, with errors and the meter as the platform has them."""
    runtime = OnnxRuntime("cpu", 1)
    served = ServedModel(IDENTITY, version, runtime, OneByOne(), "help", recorder=noted_throughout)
    served = replace(served, watch_inputs=lambda features: WATCHED.append(features))
    endpoint = workload.endpoint(served, None)
    asyncio.run(endpoint.start())
    app = FastAPI()
    app.include_router(endpoint.router)
    app.state.meter = Meter()

    @app.middleware("http")
    async def metered(request: Request, call_next: Any) -> Any:
        request.scope[METER] = app.state.meter = Meter()
        return await call_next(request)

    @app.exception_handler(MizzenError)
    async def told(request: Request, error: MizzenError) -> Any:
        from fastapi.responses import JSONResponse

        body = {"message": str(error), "type": "invalid_request_error", "param": error.field, "code": None}
        return JSONResponse({"error": body}, error.http_status)

    return app


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def test_a_passage_is_found_by_its_own_words(client: TestClient, app: FastAPI) -> None:
    query = "Printer > Paper jam\nOpen the lid. Pull the paper out. Close the lid."
    answer = client.post("/v1/search", json={"query": query, "num_results": 2}).json()
    assert (answer["model"], answer["model_version"], answer["model_digest"]) == ("kb", 3, "d" * 64)
    first, second = answer["results"]
    assert first["score"] == pytest.approx(1, abs=1e-5)
    assert first["score"] >= second["score"]
    del first["score"]
    assert first == {
        "document": "docs/guide.md",
        "chunk": 1,
        "title": "Printer > Paper jam",
        "text": "Open the lid. Pull the paper out. Close the lid.",
    }
    assert answer["usage"]["total_tokens"] == app.state.meter.num_tokens > 10


def test_passages_below_the_score_are_left_out_and_the_lookup_is_a_miss(
    client: TestClient, noted_throughout: Any
) -> None:
    before = noted_throughout.lines(metrics.KNOWLEDGE_LOOKUPS)
    assert client.post("/v1/search", json={"query": "password", "min_score": 1}).json()["results"] == []
    assert client.post("/v1/search", json={"query": "password"}).json()["results"]
    after = noted_throughout.lines(metrics.KNOWLEDGE_LOOKUPS)
    assert {line: after[line] - before[line] for line in after} == {("hit",): 1, ("miss",): 1}


def test_questions_that_are_asked_are_as_long_as_those_that_a_version_was_judged_by(
    client: TestClient, tmp_path: Path, version: Path
) -> None:
    questions = ["How to do task 3?", "password", "a question that is longer than the others"]
    WATCHED.clear()
    for question in questions:
        client.post("/v1/search", json={"query": question})
    columns = {"question": questions, "chunks": [[0]] * len(questions)}
    pq.write_table(pa.table(columns, schema=data.QUESTIONS_SCHEMA), tmp_path / data.QUESTIONS)
    shutil.copyfile(version / "tokenizer.json", tmp_path / "tokenizer.json")
    trained = workload.input_features(None, Prepared(tmp_path, "", DataReport(0, 0)))
    assert trained["question_tokens"] == [one["question_tokens"][0] for one in WATCHED]


def test_the_example_works(client: TestClient, version: Path) -> None:
    for example in workload.examples(version):
        assert client.post(example.path, json=dict(example.body)).json()["results"]


def test_openais_own_client_gets_the_embeddings_of_the_retriever(app: FastAPI, version: Path) -> None:
    texts = ["reset the password", "the printer", "paper"]

    async def ask() -> Any:
        transport = httpx.ASGITransport(app=app)
        async with AsyncOpenAI(
            base_url="http://kb/v1", api_key="none", http_client=httpx.AsyncClient(transport=transport)
        ) as client:
            # Without a format its client asks for base64, and decodes it.
            return await client.embeddings.create(model="help", input=texts), await client.embeddings.create(
                model="kb@3", input=texts[0], encoding_format="float"
            )

    several, one = asyncio.run(ask())
    expected = KnowledgeRetriever(version, OnnxRuntime("cpu", 1), IDENTITY).embed(texts)
    assert [item.index for item in several.data] == [0, 1, 2]
    assert np.array([item.embedding for item in several.data], np.float32) == pytest.approx(
        expected, abs=1e-7
    )
    assert one.data[0].embedding == pytest.approx(expected[0].tolist(), abs=1e-7)
    assert several.usage.prompt_tokens == several.usage.total_tokens > one.usage.prompt_tokens
    assert several.model == "kb"


def test_base64_is_little_endian_float32(client: TestClient) -> None:
    body = {"model": "kb", "input": "paper"}
    floats = client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    coded = client.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    assert np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4").tolist() == floats


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        ({"model": "other", "input": "x"}, 404, "model", "allowed: kb, kb@3, help"),
        ({"model": "kb", "input": "the " * 300}, 400, "input", "saw 302 word pieces; allowed: 256"),
        ({"model": "kb", "input": "x", "dimensions": 8}, 400, "dimensions", "saw 8; allowed: 16"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    client: TestClient, body: dict[str, Any], status: int, param: str, says: str
) -> None:
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "kb", "input": ""}),
        ("/v1/embeddings", {"model": "kb", "input": []}),
        ("/v1/embeddings", {"model": "kb", "input": [[1, 2]]}),
        ("/v1/embeddings", {"model": "kb", "input": ["x"] * 257}),
        ("/v1/embeddings", {"model": "kb", "input": "x", "encoding_format": "int8"}),
        ("/v1/search", {"query": "x", "num_results": 0}),
        ("/v1/search", {"query": "x", "min_score": 2}),
        ("/v1/search", {"query": "x", "limit": 3}),
        ("/v1/search", {}),
    ],
)
def test_bodies_of_another_shape_are_refused(client: TestClient, path: str, body: dict[str, Any]) -> None:
    assert client.post(path, json=body).status_code == 422  # the platform makes a 400 of it


def test_a_search_for_another_model_or_for_too_much_text_is_refused(client: TestClient) -> None:
    assert client.post("/v1/search", json={"query": "x", "model": "other"}).status_code == 404
    assert client.post("/v1/search", json={"query": "the " * 300}).status_code == 400
