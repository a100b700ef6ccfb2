"""A real HTTP server that answers as it is told, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Reply:
    """What the server says to one request."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    events: list[str] | None = None
    """Sent one after another instead of `body`."""
    hold: bool = False
    """Do not answer before the test is over."""


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class PlayedServer:
    """Answers the n-th request with the n-th reply, and all after the last with the last."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.asked: list[Asked] = []
        self.over = threading.Event()
        self.gone = threading.Event()
        """Set when a client went away in the middle of a stream."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                content = self.rfile.read(size)
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = json.loads(content) if content else None
                server.asked.append(Asked(self.command, self.path, headers, body))
                server.answer(self, server.replies[min(len(server.asked), len(server.replies)) - 1])

            do_GET = do_POST = handle_one

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def say(self, *replies: Reply) -> None:
        self.replies, self.asked = list(replies), []

    def answer(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.hold:
            self.over.wait(30)
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        if reply.events is not None:
            self._stream(handler, reply.events)
            return
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _stream(self, handler: BaseHTTPRequestHandler, events: list[str]) -> None:
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        try:
            for event in events:
                handler.wfile.write(f"data: {event}\n\n".encode())
                handler.wfile.flush()
        except OSError:
            self.gone.set()
        handler.close_connection = True

    def close(self) -> None:
        self.over.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[PlayedServer]:
    played = PlayedServer()
    yield played
    played.close()


@pytest.fixture
def reply() -> type[Reply]:
    return Reply
