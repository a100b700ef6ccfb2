"""Runs side by side as a table: one row a fact, one column a run. It reads no store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mizzen.cli import output
from mizzen.cli.jobs import span
from mizzen.cli.run_facts import PHASES, RunFacts
from mizzen.cluster.records import job_of
from mizzen.store.history import LOSS
from mizzen.training.tensorboard import flat

Row = tuple[str, list[str]]

MAX_CHARACTERS = 100
"""Of a field of a job file in a table; `--json` has all of it."""


def letters(number: int) -> list[str]:
    """What the runs are called in tables and pictures: their ids are long."""
    return [chr(ord("A") + i) if i < 26 else f"R{i + 1}" for i in range(number)]


def rows(runs: Sequence[RunFacts]) -> list[Row]:
    """Everything that is known of at least one run."""
    found: list[Row] = []

    def add(name: str, text: Callable[[RunFacts], str | None]) -> None:
        cells = [text(run) or "" for run in runs]
        if any(cells):
            found.append((name, cells))

    add("state", lambda run: run.record.state)
    add("job", lambda run: str(run.record.job.get("name", "")))
    add("workers", lambda run: job_of(run.record).span)
    add("attempts", lambda run: str(run.record.attempt))
    add("steps", _steps)
    add("took", lambda run: None if run.duration_s is None else span(run.duration_s))
    add("  until the first step", _start_up)
    add("time left", lambda run: None if run.seconds_left is None else span(run.seconds_left))
    add("loss, last", lambda run: output.figure(run.last(LOSS)))
    for metric in dict.fromkeys(run.quality.name for run in runs if run.quality):
        add(f"{metric}, best", partial(_best, metric))
    for metric in _names(run.record.metrics for run in runs):
        add(f"{metric}, last", partial(_validated, metric))
    for metric in _names(run.manifest.quality for run in runs if run.manifest):
        add(f"{metric}, test", partial(_test, metric))
    add("published", lambda run: f"{run.manifest.name}@{run.manifest.version}" if run.manifest else None)
    add("gate", _gate)
    return found + _speed(runs)


def _speed(runs: Sequence[RunFacts]) -> list[Row]:
    """Medians over the run: a step and where its time goes, throughput, memory."""
    found: list[Row] = []
    tags = [tag for run in runs for tag in run.curves]
    for tag in dict.fromkeys(tag for tag in tags if tag.startswith("throughput/")):
        name = tag.split("/")[1].replace("_", " ")
        found.append((name, [output.figure(run.usual(tag)) for run in runs]))
    if "time/step_seconds" in tags:
        found.append(("step", [_milliseconds(run.usual("time/step_seconds")) for run in runs]))
    for phase in PHASES:
        if f"time/{phase}_seconds" in tags:
            found.append((f"  {phase}", [_share(run, phase) for run in runs]))
    if "memory/bytes" in tags:
        most = [max((value for _, value in run.curves.get("memory/bytes", [])), default=None) for run in runs]
        found.append(("memory, most", ["" if m is None else f"{m / 2**20:,.0f} MiB" for m in most]))
    return found


def differences(runs: Sequence[RunFacts]) -> dict[str, list[Any]]:
    """Fields of the job files in which the runs differ, with a value for each run; None: it is not set."""
    jobs = [flat(run.record.job) for run in runs]
    fields = sorted({field for job in jobs for field in job})
    values = {field: [job.get(field) for job in jobs] for field in fields}
    return {field: each for field, each in values.items() if any(value != each[0] for value in each)}


def show(runs: Sequence[RunFacts]) -> None:
    """The table, with the fields that differ below it."""
    names = letters(len(runs))
    for name, run in zip(names, runs, strict=True):
        output.out.print(f"[bold]{name}[/bold]  {run.record.run_id}", soft_wrap=True)
        if why := run.record.error or run.quiet:
            output.out.print(f"   {why}", markup=False, soft_wrap=True)
    output.show_table("", ["", *names], [[name, *cells] for name, cells in rows(runs)])
    if len(runs) > 1:
        different = differences(runs)
        if different:
            table = [[field, *map(_text, values)] for field, values in different.items()]
            output.show_table("\nthe job files differ in", ["field", *names], table)
        else:
            output.out.print("\nthe job files are the same")


def _names(metrics: Any) -> list[str]:
    return sorted({name for one in metrics for name in one})


def _steps(run: RunFacts) -> str | None:
    record = run.record
    return None if record.step is None else f"{record.step} of {record.num_steps}"


def _start_up(run: RunFacts) -> str | None:
    """All of it, and the part that took longest."""
    parts = run.record.start_up_s
    if not parts:
        return None
    longest = max(parts, key=lambda part: parts[part])
    return f"{sum(parts.values()):.1f} s ({longest}: {parts[longest]:.1f} s)"


def _best(metric: str, run: RunFacts) -> str | None:
    best = run.best()
    if best is None or run.quality is None or run.quality.name != metric:
        return None
    return f"{output.figure(best[1])} (step {best[0]})"


def _validated(metric: str, run: RunFacts) -> str | None:
    return output.figure(run.record.metrics.get(metric))


def _test(metric: str, run: RunFacts) -> str | None:
    return output.figure(run.manifest.quality.get(metric)) if run.manifest else None


def _gate(run: RunFacts) -> str | None:
    if run.manifest is None:
        return None
    return "passed" if run.manifest.gate.passed else "FAILED"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.4g} ms"


def _share(run: RunFacts, phase: str) -> str:
    part_s, whole_s = run.usual(f"time/{phase}_seconds"), run.usual("time/step_seconds")
    if part_s is None or not whole_s:
        return ""
    return f"{_milliseconds(part_s)} ({part_s / whole_s:.0%})"


def _text(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
