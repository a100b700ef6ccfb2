from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import closing
from typing import Any

import httpx
import numpy as np
import pytest

import mizzen
from mizzen.client import errors
from mizzen.client.applications import Health, ready
from mizzen.client.calls import Call
from mizzen.client.chat import ChatChunk, stream
from mizzen.client.forecasting import forecast
from mizzen.client.sending import RETRIED, AsyncSender, Options, Sender

HEALTH = {"status": "ready", "model": "films", "version": 3}
KEY = "mz_abc_0123456789abcdef0123456789abcdef"


def options(url: str, **changes: Any) -> Options:
    fields = {"api_key": KEY, "timeout_s": 10.0, "max_retries": 2, "first_wait_s": 0.0, **changes}
    return Options(url, **fields)


def send(sender: type[Sender | AsyncSender], with_options: Options, call: Call[Any]) -> Any:
    """The answer of either client."""
    if sender is Sender:
        with closing(Sender(with_options)) as one:
            return one.send(call)

    async def ask() -> Any:
        other = AsyncSender(with_options)
        try:
            return await other.send(call)
        finally:
            await other.close()

    return asyncio.run(ask())


both = pytest.mark.parametrize("sender", [Sender, AsyncSender])


@both
def test_the_answer_is_typed_and_the_key_is_sent(server: Any, reply: Any, sender: Any) -> None:
    server.say(reply(HEALTH))
    health = send(sender, options(server.url), ready("/films"))
    assert health == Health(status="ready", model="films", version=3)
    assert server.asked[0].path == "/films/readyz"
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert server.asked[0].headers["user-agent"].startswith("mizzen-python/")


@both
@pytest.mark.parametrize("status", RETRIED)
def test_what_may_pass_is_tried_again(server: Any, reply: Any, sender: Any, status: int) -> None:
    server.say(reply({}, status), reply({}, status), reply(HEALTH))
    assert send(sender, options(server.url), ready("")).version == 3
    assert len(server.asked) == 3


@both
def test_a_post_is_sent_again_with_its_whole_body(server: Any, reply: Any, sender: Any) -> None:
    server.say(reply({}, 503), reply({"a": 1}))
    call: Call[Any] = Call("POST", "/x", dict[str, int], {"values": [1, 2]})
    assert send(sender, options(server.url), call) == {"a": 1}
    assert [asked.body for asked in server.asked] == [{"values": [1, 2]}] * 2


@both
def test_it_gives_up_after_the_last_try_with_the_servers_reason(server: Any, reply: Any, sender: Any) -> None:
    error = {"error": {"message": "the queue is full", "type": "x", "param": None, "code": "overloaded"}}
    server.say(reply(error, 429, {"retry-after": "0", "mizzen-request-id": "r1"}))
    with pytest.raises(errors.RateLimitError, match="the queue is full") as caught:
        send(sender, options(server.url), ready(""))
    assert len(server.asked) == 3
    assert (caught.value.code, caught.value.request_id, caught.value.retry_after_s) == ("overloaded", "r1", 0)


@both
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 500])
def test_what_would_be_refused_again_is_sent_once(server: Any, reply: Any, sender: Any, status: int) -> None:
    server.say(reply({}, status))
    with pytest.raises(errors.APIStatusError):
        send(sender, options(server.url), ready(""))
    assert len(server.asked) == 1


@pytest.mark.parametrize(("said", "waited"), [("7", 7.0), ("86400", 30.0)])
def test_the_wait_is_as_long_as_the_server_says_within_reason(said: str, waited: float) -> None:
    retry = options("http://a").retry
    assert retry._calculate_sleep(httpx.Headers({"retry-after": said})) == waited


@both
def test_nobody_listening_is_a_connection_error(server: Any, sender: Any) -> None:
    url = server.url
    server.close()
    with pytest.raises(errors.APIConnectionError, match="no answer"):
        send(sender, options(url, max_retries=1), ready(""))


@both
def test_no_answer_in_time_is_a_timeout(server: Any, reply: Any, sender: Any) -> None:
    server.say(reply(hold=True))
    with pytest.raises(errors.APITimeoutError, match="timeout_s"):
        send(sender, options(server.url, timeout_s=0.1, max_retries=0), ready(""))


@both
@pytest.mark.parametrize("body", [b"<html>", {"status": "ready"}, []])
def test_an_answer_that_is_none_of_ours_is_told(server: Any, reply: Any, sender: Any, body: Any) -> None:
    server.say(reply(body))
    with pytest.raises(errors.APIResponseError, match="cannot be read"):
        send(sender, options(server.url), ready(""))


def test_fields_of_a_newer_server_are_kept(server: Any, reply: Any) -> None:
    server.say(reply({**HEALTH, "since": 5}))
    assert send(Sender, options(server.url), ready("")).since == 5


@both
@pytest.mark.parametrize("value", [float("nan"), object()])
def test_a_body_that_cannot_be_written_is_the_callers_fault(server: Any, sender: Any, value: Any) -> None:
    with pytest.raises(errors.ClientError, match="POST /x: the request cannot be written"):
        send(sender, options(server.url), Call("POST", "/x", dict[str, int], {"value": value}))
    assert server.asked == []


def test_any_kind_of_sequence_is_written() -> None:
    values = np.array([1.0, 2.0])
    series: Any = {"name": "a", "series": values, "frequency": "M", "known_covariates": {"price": values}}
    (item,) = (forecast("", [series]).body or {})["inputs"]
    assert json.loads(json.dumps(item)) == {
        **series, "series": [1.0, 2.0], "known_covariates": {"price": [1.0, 2.0]}
    }  # fmt: skip


# --- streams --------------------------------------------------------------------------------------


def chunk(text: str) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return json.dumps({"id": "c", "created": 1, "model": "m", "choices": [choice]})


def read(sender: Any, with_options: Options, stop_after: int = 100) -> list[ChatChunk]:
    """The chunks of a stream by either client; it is left after `stop_after`."""
    call = stream("/chat", "Hi")
    found: list[ChatChunk] = []
    if sender is Sender:
        with closing(Sender(with_options)) as one, one.stream(call) as chunks:
            found.extend(itertools.islice(chunks, stop_after))
        return found

    async def ask() -> None:
        other = AsyncSender(with_options)
        try:
            async with other.stream(call) as chunks:
                async for piece in chunks:
                    found.append(piece)
                    if len(found) == stop_after:
                        break
        finally:
            await other.close()

    asyncio.run(ask())
    return found


@both
def test_a_stream_gives_its_chunks_until_it_is_done(server: Any, reply: Any, sender: Any) -> None:
    server.say(reply(events=[chunk("one "), chunk("two"), "[DONE]"]))
    assert [one.text for one in read(sender, options(server.url))] == ["one ", "two"]
    assert server.asked[0].body["stream"] is True
    assert server.asked[0].body["stream_options"] == {"include_usage": True}


@both
def test_a_stream_that_is_refused_at_first_is_tried_again(server: Any, reply: Any, sender: Any) -> None:
    server.say(reply({}, 503), reply(events=[chunk("yes"), "[DONE]"]))
    assert [one.text for one in read(sender, options(server.url))] == ["yes"]


@both
def test_an_error_in_the_middle_of_a_stream_is_raised(server: Any, reply: Any, sender: Any) -> None:
    error = json.dumps({"error": {"message": "the model failed", "code": None}}, separators=(",", ":"))
    server.say(reply(events=[chunk("one"), error], headers={"mizzen-request-id": "r2"}))
    with pytest.raises(errors.ServerError, match="the model failed") as caught:
        read(sender, options(server.url))
    assert caught.value.request_id == "r2"


@both
def test_a_stream_that_is_refused_says_why(server: Any, reply: Any, sender: Any) -> None:
    server.say(reply({"error": {"message": "no such model", "code": "model_not_found"}}, 404))
    with pytest.raises(errors.NotFoundError, match="no such model"):
        read(sender, options(server.url))


@both
def test_a_stream_that_ends_before_its_last_event_is_no_whole_answer(
    server: Any, reply: Any, sender: Any
) -> None:
    server.say(reply(events=[chunk("half an")]))
    with pytest.raises(errors.APIConnectionError, match="ended before its last event"):
        read(sender, options(server.url))


@both
def test_what_fails_in_the_body_of_a_stream_is_the_callers_own(server: Any, reply: Any, sender: Any) -> None:
    server.say(reply(events=[chunk("one"), "[DONE]"]))

    async def fail(other: AsyncSender) -> None:
        async with other.stream(stream("/chat", "Hi")):
            raise httpx.ConnectError("another server")

    with pytest.raises(httpx.ConnectError, match="another server"):
        if sender is Sender:
            with closing(Sender(options(server.url))) as one, one.stream(stream("/chat", "Hi")):
                raise httpx.ConnectError("another server")
        asyncio.run(fail(AsyncSender(options(server.url))))


@both
def test_leaving_a_stream_early_closes_the_connection(server: Any, reply: Any, sender: Any) -> None:
    server.say(reply(events=[chunk("x" * 10_000)] * 5_000))
    assert len(read(sender, options(server.url), stop_after=1)) == 1
    assert server.gone.wait(10), "the server went on sending"


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "wrong", "message"),
    [
        ("127.0.0.1:8000", {}, "address"),
        ("http://", {}, "address"),
        ("http://[::1", {}, "address"),
        ("http://a\n", {}, "address"),
        ("http://a", {"timeout_s": 0}, "timeout_s"),
        ("http://a", {"max_retries": -1}, "max_retries"),
        ("http://a", {"api_key": "se\ncret-key"}, "API key"),
    ],
)
def test_wrong_options_are_refused(url: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ClientError, match=message) as caught:
        mizzen.Client(url, **wrong)
    assert "secret" not in str(caught.value).replace("\n", "")


def test_the_key_is_not_shown() -> None:
    client = mizzen.Client("http://127.0.0.1:1", api_key=KEY)
    assert KEY not in repr(client)
    assert KEY not in repr(client._sender.options)
    client.close()
