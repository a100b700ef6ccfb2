"""One request from the client to the engine is one trace: a real ONNX graph, a real collector."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from fastapi import APIRouter
from onnx import TensorProto, helper
from starlette.types import ASGIApp

import mizzen
from mizzen import tracing
from mizzen.recording import ServedMetrics
from mizzen.serving.batching import ServeBatching
from mizzen.serving.http import Facts, Limits, http_app
from mizzen.serving.sessions import Sessions
from mizzen.serving.spec import Batching
from mizzen.serving.tensor_model import TensorModel
from mizzen.workloads.contract import Endpoint, ModelIdentity, Signature, TensorSpec

IDENTITY = ModelIdentity("doubler", 3, "e" * 64)
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),))
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
SERVER = 2
"""OTLP's number of the kind."""
Trace = Callable[..., Any]


class Doubler(Endpoint):
    """Answers by the Open Inference Protocol alone, and with routes that fail."""

    def __init__(self) -> None:
        self.router = APIRouter()
        self.router.add_api_route("/v1/users/{user_id}", self.user, methods=["GET"])

    async def user(self, user_id: str) -> None:
        raise KeyError(user_id)


def doubler(folder: Path, places: int = 8) -> ASGIApp:
    """An application around a graph that doubles, for `places` requests at once."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubler", [x], [y])
    file = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    metrics = ServedMetrics("shop", "doubler", 3)
    batching = ServeBatching(Batching(max_batch_size=8, wait_s=0.05), metrics.recorder)
    predict = Sessions("cpu", 1).session(file).run
    tensors = TensorModel(IDENTITY, "shop", SIGNATURE, predict, batching, max_rows=8)
    limits = Limits(max_ongoing_requests=places, max_queued_requests=8, max_request_bytes=4096)
    return http_app(IDENTITY, Doubler(), metrics, limits, Facts("Doubles.", "doubler"), tensors=tensors)


def body() -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}


async def infer(app: ASGIApp, num_requests: int = 1) -> list[dict[str, Any]]:
    transport = httpx.ASGITransport(app, root_path="/shop")
    async with mizzen.AsyncClient("http://test", transport=transport) as client:
        shop = client.applications.at("/shop")
        asked = [shop.post("/v2/models/doubler/infer", body()) for _ in range(num_requests)]
        return list(await asyncio.gather(*asked))


def ask(app: ASGIApp, path: str, **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, root_path="/shop", raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(f"/shop{path}", headers=headers)

    return asyncio.run(send())


def test_client_server_batch_and_engine_are_one_trace(trace: Trace, tmp_path: Path) -> None:
    collected = trace()
    app = doubler(tmp_path)
    with tracing.span("caller"):
        (answer,) = asyncio.run(infer(app))
    tracing.stop()
    assert answer["outputs"][0]["data"] == [2.0, 4.0]
    caller = collected.one("caller")
    server = collected.one("POST /shop/v2/models/{name}/infer")
    batch, engine, wait = collected.one("batch"), collected.one("engine"), collected.one("queue")
    assert {one.trace_id for one in collected.spans} == {caller.trace_id}
    assert server.parent_id == caller.span_id
    assert batch.parent_id == wait.parent_id == server.span_id
    assert engine.parent_id == batch.span_id
    assert server.kind == SERVER
    assert server.attributes["http.route"] == "/shop/v2/models/{name}/infer"
    assert server.attributes["http.response.status_code"] == 200
    assert server.attributes["mizzen.app"] == "shop"
    assert server.attributes["mizzen.version"] == "3"
    assert engine.attributes["mizzen.provider"] == "CPUExecutionProvider"
    assert server.start_ns <= wait.start_ns <= wait.end_ns <= batch.end_ns <= server.end_ns


def test_requests_that_share_a_batch_are_linked_with_it(trace: Trace, tmp_path: Path) -> None:
    collected = trace()
    asyncio.run(infer(doubler(tmp_path), num_requests=3))
    tracing.stop()
    servers = collected.named("POST /shop/v2/models/{name}/infer")
    batch = collected.one("batch")
    assert len({one.trace_id for one in servers}) == 3
    assert batch.attributes["mizzen.batch_size"] == 3
    assert {batch.parent_id, *batch.links} == {one.span_id for one in servers}
    assert [wait.links for wait in collected.named("queue")] == [[batch.span_id]] * 3


def test_a_wait_for_a_place_is_a_span_and_no_wait_is_none(trace: Trace, tmp_path: Path) -> None:
    collected = trace()
    asyncio.run(infer(doubler(tmp_path, places=1), num_requests=2))
    tracing.stop()
    waits = [one for one in collected.named("queue") if one.attributes["mizzen.queue"] == "admission"]
    assert len(waits) == 1
    assert waits[0].end_ns - waits[0].start_ns > 10e6  # as long as the first one's batch waited


def test_the_callers_context_goes_in_and_ours_comes_back(trace: Trace, tmp_path: Path) -> None:
    collected = trace()
    app = doubler(tmp_path)
    answer = ask(app, "/v2/models/doubler", traceparent=CALLER, tracestate="vendor=1")
    orphan = ask(app, "/v2/models/doubler", traceparent="00-nonsense")
    tracing.stop()
    first, second = collected.named("GET /shop/v2/models/{name}")
    assert (first.trace_id, first.parent_id) == (TRACE_ID, "00f067aa0ba902b7")
    assert answer.headers["traceresponse"] == f"00-{TRACE_ID}-{first.span_id}-01"
    assert not second.parent_id
    assert second.trace_id in orphan.headers["traceresponse"]


def test_what_the_caller_did_not_sample_is_not_sent(trace: Trace, tmp_path: Path) -> None:
    collected = trace()
    answer = ask(doubler(tmp_path), "/v2/models/doubler", traceparent=CALLER[:-2] + "00")
    tracing.stop()
    assert "traceresponse" not in answer.headers
    assert collected.spans == []


def test_errors_are_marked_and_neither_path_nor_exception_is_told(trace: Trace, tmp_path: Path) -> None:
    collected = trace()
    app = doubler(tmp_path)
    broken = ask(app, "/v1/users/alice@example.com?q=private", **{"x-request-id": "abc"})
    missing = ask(app, "/no/such/bob@example.com")
    assert (broken.status_code, missing.status_code) == (500, 404)
    tracing.stop()
    failed, unknown = collected.one("GET /shop/v1/users/{user_id}"), collected.one("GET")
    assert failed.failed
    assert failed.attributes["error.type"] == "500"
    assert failed.attributes["mizzen.request_id"] == "abc"
    assert not unknown.failed
    assert unknown.attributes["http.response.status_code"] == 404
    assert "http.route" not in unknown.attributes
    assert not any(word in body for body in collected.raw for word in (b"alice", b"bob", b"private"))


def test_probes_and_scrapes_have_no_spans(trace: Trace, tmp_path: Path) -> None:
    collected = trace()
    app = doubler(tmp_path)
    for path in ("/healthz", "/readyz", "/metrics", "/v2/health/ready"):
        assert ask(app, path).status_code == 200
    tracing.stop()
    assert collected.num_requests == 0


def test_off_nothing_is_sent_and_sessions_are_plain(collector: Any, tmp_path: Path) -> None:
    app = doubler(tmp_path)
    (answer,) = asyncio.run(infer(app))
    assert answer["outputs"][0]["data"] == [2.0, 4.0]
    assert "traceresponse" not in ask(app, "/v2/models/doubler", traceparent=CALLER).headers
    session = Sessions("cpu", 1).session(tmp_path / "model.onnx")
    assert type(session).__name__ == "OnnxSession"
    assert np.array_equal(session.run({"x": np.ones((1, 2), np.float32)})["y"], [[2.0, 2.0]])
    assert collector.num_requests == 0


def test_a_sampled_request_is_an_exemplar_of_its_duration(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[dict[str, Any]] = []
    trace()
    app = doubler(tmp_path)
    monkeypatch.setattr(ServedMetrics, "finished", lambda self, **about: finished.append(about))
    ask(app, "/v2/models/doubler", traceparent=CALLER)
    ask(app, "/v2/models/doubler", traceparent=CALLER[:-2] + "00")
    assert [about["trace_id"] for about in finished] == [TRACE_ID, None]
