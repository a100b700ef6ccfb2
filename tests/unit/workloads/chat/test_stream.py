"""Streams over an engine that is played by hand: pieces come, or do not, exactly when a test says so."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi import Request

from mizzen.errors import MizzenError, OverloadedError, ServingError
from mizzen.workloads.chat import stream
from mizzen.workloads.chat.answers import ChatForm
from mizzen.workloads.chat.generation import Piece, Sink
from mizzen.workloads.chat.grammar import Grammar
from mizzen.workloads.chat.sampling import Sampling
from mizzen.workloads.chat.stream import Stream
from mizzen.workloads.contract import Meter
from mizzen.workloads.handed import METER

HEAD = {"id": "chatcmpl-1", "created": 1, "model": "chat@1", "system_fingerprint": "f"}
PROMPT = [1, 2, 3]
WORDS = [Piece("Hel", 1), Piece("lo", 2), Piece("", 3, "stop")]
GONE = {"type": "http.disconnect"}


class Played:
    """An engine, and the one generation that it makes."""

    def __init__(
        self, pieces: Sequence[Piece | MizzenError] = (), refusal: MizzenError | None = None
    ) -> None:
        self.pieces = pieces
        self.refusal = refusal
        self.num_generated = 0
        self.cancelled = False
        self.may_submit = threading.Event()
        self.may_submit.set()
        self.submitting = threading.Event()

    def submit(self, prompt: list[int], sampling: Sampling, sink: Sink, *, sharer: str) -> Played:
        self.submitting.set()
        assert self.may_submit.wait(10)
        if self.refusal is not None:
            raise self.refusal
        for piece in self.pieces:
            self.num_generated = getattr(piece, "num_tokens", self.num_generated)
            sink(piece)
        return self

    def cancel(self) -> None:
        self.cancelled = True


class Client:
    """Sends nothing more, and takes what is sent until it goes away."""

    def __init__(self, *, leaves: bool = False) -> None:
        self.leaves = asyncio.Event()
        if leaves:
            self.leaves.set()
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        await self.leaves.wait()
        return GONE

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def text(self) -> str:
        return b"".join(m["body"] for m in self.sent if m["type"] == "http.response.body").decode()


def form() -> ChatForm:
    return ChatForm(HEAD, with_usage=True, with_logprobs=False)


def prepare(
    engine: Played, client: Client, *, piecewise: bool, **fields: Any
) -> tuple[Stream, Request, Meter]:
    meter = Meter()
    scope = {"type": "http", METER: meter}
    sampling = Sampling(max_tokens=9, **fields)
    one = Stream(engine, PROMPT, sampling, scope, piecewise=piecewise)  # type: ignore[arg-type] # played
    return one, Request(scope, client.receive), meter


async def play(
    engine: Played, *, streamed: bool, leaves: bool = False, **fields: Any
) -> tuple[Any, Client, Meter]:
    """The response, sent to a client, and what it cost."""
    client = Client(leaves=leaves)
    one, request, meter = prepare(engine, client, piecewise=streamed, **fields)
    response = await (stream.in_events if streamed else stream.whole)(one, form(), request)
    await response({"type": "http"}, client.receive, client.send)
    return response, client, meter


def test_a_whole_answer_joins_its_pieces_and_counts_its_tokens() -> None:
    engine = Played(WORDS)
    response, client, meter = asyncio.run(play(engine, streamed=False))
    body = json.loads(client.text)
    assert response.status_code == 200 and body["choices"][0]["message"]["content"] == "Hello"
    assert body["usage"]["total_tokens"] == meter.num_tokens == len(PROMPT) + 3


def test_a_stream_sends_pieces_as_they_come_and_ends_with_done() -> None:
    _, client, meter = asyncio.run(play(Played(WORDS), streamed=True))
    events = [event.removeprefix("data: ") for event in client.text.split("\n\n") if event]
    assert events[-1] == "[DONE]" and json.loads(events[-2])["usage"]["total_tokens"] == meter.num_tokens == 6
    assert len(client.sent) > 3  # not all at once


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_leaves_before_the_first_piece_ends_its_generation(streamed: bool) -> None:
    engine = Played()
    response, _, meter = asyncio.run(play(engine, streamed=streamed, leaves=True))
    assert response.status_code == stream.CLIENT_CLOSED_REQUEST and engine.cancelled
    assert meter.num_tokens == len(PROMPT)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_whose_time_is_over_ends_its_generation(streamed: bool) -> None:
    engine = Played()

    async def run() -> None:
        await asyncio.wait_for(play(engine, streamed=streamed), 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert engine.cancelled


def test_what_was_made_is_counted_when_the_client_leaves_in_the_middle() -> None:
    engine = Played(WORDS[:2])

    async def run() -> Meter:
        client = Client()
        one, request, meter = prepare(engine, client, piecewise=True)
        response = await stream.in_events(one, form(), request)
        answering = asyncio.create_task(response({"type": "http"}, client.receive, client.send))
        while "lo" not in client.text:
            await asyncio.sleep(0)
        engine.num_generated = 5  # the engine was faster than the client
        client.leaves.set()
        await answering
        return meter

    assert asyncio.run(run()).num_tokens == len(PROMPT) + 5
    assert engine.cancelled


def test_a_stream_that_never_begins_to_be_sent_ends_its_generation() -> None:
    engine = Played(WORDS[:1])

    async def broken(_: Any) -> None:
        raise OSError("the connection is reset")

    async def run() -> None:
        client = Client()
        one, request, _ = prepare(engine, client, piecewise=True)
        response = await stream.in_events(one, form(), request)
        await response({"type": "http", "asgi": {"spec_version": "2.4"}}, client.receive, broken)

    with pytest.raises(Exception):  # noqa: B017 # whatever Starlette makes of it
        asyncio.run(run())
    assert engine.cancelled


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "engine",
    [Played(refusal=OverloadedError("the queue is full")), Played([ServingError("the model failed")])],
)
def test_an_error_before_the_first_piece_is_an_answer_of_its_own(engine: Played, streamed: bool) -> None:
    with pytest.raises(MizzenError, match=r"full|failed"):
        asyncio.run(play(engine, streamed=streamed))


def test_an_error_in_the_middle_of_a_stream_is_told_in_it_and_nothing_comes_after() -> None:
    _, client, _ = asyncio.run(
        play(Played([*WORDS[:2], ServingError("the model failed", saw="x")]), streamed=True)
    )
    last = client.text.split("\n\n")[-2]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error == {"message": "the model failed", "type": "server_error", "param": None, "code": None}
    assert "[DONE]" not in client.text


@pytest.mark.parametrize("fields", [{"grammar": Grammar.any_json()}, {"logprobs": 0}])
def test_the_event_loop_stays_free_while_a_grammar_is_compiled(fields: dict[str, Any]) -> None:
    engine = Played(WORDS)
    engine.may_submit.clear()

    async def run() -> str:
        playing = asyncio.create_task(play(engine, streamed=False, **fields))
        await asyncio.to_thread(engine.submitting.wait, 10)
        engine.may_submit.set()  # would never happen if the loop waited for it
        return (await playing)[1].text

    assert "Hello" in asyncio.run(run())


def test_a_generation_that_is_queued_after_its_request_was_cancelled_ends_too() -> None:
    engine = Played(WORDS[:1])
    engine.may_submit.clear()

    async def run() -> None:
        playing = asyncio.create_task(play(engine, streamed=False, grammar=Grammar.any_json()))
        await asyncio.to_thread(engine.submitting.wait, 10)
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing
        assert not engine.cancelled
        engine.may_submit.set()
        async with asyncio.timeout(10):
            while not engine.cancelled:
                await asyncio.sleep(0.001)

    asyncio.run(run())
