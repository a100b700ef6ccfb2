"""How `mizzen top` looks: tables for 80 columns and more. It reckons nothing; `top_figures` does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mizzen.cli.jobs import COLOURS, span
from mizzen.cli.top_figures import AppLine, Board, CostLine, RunLine

if TYPE_CHECKING:
    from mizzen.store.runs import RunRecord

NOTHING = "nothing is served and nothing is trained here"


def shown(board: Board, jobs: Sequence[RunRecord], source: str, note: str = "") -> RenderableType:
    """The whole view; `source` says where the series come from, `note` what went wrong last."""
    now = datetime.now(UTC)
    parts: list[RenderableType] = [Text(f"mizzen top  {source}  {now:%H:%M:%S} UTC", style="dim")]
    if note:
        parts.append(Text(note, style="red"))
    if board.apps:
        parts += [_apps(board.apps), _requests(board.apps)]
    if board.runs:
        parts.append(_runs(board.runs))
    if jobs:
        parts.append(_jobs(jobs, now))
    if board.costs:
        parts.append(_costs(board.costs))
    if not (board.apps or board.runs):
        parts.insert(1, Text(NOTHING, style="dim"))
    return Group(*parts)


def _apps(apps: Iterable[AppLine]) -> Table:
    # Most applications generate no text: those two columns only where one does.
    generates = any(one.tokens_per_s is not None for one in apps)
    columns = ["application", "version", "replicas#", "in\nflight#"]
    table = _table("applications", [*columns, *(["tokens/s#", "running\n+waiting#"] if generates else [])])
    for one in apps:
        cells = [escape(one.app), escape("\n".join(one.versions)), str(one.replicas), str(one.in_flight)]
        if generates and one.tokens_per_s is not None:
            cells += [_rate(one.tokens_per_s), f"{one.sequences_running or 0}+{one.sequences_waiting or 0}"]
        table.add_row(*cells)
    return table


def _requests(apps: Iterable[AppLine]) -> Table:
    table = _table("requests", ["application", "req/s#", "5xx/s#", "4xx/s#", "p50#", "p99#", "queue\np99#"])
    for one in apps:
        table.add_row(
            escape(one.app),
            _rate(one.requests_per_s),
            f"[red]{_rate(one.server_errors_per_s)}[/red]" if one.server_errors_per_s else "0",
            _rate(one.client_errors_per_s),
            _seconds(one.p50_s),
            _seconds(one.p99_s),
            _seconds(one.queue_wait_p99_s),
        )
    return table


def _runs(runs: Iterable[RunLine]) -> Table:
    table = _table("training", ["run", "workers#", "step#", "done#", "loss#", "throughput#", "time\nleft#"])
    for one in runs:
        throughput = ""
        if one.tokens_per_s is not None:
            throughput = f"{_rate(one.tokens_per_s)} tokens/s"
        elif one.samples_per_s is not None:
            throughput = f"{_rate(one.samples_per_s)} samples/s"
        table.add_row(
            escape(one.run),
            str(one.workers),
            _of(one.step, one.num_steps),
            _share(one.step, one.num_steps),
            "" if one.loss is None else f"{one.loss:.4g}",
            throughput,
            "" if one.seconds_left is None else span(one.seconds_left),
        )
    return table


def _jobs(jobs: Iterable[RunRecord], now: datetime) -> Table:
    table = _table("recent jobs", ["job", "state", "step#", "done#", "age#", "took#", "published"])
    for one in jobs:
        took = ((one.ended_at or now) - one.started_at).total_seconds() if one.started_at else None
        colour = COLOURS.get(one.state, "white")
        table.add_row(
            escape(one.run_id),
            f"[{colour}]{one.state}[/{colour}]",
            _of(one.step, one.num_steps),
            _share(one.step, one.num_steps),
            span((now - one.created_at).total_seconds()),
            "" if took is None else span(took),
            f"{one.model}@{one.version}" if one.model and one.version else "",
        )
    return table


def _costs(costs: Iterable[CostLine]) -> Table:
    table = _table("reserved", ["for", "name", "CPUs#", "CPUs used#", "GPUs#", "memory#"])
    for one in costs:
        used = "" if one.cpus_used is None else f"{one.cpus_used:.2f}"
        memory = f"{one.memory_bytes / 2**20:,.0f} MiB"
        table.add_row(one.owner_kind, escape(one.owner), f"{one.cpus:g}", used, f"{one.gpus:g}", memory)
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    """Columns whose name ends in `#` are aligned to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(
            column.rstrip("#"), justify="right" if column.endswith("#") else "left", overflow="fold"
        )
    return table


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def _of(step: int | None, num_steps: int | None) -> str:
    if step is None:
        return ""
    return f"{step}/{num_steps}" if num_steps else str(step)


def _share(step: int | None, num_steps: int | None) -> str:
    return f"{step / num_steps:.0%}" if step is not None and num_steps else ""
