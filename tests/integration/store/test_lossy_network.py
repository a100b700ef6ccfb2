"""An S3 server behind a proxy that loses answers and is busy at times."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mizzen.errors import StoreError
from mizzen.store.store import ModelStore

Mishap = Callable[[str, str], str | None]


class Proxy(ThreadingHTTPServer):
    """Hands requests on; `mishap(method, path)` may name what goes wrong with one: `busy` or `lost`."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = urlsplit(target).netloc
        self.mishap: Mishap = lambda method, path: None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mishap = self.server.mishap(self.command, self.path)
        if mishap == "busy":
            self.reply(503, {}, b"")
            return
        upstream = http.client.HTTPConnection(self.server.target)
        upstream.request(self.command, self.path, body, dict(self.headers))
        response = upstream.getresponse()
        data = response.read()
        upstream.close()
        if mishap == "lost":
            self.close_connection = True
            return
        self.reply(response.status, dict(response.getheaders()), data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def reply(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the test says what went wrong."""


@pytest.fixture
def proxy(bucket: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    server = Proxy(s3.endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def first(times: int, kind: str, what: str) -> Mishap:
    """`kind` happens to the first `times` requests that write a key with `what` in it."""
    left = [times]

    def mishap(method: str, path: str) -> str | None:
        if method == "PUT" and what in path and left[0]:
            left[0] -= 1
            return kind
        return None

    return mishap


@pytest.mark.parametrize("what", ["/blobs/", "/versions/"])
@pytest.mark.parametrize("kind", ["busy", "lost"])
def test_a_passing_fault_is_retried_and_publishes_once(
    proxy: Proxy, bucket: str, draft: Any, export: Path, kind: str, what: str
) -> None:
    store = ModelStore(bucket)
    proxy.mishap = first(2, kind, what)
    assert store.publish(draft, export).version == 1
    assert store.versions("films") == [1]
    assert store.verify() == []


@pytest.mark.parametrize("kind", ["busy", "lost"])
def test_a_move_of_an_alias_is_recorded_once(
    proxy: Proxy, bucket: str, draft: Any, export: Path, kind: str
) -> None:
    store = ModelStore(bucket)
    store.publish(draft, export)
    proxy.mishap = first(2, kind, "/aliases/")
    store.set_alias("films", 1, "production")
    assert [move.version for move in store.history("films", "production")] == [1]


def test_a_fault_that_stays_is_an_error_and_publishes_nothing(
    proxy: Proxy, bucket: str, draft: Any, export: Path
) -> None:
    store = ModelStore(bucket)
    proxy.mishap = first(1000, "busy", "/versions/")
    with pytest.raises(StoreError, match="503"):
        store.publish(draft, export)
    proxy.mishap = first(0, "busy", "")
    assert store.models() == []
    assert store.publish(draft, export).version == 1
