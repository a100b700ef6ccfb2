"""What is too late is cancelled and answered with 504, or its stream is ended."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mizzen.errors import DeadlineError, RequestError
from mizzen.serving import deadline
from mizzen.serving.deadline import Deadline, remaining_s, shorten
from mizzen.serving.middleware import OUTCOME

SOON_S = 0.02
SSE = [(b"content-type", b"text/event-stream; charset=utf-8")]


class Slow:
    """Sends what it is given, then waits for ever; knows whether it was cancelled."""

    def __init__(self, *bodies: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        self.bodies = bodies
        self.headers = headers or []
        self.cancelled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        for body in self.bodies:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def quick(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


def test_an_answer_in_time_passes_unchanged(call):
    answered = asyncio.run(call().to(Deadline(quick, 5, 5)))
    assert (answered.status, answered.body) == (200, b"done")


def test_what_takes_too_long_is_cancelled_before_a_byte_of_it_is_out(call):
    app, request = Slow(), call()
    with pytest.raises(DeadlineError, match=r"allowed: 0.02 s"):
        asyncio.run(request.to(Deadline(app, SOON_S, 5)))
    assert app.cancelled
    assert request.sent == []


def test_a_failure_before_the_first_byte_can_still_be_told_with_a_status(call):
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("no first byte")

    request = call()
    with pytest.raises(ValueError, match="no first byte"):
        asyncio.run(request.to(Deadline(failing, 5, 5)))
    assert request.sent == []


def test_a_stream_that_has_begun_has_a_deadline_of_its_own_and_ends_with_an_error_event(call):
    app = Slow(b"data: 1\n\n", headers=SSE)
    answered = asyncio.run(call().to(Deadline(app, 0.01, SOON_S)))
    assert app.cancelled
    assert answered.status == 200
    first, last = [line for line in answered.body.decode().split("\n\n") if line]
    assert first == "data: 1"
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "deadline_exceeded")
    assert answered.sent[-1].get("more_body", False) is False
    assert answered.scope[OUTCOME] == 504


def test_a_client_that_does_not_read_the_end_either_is_cut_off(call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deadline, "_LAST_WORD_S", SOON_S)
    server = Deadline(Slow(b"data: 1\n\n", headers=SSE), 0.01, SOON_S)

    async def without_room(scope: Scope, receive: Receive, send: Send) -> None:
        async def stuck(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        async with asyncio.timeout(10):
            await server(scope, receive, stuck)

    with pytest.raises(DeadlineError, match="for a stream"):
        asyncio.run(call().to(without_room))


def test_any_other_stream_that_is_too_late_breaks_off(call):
    app, request = Slow(b"half"), call()
    with pytest.raises(DeadlineError, match="for a stream"):
        asyncio.run(request.to(Deadline(app, 5, SOON_S)))
    assert [message.get("body") for message in request.sent] == [None, b"half"]


@pytest.mark.parametrize("app", [Slow(), Slow(b"data: 1\n\n")])
def test_a_client_may_ask_for_less_time_and_never_gets_more(call, app: ASGIApp):
    with pytest.raises(DeadlineError):
        asyncio.run(call(headers=[(b"mizzen-timeout-s", b"0.02")]).to(Deadline(app, 60, 60)))
    with pytest.raises(DeadlineError):
        asyncio.run(call(headers=[(b"mizzen-timeout-s", b"1000")]).to(Deadline(app, SOON_S, SOON_S)))


@pytest.mark.parametrize("text", [b"", b"0", b"0.0", b"-1", b"nan", b"inf", b"1e3", b"soon", b"9" * 400])
def test_a_time_that_is_none_is_refused(call, text):
    with pytest.raises(RequestError, match="mizzen-timeout-s"):
        asyncio.run(call(headers=[(b"mizzen-timeout-s", text)]).to(Deadline(quick, 5, 5)))


def test_whoever_works_on_a_request_can_ask_how_much_time_is_left_and_give_less(call):
    seen: list[float | None] = []

    async def asking(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(remaining_s(scope))
        shorten(scope, 1000)
        shorten(scope, 2)
        shorten(scope, 3)
        seen.append(remaining_s(scope))
        await quick(scope, receive, send)

    asyncio.run(call().to(Deadline(asking, 5, 5)))
    assert seen[0] is not None and 4.5 < seen[0] <= 5
    assert seen[1] is not None and 1.5 < seen[1] <= 2
    assert remaining_s({}) is None


def test_a_timeout_of_the_applications_own_is_not_taken_for_ours(call):
    async def own(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError("the store did not answer")

    with pytest.raises(TimeoutError, match="the store"):
        asyncio.run(call().to(Deadline(own, 5, 5)))
