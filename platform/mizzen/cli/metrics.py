"""`mizzen metrics`: the series of this machine or pod, for a scraper or on stdout."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from mizzen.cli import output
from mizzen.errors import InputError

if TYPE_CHECKING:
    from mizzen.settings import Settings

PORT = 9464
"""Where OpenTelemetry's exporters for Prometheus listen too."""
LOOK_EVERY_S = 0.5


def metrics(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a pod.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any.")] = PORT,
    once: Annotated[bool, typer.Option("--once", help="Print them on stdout and end.")] = False,
    openmetrics: Annotated[
        bool, typer.Option("--openmetrics", help="With --once: in OpenMetrics, with exemplars.")
    ] = False,
    targets: Annotated[
        bool, typer.Option("--targets", help="Print the target list for Prometheus's file_sd and end.")
    ] = False,
    logs: Annotated[
        bool,
        typer.Option("--logs", help="Also print the log lines of all processes as they come."),
    ] = False,
) -> None:
    """Show every series of the processes that share this MIZZEN_HOME, in Prometheus's format.

    Example: [bold]mizzen metrics --host 0.0.0.0 --port 9464[/bold], or [bold]mizzen metrics --once[/bold]
    """
    from mizzen import targets as lists
    from mizzen.exporter import Exporter
    from mizzen.settings import current
    from mizzen.totals import exposition

    settings = current()
    if openmetrics and not once:
        raise InputError(
            "--openmetrics goes with --once",
            remedy="A scraper gets OpenMetrics from the exporter by its Accept header.",
        )
    if once:
        sys.stdout.write(exposition(settings.metrics_dir, openmetrics=openmetrics).decode())
        return
    if targets:
        file, content = lists.read(settings.run_dir)
        output.say(str(file))
        output.show_json(content)
        return
    with Exporter(settings.metrics_dir, host, port) as exporter:
        # As the first process of a container it would not end by itself on SIGTERM.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        say: Callable[[str], None] = output.say
        if logs:
            say = _nothing  # lines are printed for machines: they shall all be JSON
            _print_logs(settings)
        say(f"metrics: http://{host}:{exporter.server_port}/metrics")
        with lists.announced(settings.run_dir, host, exporter.server_port, say):
            exporter.serve_forever()


def _nothing(line: str) -> None:
    """Nobody is told."""


def _print_logs(settings: Settings) -> None:
    """Print log lines from a thread, from where the last process of this kind has ended."""
    from mizzen.log_files import Tail

    tail = Tail(settings.logs_dir, settings.run_dir / "log-tail.json")

    def follow() -> None:
        while True:
            lines = tail.new_lines()
            if lines:
                # Not through Python's buffer: its lock aborts a process that ends meanwhile.
                left = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
                while left:
                    left = left[os.write(1, left) :]
                with suppress(OSError):  # a full disk, say: lines are printed twice after a restart
                    tail.keep()
            else:
                time.sleep(LOOK_EVERY_S)

    threading.Thread(target=follow, name="mizzen-log-tail", daemon=True).start()
