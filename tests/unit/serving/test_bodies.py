"""Bodies are bounded in size and in time, compressed ones too."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from functools import partial
from typing import Any

import pytest
import zstandard
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message

from mizzen.errors import RequestError
from mizzen.serving.bodies import Bodies

LIMIT = 100


def read(pieces: list[bytes], headers: list[tuple[bytes, bytes]] | None = None, **changes: Any) -> bytes:
    messages: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1}
        for number, piece in enumerate(pieces)
    ]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def scenario() -> bytes:
        bodies = Bodies(**{"max_bytes": LIMIT, "timeout_s": 5.0, **changes})
        replayed = await bodies.read({"type": "http", "headers": headers or []}, receive)
        message = await replayed()
        assert message["more_body"] is False
        body: bytes = message["body"]
        return body

    return asyncio.run(scenario())


def status_of(pieces: list[bytes], headers: list[tuple[bytes, bytes]] | None = None, **changes: Any) -> int:
    with pytest.raises(HTTPException) as refused:
        read(pieces, headers, **changes)
    return refused.value.status_code


def test_a_body_in_pieces_arrives_whole():
    assert read([b"one ", b"", b"two"]) == b"one two"


def test_a_body_at_the_limit_passes_and_one_byte_more_is_413():
    assert len(read([b"x" * LIMIT])) == LIMIT
    assert status_of([b"x" * LIMIT, b"y"]) == 413


def test_a_length_above_the_limit_is_refused_before_a_byte_is_read():
    assert status_of([], [(b"content-length", b"101")]) == 413
    assert status_of([], [(b"content-length", b"9" * 5000)]) == 413


def test_a_body_that_stops_halfway_is_408():
    with pytest.raises(HTTPException, match=r"saw 4 bytes in 0\.01 s") as refused:
        asyncio.run(_half())
    assert refused.value.status_code == 408
    assert refused.value.headers == {"connection": "close"}


async def _half() -> None:
    messages: list[Message] = [{"type": "http.request", "body": b"half", "more_body": True}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    await Bodies(LIMIT, 0.01).read({"type": "http", "headers": []}, receive)


def test_after_the_body_comes_what_the_server_says_next():
    gone: Message = {"type": "http.disconnect"}
    messages: list[Message] = [{"type": "http.request", "body": b"all", "more_body": False}, gone]

    async def receive() -> Message:
        return messages.pop(0)

    async def scenario() -> list[Message]:
        replayed = await Bodies(LIMIT, 5).read({"type": "http", "headers": []}, receive)
        return [await replayed(), await replayed()]

    assert asyncio.run(scenario())[1] is gone


def test_a_client_that_goes_before_its_body_is_whole_is_reported_as_gone():
    messages: list[Message] = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    with pytest.raises(ClientDisconnect):
        asyncio.run(Bodies(LIMIT, 5).read({"type": "http", "headers": []}, receive))


PACKERS = {
    "gzip": partial(gzip.compress, mtime=0),
    "deflate": zlib.compress,
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "zstd"])
def test_a_compressed_body_is_unpacked(encoding):
    packed = PACKERS[encoding.lower()](b"hello" * 10)
    headers = [(b"content-encoding", encoding.encode())]
    assert read([packed[:7], packed[7:]], headers) == b"hello" * 10


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_small_body_that_unpacks_to_a_large_one_is_413(encoding):
    bomb = PACKERS[encoding](b"0" * 50_000)
    assert len(bomb) < LIMIT
    assert status_of([bomb], [(b"content-encoding", encoding.encode())]) == 413


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        pytest.param("gzip", b"no gzip at all", id="gzip-other"),
        pytest.param("gzip", PACKERS["gzip"](b"hello")[:-5], id="gzip-cut"),
        pytest.param("gzip", PACKERS["gzip"](b"hello") + b"more", id="gzip-more"),
        pytest.param("zstd", b"no zstd at all", id="zstd-other"),
        pytest.param("zstd", PACKERS["zstd"](b"hello" * 10)[:-3], id="zstd-cut"),
        pytest.param("zstd", b"", id="zstd-empty"),
    ],
)
def test_a_body_that_is_not_what_its_encoding_says_is_refused(encoding, body):
    with pytest.raises(RequestError, match=f"not valid {encoding}"):
        read([body], [(b"content-encoding", encoding.encode())])


def test_an_unknown_encoding_is_415():
    assert status_of([b"x"], [(b"content-encoding", b"br")]) == 415
    assert read([b"x"], [(b"content-encoding", b"identity")]) == b"x"


JSON = (b"content-type", b"application/json")


@pytest.mark.parametrize("text", [rb"\ud83d", rb"\uDE00", rb"\ude00\ud83d", rb"\ud83d and more"])
def test_half_of_a_character_is_refused_before_it_can_break_an_answer(text):
    for body in (b'{"a": "' + text + b'"}', b'{"' + text + b'": 1}'):
        with pytest.raises(RequestError, match="surrogate"):
            read([body], [JSON])


@pytest.mark.parametrize(
    "body", [b'"\xed\xa0\x80"', *('"\\ud83d"'.encode(code) for code in ("utf-16", "utf-16-be", "utf-32-le"))]
)
def test_json_that_is_not_utf_8_is_refused(body):
    with pytest.raises(RequestError, match="not UTF-8"):
        read([body], [(b"content-type", b"Application/JSON")])


@pytest.mark.parametrize(
    "text", [rb"\ud83d\ude00", rb"\\ud83d", "\u00e9\U0001f600".encode(), rb"\ud83d\ude00 \u00e9"]
)
def test_whole_characters_and_what_only_looks_like_half_pass(text):
    body = b'{"a": "' + text + b'"}'
    assert read([body], [JSON]) == body


def test_what_is_no_json_is_not_looked_at():
    assert read([rb"{ \ud800"], [JSON]) == rb"{ \ud800"
    assert read([rb'"\ud800"'], [(b"content-type", b"application/octet-stream")]) == rb'"\ud800"'
