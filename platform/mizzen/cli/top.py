"""`mizzen top`: applications, training runs, jobs and what they reserve, live in the terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mizzen.cli import output
from mizzen.errors import InputError, MizzenError

if TYPE_CHECKING:
    from mizzen.cli.top_readings import Reading
    from mizzen.store.runs import RunRecord

RATES_OVER_S = 9.5
"""Rates of the live view are means over about as long, or they would jump."""
KEPT_S = 60.0
JOBS_EVERY_S = 10.0
MAX_JOBS = 5


def top(
    every_s: Annotated[
        float, typer.Option("--every", min=0.5, max=600, help="Seconds between two readings.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Take two readings, print them and end.")] = False,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Another machine's or pod's metrics: http://HOST:9464/metrics."),
    ] = None,
    json: output.JsonOption = False,
) -> None:
    """Show what is served and trained, live: rates, latencies, progress, jobs, what is reserved.

    Examples: [bold]mizzen top[/bold], [bold]mizzen top --once --json[/bold]
    """
    from mizzen.cli import top_readings
    from mizzen.settings import current

    settings = current()
    read = top_readings.of_url(url) if url else top_readings.of_folder(settings.metrics_dir)
    # The store is this machine's; what another one has trained may be in one of its own.
    jobs = Jobs(None if url else settings.store_url)
    if once or json:
        _once(read, jobs, url or str(settings.home), every_s, json=json)
    elif output.out.is_terminal:
        _live(read, jobs, url or str(settings.home), every_s)
    else:
        raise InputError("`mizzen top` draws on a terminal", saw="a file or a pipe", remedy="Use --once.")


def _once(read: Callable[[], Reading], jobs: Jobs, source: str, every_s: float, *, json: bool) -> None:
    from mizzen.cli import top_figures, top_view

    before = read()
    time.sleep(every_s)
    board = top_figures.board(before, read())
    recent = jobs.recent()
    if json:
        shown = [one.model_dump(mode="json", include=set(JOB_FIELDS)) for one in recent]
        output.show_json({**asdict(board), "jobs": shown})
    else:
        output.out.print(top_view.shown(board, recent, source, jobs.trouble))


JOB_FIELDS = (
    *("run_id", "place", "state", "step", "num_steps", "created_at", "started_at", "ended_at"),
    *("error", "model", "version"),
)


def _live(read: Callable[[], Reading], jobs: Jobs, source: str, every_s: float) -> None:
    from rich.live import Live

    from mizzen.cli import top_figures, top_view

    readings: deque[Reading] = deque([read()])
    board, trouble = top_figures.board(readings[0], readings[0]), ""
    first = top_view.shown(board, jobs.recent(), source, "the first figures come with the second reading")
    with (
        suppress(KeyboardInterrupt),
        Live(first, console=output.out, screen=True, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(every_s)
            try:
                readings.append(read())
                trouble = ""
            except MizzenError as error:
                trouble = str(error)  # a port-forward that is made anew, say
            while readings[-1].at_s - readings[0].at_s > KEPT_S and len(readings) > 2:
                readings.popleft()
            now = readings[-1]
            before = top_figures.window(readings, now, RATES_OVER_S) or now
            board = top_figures.board(before, now, readings[0])
            live.update(top_view.shown(board, jobs.recent(), source, trouble or jobs.trouble), refresh=True)


class Jobs:
    """The last jobs of a store, asked for now and then only; without a store none."""

    def __init__(self, store_url: str | None) -> None:
        self.trouble = ""
        self._store_url = store_url
        self._asked_s: float | None = None
        self._found: list[RunRecord] = []

    def recent(self) -> list[RunRecord]:
        """The newest first. That the store cannot be reached is said in `trouble`, and ends nothing."""
        now_s = time.monotonic()
        if self._store_url and (self._asked_s is None or now_s - self._asked_s >= JOBS_EVERY_S):
            from mizzen.store.runs import Runs

            self._asked_s = now_s
            try:
                self._found, self.trouble = Runs(self._store_url).list()[:MAX_JOBS], ""
            except MizzenError as error:
                self.trouble = str(error)
        return self._found
