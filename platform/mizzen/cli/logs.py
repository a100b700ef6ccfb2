"""`mizzen logs`: the log lines of all processes of this machine, or of a release on Kubernetes, by time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from mizzen.cli.places import Context, Namespace, Place, Release, check_options

if TYPE_CHECKING:
    from mizzen.log_files import Tail
    from mizzen.log_lines import Wanted

LOOK_EVERY_S = 0.3
FEW = 200
"""Lines that are shown if nobody says which."""


class Level(StrEnum):
    """Values of `--level`."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def logs(
    about: Annotated[
        str, typer.Argument(metavar="[APP|RUN]", help="Lines of this application, run, job or model alone.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on, until Ctrl-C.")] = False,
    level: Annotated[Level | None, typer.Option(help="Lines that are at least so grave.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="`10m`, `2h`, `1d` ago, or a time: lines from then on.")
    ] = None,
    request: Annotated[
        str, typer.Option(metavar="ID", help="Lines of one request (`mizzen-request-id`), or of one trace.")
    ] = "",
    tail: Annotated[
        int | None,
        typer.Option(min=0, help=f"The last so many lines. Default: {FEW}; all with --since or --request."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the lines as they are, for scripts.")] = False,
    on: Annotated[
        Place, typer.Option("--on", help="This machine, or Kubernetes: the release's pods.")
    ] = Place.local,
    namespace: Namespace = None,
    context: Context = None,
    release: Release = None,
) -> None:
    """Print log lines of replicas, runs and training workers, merged by their times.

    Example: [bold]mizzen logs films --follow --level warning[/bold]
    """
    from mizzen.cli.moments import back
    from mizzen.errors import InputError
    from mizzen.log_lines import Wanted, shown
    from mizzen.logs import moment

    check_options(on, namespace=namespace, context=context, release=release)
    if on is Place.ray:
        raise InputError(
            "mizzen logs does not read the machines of a Ray cluster",
            allowed="--on local, --on kubernetes",
            remedy="`mizzen jobs logs NAME --on ray` prints the log of a run.",
        )
    begin = moment(back(since, datetime.now(UTC)).astimezone(UTC)) if since else ""
    wanted = Wanted(about, level.value if level else "", request, begin)
    if tail is None and not (since or request):
        tail = FEW
    past: Iterable[str]
    future: Iterable[str]
    if on is Place.kubernetes:
        from mizzen.cluster.pod_logs import PodLogs

        pods = PodLogs.connect(namespace, context, release)
        past, future = pods.lines(wanted), (pods.followed(wanted) if follow else ())
    else:
        past, future = _here(wanted, follow)
    for lines in (past if tail is None else deque(past, maxlen=tail), future):
        for line in lines:
            print(line if json else shown(line), flush=follow)


def _here(wanted: Wanted, follow: bool) -> tuple[Iterable[str], Iterable[str]]:
    """What is there, and what comes."""
    from mizzen.log_files import Tail, merged, time_of
    from mizzen.settings import current

    folder = current().logs_dir
    if not follow:
        return filter(wanted.takes, merged(folder, wanted.since)), ()
    # One reader for both: no line is told twice, and none is lost in between.
    tail = Tail(folder)
    past: list[str] = []
    while lines := tail.new_lines():
        past += filter(wanted.takes, lines)
    return sorted(past, key=time_of), _new(tail, wanted)


def _new(tail: Tail, wanted: Wanted) -> Iterator[str]:
    while True:
        lines = tail.new_lines()
        yield from filter(wanted.takes, lines)
        if not lines:
            time.sleep(LOOK_EVERY_S)
