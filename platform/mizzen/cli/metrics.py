"""`mizzen metrics`: the series of this machine or pod, for a scraper or on stdout."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from mizzen.cli import output

PORT = 9464


def metrics(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a pod.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any.")] = PORT,
    once: Annotated[bool, typer.Option("--once", help="Print them on stdout and end.")] = False,
) -> None:
    """Show every series of the processes that share this MIZZEN_HOME, in Prometheus's format.

    Example: [bold]mizzen metrics --host 0.0.0.0 --port 9464[/bold]
    """
    from mizzen.exporter import Exporter
    from mizzen.settings import current
    from mizzen.totals import exposition

    folder = current().metrics_dir
    if once:
        sys.stdout.write(exposition(folder).decode())
        return
    with Exporter(folder, host, port) as exporter:
        # As the first process of a container it would not end by itself on SIGTERM.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        output.say(f"metrics: http://{host}:{exporter.server_port}/metrics")
        exporter.serve_forever()
