"""Shows the series of all processes of this machine, or of this pod, to whoever scrapes: `GET /metrics`.

It only reads the files that they keep (see `recording`): it needs neither Ray nor a model, and goes on
answering while those start, die or are too busy. It deletes no counter: totals go on over restarts.
"""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from mizzen import totals
from mizzen.errors import MizzenError
from mizzen.liveness import sign_in

LOOPBACK = "127.0.0.1"
_THREADS = 2
_POLL_S = 0.1
"""How long `shutdown` may take."""
_MAX_WAITING = 16
"""Connections that are served or wait; a further one is closed at once."""
_TIMEOUT_S = 10.0
"""How long a client may keep a thread by sending or taking nothing."""


class Exporter(HTTPServer):
    """The server: bound when it is made, answering once `serve_forever` runs or `in_background` is called."""

    def __init__(self, folder: Path, host: str = LOOPBACK, port: int = 0) -> None:
        """Raises `MizzenError` if the address cannot be used."""
        self.folder = folder
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="mizzen-metrics")
        self._places = threading.BoundedSemaphore(_MAX_WAITING)
        with suppress(OSError):  # where the folder cannot be written, nobody deletes in it either
            folder.mkdir(parents=True, exist_ok=True)
            sign_in(folder, os.getpid())
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except OSError as cause:
            raise MizzenError(
                f"metrics cannot be served on {host}:{port}: {cause.strerror or cause}",
                remedy="Give another address with --host and --port.",
            ) from None

    @classmethod
    def near(cls, folder: Path, port: int) -> Exporter:
        """One on loopback that listens on `port`, or on any other if that is taken."""
        try:
            return cls(folder, LOOPBACK, port)
        except MizzenError:
            return cls(folder, LOOPBACK, 0)

    def in_background(self) -> int:
        """Answer from a thread of this process; returns the port."""
        answering = threading.Thread(
            target=self.serve_forever, args=(_POLL_S,), name="mizzen-metrics", daemon=True
        )
        answering.start()
        return self.server_port

    def server_bind(self) -> None:
        """Bind without asking the network for the host's name, as the base class would."""
        super(HTTPServer, self).server_bind()
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand the connection to a thread, or close it if too many wait."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._threads.submit(self._answer, request, client_address)

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            return  # the client went away, or was silent for too long
        except Exception:
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)
            self._places.release()


class _Handler(BaseHTTPRequestHandler):
    timeout = _TIMEOUT_S
    server: Exporter

    def do_GET(self) -> None:
        if self.path.split("?", 1)[0] != "/metrics":
            self._send(HTTPStatus.NOT_FOUND, b"only /metrics is here\n", "text/plain; charset=utf-8")
            return
        try:
            answer = totals.answer(self.headers["accept"], self.server.folder)
        except OSError as cause:  # else it would be taken for a client that went away, and nobody told
            reason = f"the series cannot be read: {cause}\n".encode()
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, reason, "text/plain; charset=utf-8")
            return
        self._send(HTTPStatus.OK, *answer)

    do_HEAD = do_GET

    def _send(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return None
