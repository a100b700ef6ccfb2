"""The endpoint over a tiny exported model, inside the application that serves it, called without sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mizzen.metrics import ServedMetrics
from mizzen.serving.http import Facts, Limits, http_app
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.chat.endpoint import ChatEndpoint
from mizzen.workloads.chat.options import ChatOptions
from mizzen.workloads.contract import ModelIdentity, ServedModel

IDENTITY = ModelIdentity("helper", 3, "a" * 64)
LIMITS = Limits(max_ongoing_requests=100, max_queued_requests=100, max_request_bytes=1 << 20)
MESSAGES = [{"role": "user", "content": "My printer does not print."}]


def no_batching(function: Any) -> Any:
    raise AssertionError("chat batches by itself")


@asynccontextmanager
async def serving(folder: Path, **options: Any) -> AsyncIterator[tuple[httpx.AsyncClient, ChatEndpoint]]:
    model = ServedModel(
        IDENTITY,
        folder,
        OnnxRuntime("CPUExecutionProvider", 1),
        no_batching,
        "support",
        {"created_at": 1.7e9},
    )
    endpoint = ChatEndpoint(model, ChatOptions(max_context=200, **options))
    await endpoint.start()
    try:
        app = http_app(
            IDENTITY, endpoint, ServedMetrics("support", "helper", 3), LIMITS, Facts("Helps.", "chat")
        )
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client, endpoint
    finally:
        await endpoint.close()


def ask(folder: Path, *bodies: dict[str, Any], **options: Any) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with serving(folder, **options) as (client, _):
            posts = [client.post("/v1/chat/completions", json={"model": "helper", **body}) for body in bodies]
            return list(await asyncio.gather(*posts))

    return asyncio.run(run())


def events(response: httpx.Response) -> Iterator[Any]:
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return (json.loads(line.removeprefix("data: ")) for line in lines[:-1])


def greedy(**fields: Any) -> dict[str, Any]:
    return {"messages": MESSAGES, "temperature": 0, "max_tokens": 20, **fields}


def test_a_whole_answer_and_a_stream_say_the_same(tiny_export: Path) -> None:
    whole, streamed = ask(tiny_export, greedy(), greedy(stream=True, stream_options={"include_usage": True}))
    body = whole.json()
    assert body["object"] == "chat.completion" and body["model"] == "helper@3"
    choice = body["choices"][0]
    assert choice["message"]["role"] == "assistant" and choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 20
    assert streamed.headers["content-type"].startswith("text/event-stream")
    chunks = list(events(streamed))
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]]
    assert "".join(texts) == choice["message"]["content"] != ""
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"] == body["usage"] and chunks[-1]["choices"] == []
    assert whole.headers["mizzen-version"] == streamed.headers["mizzen-version"] == "3"


def test_the_same_seed_repeats_an_answer_and_another_does_not(tiny_export: Path) -> None:
    drawn = [greedy(temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    texts = [r.json()["choices"][0]["message"]["content"] for r in ask(tiny_export, *drawn)]
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_text_ends_the_answer_before_it(tiny_export: Path) -> None:
    text = ask(tiny_export, greedy())[0].json()["choices"][0]["message"]["content"]
    stop = text[5:8]
    choice = ask(tiny_export, greedy(stop=stop))[0].json()["choices"][0]
    assert choice["message"]["content"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_more_requests_than_slots_are_all_answered_as_alone(tiny_export: Path) -> None:
    bodies = [greedy(messages=[{"role": "user", "content": "Hello " * i}]) for i in range(1, 9)]
    together = ask(tiny_export, *bodies, max_concurrent=3)
    alone = [ask(tiny_export, body)[0] for body in bodies[::3]]
    texts = [r.json()["choices"][0]["message"]["content"] for r in together]
    assert texts[::3] == [r.json()["choices"][0]["message"]["content"] for r in alone]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "gpt-4o"}, 404, "model"),
        ({"n": 2}, 400, "n"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"wisdom": 3}, 400, "wisdom"),
        ({"messages": [{"role": "user", "content": "Hello " * 200}]}, 400, "messages"),
        ({"max_tokens": 190}, 400, "messages"),
        ({"max_tokens": 10**400}, 400, "max_tokens"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_in_openais_shape(
    tiny_export: Path, fields: dict[str, Any], status: int, param: str
) -> None:
    response = ask(tiny_export, greedy(**fields))[0]
    error = response.json()["error"]
    assert response.status_code == status
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_malformed_json_is_a_bad_request(tiny_export: Path) -> None:
    async def run() -> httpx.Response:
        async with serving(tiny_export) as (client, _):
            headers = {"content-type": "application/json"}
            return await client.post("/v1/chat/completions", content=b"{", headers=headers)

    assert asyncio.run(run()).status_code == 400


def test_a_full_queue_answers_429_also_where_a_stream_was_asked_for(tiny_export: Path) -> None:
    bodies = [greedy(max_tokens=100, stream=i % 2 == 0) for i in range(12)]
    answers = ask(tiny_export, *bodies, max_concurrent=1, max_waiting=1)
    codes = [response.status_code for response in answers]
    assert codes.count(200) >= 2 and set(codes) == {200, 429}
    refused = next(response for response in answers if response.status_code == 429)
    assert refused.json()["error"]["type"] == "rate_limit_error" and "retry-after" in refused.headers


def test_models_are_listed_under_every_name_that_is_answered(tiny_export: Path) -> None:
    async def run() -> list[httpx.Response]:
        async with serving(tiny_export) as (client, _):
            paths = ["", "/helper", "/helper@3", "/support", "/other"]
            return [await client.get(f"/v1/models{path}") for path in paths]

    listed, *shown, missing = asyncio.run(run())
    assert [model["id"] for model in listed.json()["data"]] == ["helper", "helper@3", "support"]
    assert [r.json()["id"] for r in shown] == ["helper", "helper@3", "support"]
    assert shown[0].json()["created"] == 1_700_000_000
    assert missing.status_code == 404 and missing.json()["error"]["param"] == "model"
