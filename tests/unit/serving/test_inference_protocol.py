"""The Open Inference Protocol over a small model: what works, and what is refused with what to do."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import APIRouter
from starlette.types import ASGIApp

from mizzen import settings
from mizzen.errors import RequestError, ServingError
from mizzen.recording import ServedMetrics
from mizzen.serving.http import Facts, Limits, http_app
from mizzen.serving.tensor_model import TensorModel
from mizzen.workloads.contract import Endpoint, ModelIdentity, Signature, TensorSpec

LIMITS = Limits(max_ongoing_requests=4, max_queued_requests=0, max_request_bytes=4096)
IDENTITY = ModelIdentity("scores", 3, "e" * 64)
SIGNATURE = Signature(
    inputs=(TensorSpec("history", "INT64", (-1, -1)), TensorSpec("weight", "FP32", (-1, 2))),
    outputs=(TensorSpec("scores", "FP32", (-1, 2)), TensorSpec("length", "INT64", (-1,))),
)
Tensors = dict[str, np.ndarray[Any, Any]]


class Scores:
    """Multiplies sums of histories with weights; knows what it was called with."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, inputs: Any) -> Tensors:
        history_BL, weight_BD = inputs["history"], inputs["weight"]
        self.calls.append(len(history_BL))
        if (history_BL > 100).any():
            raise ServingError("ONNX Runtime failed: indices element out of data bounds")
        if history_BL.shape[1] > 10:
            raise RequestError("history is too long", saw=history_BL.shape[1], allowed="10")
        scores_BD = history_BL.sum(1, keepdims=True).astype(np.float32) * weight_BD
        return {"scores": scores_BD, "length": np.full(len(history_BL), history_BL.shape[1], np.int64)}


def one_by_one(function: Callable[[list[Any]], list[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """The contract's `Batching`, of one item each."""

    async def ask(item: Any) -> Any:
        (answer,) = function([item])
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


class Plain(Endpoint):
    def __init__(self) -> None:
        self.router = APIRouter()
        self.broken: str | None = None

    def problem(self) -> str | None:
        return self.broken


@pytest.fixture
def endpoint() -> Plain:
    return Plain()


@pytest.fixture
def app(endpoint: Plain, tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ASGIApp]:
    monkeypatch.setenv("MIZZEN_HOME", str(tmp_path))
    settings.current.cache_clear()
    tensors = TensorModel(IDENTITY, "shop", SIGNATURE, Scores(), one_by_one, max_rows=4)
    recorder, facts = ServedMetrics("shop", "scores", 3), Facts("Scores.", "scoring")
    yield http_app(IDENTITY, endpoint, recorder, LIMITS, facts, tensors=tensors)
    settings.current.cache_clear()


def ask(app: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path="/shop")
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, f"/shop{path}", **options)

    return asyncio.run(send())


def request(**changes: Any) -> dict[str, Any]:
    history = {"name": "history", "shape": [2, 3], "datatype": "INT64", "data": [1, 2, 3, 4, 5, 6]}
    weight = {"name": "weight", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [0.5, 0]]}
    return {"inputs": [history, weight], **changes}


def infer(app: ASGIApp, body: Any, path: str = "/v2/models/scores/infer") -> httpx.Response:
    return ask(app, "POST", path, json=body)


def test_who_and_what_is_there_is_told(app):
    server = ask(app, "GET", "/v2").json()
    assert server["name"] == "mizzen"
    assert server["extensions"] == ["binary_tensor_data"]
    for name in ("scores", "shop"):
        shown = ask(app, "GET", f"/v2/models/{name}").json()
        assert (shown["name"], shown["versions"]) == (name, ["3"])
        assert shown["inputs"][1] == {"name": "weight", "datatype": "FP32", "shape": [-1, 2]}
    assert ask(app, "GET", "/v2/models/scores/versions/3").json()["outputs"][1]["name"] == "length"


def test_health_follows_the_model(app, endpoint):
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/scores/ready",
        "/v2/models/shop/versions/3/ready",
    ):
        assert ask(app, "GET", path).status_code == 200
    endpoint.broken = "the model failed"
    assert ask(app, "GET", "/v2/health/live").status_code == 200
    for path in ("/v2/health/ready", "/v2/models/scores/ready"):
        refused = ask(app, "GET", path)
        assert (refused.status_code, refused.json()) == (503, {"error": "the model failed"})


def test_tensors_go_in_and_come_out_as_json(app):
    answer = infer(app, request(id="my-1"))
    assert answer.status_code == 200
    assert answer.json() == {
        "model_name": "scores",
        "model_version": "3",
        "id": "my-1",
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [2, 2], "data": [6.0, 12.0, 7.5, 0.0]},
            {"name": "length", "datatype": "INT64", "shape": [2], "data": [3, 3]},
        ],
    }
    assert answer.headers["mizzen-version"] == "3"


def test_only_the_outputs_that_are_wanted_come_in_their_order(app):
    wanted = [{"name": "length"}]
    outputs = infer(app, request(outputs=wanted), "/v2/models/shop/versions/3/infer").json()["outputs"]
    assert [one["name"] for one in outputs] == ["length"]


def binary(history: Any, weight: Any, **changes: Any) -> tuple[bytes, dict[str, str]]:
    raw = [np.asarray(history, "<i8"), np.asarray(weight, "<f4")]
    inputs = [
        {"name": n, "shape": list(a.shape), "datatype": d, "parameters": {"binary_data_size": a.nbytes}}
        for n, d, a in zip(("history", "weight"), ("INT64", "FP32"), raw, strict=True)
    ]
    header = json.dumps({"inputs": inputs, **changes}).encode()
    headers = {
        "inference-header-content-length": str(len(header)),
        "content-type": "application/octet-stream",
    }
    return b"".join([header, *(a.tobytes() for a in raw)]), headers


def test_tensors_go_in_and_come_out_as_bytes(app):
    body, headers = binary([[1, 2, 3]], [[1, 2]], parameters={"binary_data_output": True})
    answer = ask(app, "POST", "/v2/models/scores/infer", content=body, headers=headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    outputs = json.loads(answer.content[:length])["outputs"]
    assert [one["parameters"]["binary_data_size"] for one in outputs] == [8, 8]
    assert np.frombuffer(answer.content[length : length + 8], "<f4").tolist() == [6.0, 12.0]
    assert np.frombuffer(answer.content[length + 8 :], "<i8").tolist() == [3]


def test_bytes_and_json_can_be_mixed_and_packed(app):
    wanted = [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "length"}]
    body, headers = binary([[1, 2, 3]], [[1, 2]], outputs=wanted)
    packed = {**headers, "content-encoding": "gzip"}
    answer = ask(app, "POST", "/v2/models/scores/infer", content=gzip.compress(body), headers=packed)
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][1]["data"] == [3]
    assert len(answer.content) == length + 8


def changed(place: int, **changes: Any) -> dict[str, Any]:
    body = request()
    body["inputs"][place].update(changes)
    return body


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (changed(0, name="histories"), ["no such input", "histories", "history, weight"]),
        ({"inputs": request()["inputs"][:1]}, ["'weight' is missing"]),
        ({"inputs": [request()["inputs"][0]] * 2}, ["stands there twice"]),
        (changed(0, datatype="INT32"), ["'history'", "saw INT32", "allowed: INT64"]),
        (changed(1, shape=[2, 3]), ["'weight'", "saw [2, 3]", "[-1, 2]"]),
        (changed(1, shape=[1, 2], data=[1, 2]), ["first dimensions", "history: 2, weight: 1"]),
        (changed(0, data=None), ["'history'", "shape [0]"]),
        (changed(0, shape=[2, 2**40]), ["shape"]),
        (changed(0, data=[[101, 1, 1], [1, 1, 1]]), ["cannot be run on the values", "history int64[2, 3]"]),
        (changed(0, parameters={"shared_memory_region": "x"}), ["shared_memory_region", "not supported"]),
        (request(parameters={"sequence_id": 5}), ["sequence_id", "not supported"]),
        (request(parameters={"timeout": -1}), ["timeout"]),
        (request(parameters={"timeout": 10**400}), ["timeout", "microseconds"]),
        (request(parameters={"binary_data_output": 1}), ["binary_data_output"]),
        (request(outputs=[{"name": "nothing"}]), ["no such output", "scores, length"]),
        (request(outputs=[{"name": "scores", "parameters": {"classification": 3}}]), ["classification"]),
        (request(inputs=[]), ["inputs"]),
        (request(more=1), ["more", "no such field"]),
        ([], ["request"]),
    ],
)
def test_what_is_wrong_with_a_request_is_said_in_the_protocols_shape(app, body, words):
    refused = infer(app, body)
    assert refused.status_code == 400
    assert set(refused.json()) == {"error"}
    for word in words:
        assert word in refused.json()["error"]


def test_more_rows_than_a_batch_has_are_refused(app):
    refused = infer(
        app,
        changed(0, shape=[5, 1], data=[1] * 5)
        | {
            "inputs": [
                {"name": "history", "shape": [5, 1], "datatype": "INT64", "data": [1] * 5},
                {"name": "weight", "shape": [5, 2], "datatype": "FP32", "data": [1] * 10},
            ]
        },
    )
    assert refused.status_code == 400
    assert "saw 5; allowed: 4 (batching.max_batch_size)" in refused.json()["error"]


def test_what_the_model_itself_refuses_keeps_its_words(app):
    long = [
        {"name": "history", "shape": [1, 11], "datatype": "INT64", "data": [1] * 11},
        {"name": "weight", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]},
    ]
    refused = infer(app, {"inputs": long})
    assert (refused.status_code, refused.json()["error"]) == (400, "history is too long; saw 11; allowed: 10")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/other/infer", 404),
        ("/v2/models/scores/versions/2/infer", 404),
        ("/v2/models/scores/explain", 404),
    ],
)
def test_what_is_not_there_is_404_in_the_protocols_shape(app, path, status):
    refused = infer(app, request(), path)
    assert refused.status_code == status
    assert isinstance(refused.json()["error"], str)


def test_broken_bodies_are_refused(app):
    body, headers = binary([[1, 2, 3]], [[1, 2]])
    post = "/v2/models/scores/infer"
    for content, more, status in (
        (body[:-1], headers, 400),
        (body + b"x", headers, 400),
        (body, {**headers, "inference-header-content-length": "7"}, 400),
        (body, {**headers, "inference-header-content-length": "99999"}, 400),
        (body, {**headers, "inference-header-content-length": "-1"}, 400),
        (body, {**headers, "inference-header-content-length": "0" * 4400}, 400),
        (body, {**headers, "inference-header-content-length": "0" * 12 + "9" * 12}, 400),
        (b"", {}, 400),
        (b'{"inputs": [NaN]}', {}, 400),
        (b"x" * 5000, {}, 413),
        (body, {**headers, "content-type": "text/html"}, 415),
    ):
        refused = ask(app, "POST", post, content=content, headers=more)
        assert refused.status_code == status
        assert isinstance(refused.json()["error"], str)


def test_a_timeout_of_the_request_shortens_its_deadline(app, endpoint):
    waiting = TensorModel(
        IDENTITY, "shop", SIGNATURE, Scores(), lambda _: lambda _: asyncio.Event().wait(), 4
    )  # type: ignore[arg-type,return-value] # never answers
    recorder, facts = ServedMetrics("shop", "scores", 3), Facts("Scores.", "scoring")
    slow = http_app(IDENTITY, endpoint, recorder, LIMITS, facts, tensors=waiting)
    refused = infer(slow, request(parameters={"timeout": 10_000}))
    assert refused.status_code == 504
    assert "not ready in time" in refused.json()["error"]


def test_a_model_without_a_signature_has_no_such_paths(endpoint):
    recorder, facts = ServedMetrics("shop", "scores", 3), Facts("Scores.", "scoring")
    plain = http_app(IDENTITY, endpoint, recorder, LIMITS, facts)
    refused = ask(plain, "GET", "/v2/models/scores")
    assert refused.status_code == 404
    assert "there is nothing at this path" in refused.json()["error"]


def tensors(rows: int, length: int, value: int = 1) -> Tensors:
    return {"history": np.full((rows, length), value, np.int64), "weight": np.ones((rows, 2), np.float32)}


def run_together(requests: list[Tensors], max_rows: int = 4) -> tuple[list[Any], list[int]]:
    found: list[Callable[[list[Any]], list[Any]]] = []

    def keep(function: Any) -> Any:
        found.append(function)

    model = Scores()
    TensorModel(IDENTITY, "shop", SIGNATURE, model, keep, max_rows)
    return found[0](requests), model.calls


def test_requests_of_the_same_shape_share_a_call_and_each_gets_its_own_rows():
    answers, calls = run_together([tensors(1, 3, 1), tensors(1, 5, 2), tensors(2, 3, 3)])
    assert sorted(calls) == [1, 3]
    assert [answer["scores"][:, 0].tolist() for answer in answers] == [[3.0], [10.0], [9.0, 9.0]]
    assert [answer["length"].tolist() for answer in answers] == [[3], [5], [3, 3]]


def test_no_call_has_more_rows_than_a_batch():
    answers, calls = run_together([tensors(2, 3) for _ in range(5)])
    assert calls == [4, 4, 2]
    assert all(len(answer["scores"]) == 2 for answer in answers)


def test_a_request_that_the_model_fails_on_does_not_spoil_the_others():
    answers, _ = run_together([tensors(1, 3, 1), tensors(1, 3, 101), tensors(1, 3, 2)])
    assert [answers[0]["scores"][0, 0], answers[2]["scores"][0, 0]] == [3.0, 6.0]
    assert isinstance(answers[1], RequestError)
