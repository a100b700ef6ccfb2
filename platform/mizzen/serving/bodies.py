"""Reads the body of a request, whole, before anything is done for it: bounded in size and in time.

A body that is compressed (`gzip`, `deflate` or `zstd`) is unpacked, and what it unpacks to is bounded too. Of
what bodies mean it knows one thing: JSON that is not UTF-8, or has half a character in it, is refused.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Iterable

import zstandard
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from mizzen.errors import RequestError

ENCODINGS = "gzip, deflate, zstd"
_WINDOWS = {b"gzip": 16 + zlib.MAX_WBITS, b"x-gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""zlib's `wbits` for the encodings that are understood; `deflate` is the zlib format (RFC 9110, 8.4.1.2)."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ZSTD_WINDOW_BYTES = 2**27


class Bodies:
    """Reads bodies of up to `max_bytes` (else 413) that arrive within `timeout_s` (else 408)."""

    def __init__(self, max_bytes: int, timeout_s: float) -> None:
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s

    async def read(self, scope: Scope, receive: Receive) -> Receive:
        """Read the body; what is returned gives it in one piece, and then what comes after it.

        Raises `HTTPException` with 408, 413 or 415 (an encoding that is not understood), `RequestError` for a
        body that is not what its encoding says, and `ClientDisconnect` if the client goes away meanwhile.
        """
        encoding, is_json = self._check(scope["headers"])
        pieces: list[bytes] = []
        size = 0
        clock = asyncio.timeout(self.timeout_s)
        try:
            async with clock:
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise ClientDisconnect
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > self.max_bytes:
                        raise self._too_large(size)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            if not clock.expired():
                raise
            raise HTTPException(
                408,
                f"the body did not arrive in time; saw {size} bytes in {self.timeout_s:g} s;"
                " allowed: all of it (body_timeout_s). Send it faster, or less of it.",
                headers={"connection": "close"},
            ) from None
        body = b"".join(pieces) if len(pieces) > 1 else pieces[0]
        if encoding is not None:
            body = self._unpacked(body, encoding)
        if is_json:
            _check_text(body)
        return _first({"type": "http.request", "body": body, "more_body": False}, receive)

    def _check(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes | None, bool]:
        """How the body is compressed, if it is, and whether it is JSON."""
        encoding, is_json = None, False
        for name, value in headers:
            if name == b"content-type":
                is_json = b"json" in value.lower()
            if name == b"content-length" and value.isdigit() and int(value[:20]) > self.max_bytes:
                raise self._too_large(int(value[:20]))
            if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                encoding = value.strip().lower()
        if encoding is not None and encoding not in _WINDOWS and encoding != b"zstd":
            raise HTTPException(
                415,
                f"the body's encoding is not understood; saw {encoding[:40].decode('latin-1')!r};"
                f" allowed: {ENCODINGS} or none",
                headers={"accept-encoding": ENCODINGS},
            )
        return encoding, is_json

    def _unpacked(self, body: bytes, encoding: bytes) -> bytes:
        try:
            unpacked, whole = (_unzstd if encoding == b"zstd" else _unzip)(body, encoding, self.max_bytes + 1)
        except (zlib.error, zstandard.ZstdError) as cause:
            raise RequestError(f"the body is not valid {encoding.decode()}: {cause}") from None
        if len(unpacked) > self.max_bytes:
            raise self._too_large(len(unpacked))
        if not whole:
            raise RequestError(f"the body is not valid {encoding.decode()}: it is cut off, or more follows")
        return unpacked

    def _too_large(self, size_bytes: int) -> HTTPException:
        return HTTPException(
            413,
            f"the body is too large; saw {size_bytes} bytes; allowed: {self.max_bytes} (max_request_bytes)",
        )


def _check_text(body: bytes) -> None:
    """Raise `RequestError` for text that is none: libraries let it in, and no answer can repeat it."""
    # Python reads UTF-16 and UTF-32 as well, which it tells by zeros, and half characters in any of them.
    if (not body.isascii() and not _is_utf8(body)) or b"\0" in body[:4]:
        raise RequestError("the body is not valid JSON: it is not UTF-8", code="malformed_json")
    if not _SURROGATE.search(body):
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError(
            "the body has half of a surrogate pair in a text",
            allowed="characters; in JSON one beyond U+FFFF is two escapes, such as \\ud83d\\ude00",
            code="malformed_json",
        ) from None
    except (ValueError, RecursionError):
        return  # who reads it says what is wrong with it


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unzip(body: bytes, encoding: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """Up to `max_bytes` of what is in `body`, and whether it ends where it should."""
    unpacker = zlib.decompressobj(_WINDOWS[encoding])
    unpacked = unpacker.decompress(body, max_bytes)
    return unpacked, unpacker.eof and not unpacker.unused_data


def _unzstd(body: bytes, _: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """As `_unzip`. Whatever size the frame claims, no more memory is taken than `max_bytes` and a window."""
    unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    pieces: list[bytes] = []
    size = 0
    with unpacker.stream_reader(body) as reader:
        while size < max_bytes and (piece := reader.read(max_bytes - size)):
            pieces.append(piece)
            size += len(piece)
    # A reader says nothing of a frame that is cut off; its header says how long it should have been.
    claimed = zstandard.frame_content_size(body)
    return b"".join(pieces), claimed in (-1, size)


def _first(message: Message, receive: Receive) -> Receive:
    """A `receive` that gives `message` before all others."""
    left = [message]

    async def replayed() -> Message:
        return left.pop() if left else await receive()

    return replayed
