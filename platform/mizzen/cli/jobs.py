"""`mizzen jobs`: training jobs on this machine, on a Ray cluster, on Kubernetes; one code for all three."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mizzen.cli import events, output
from mizzen.cli.places import Address, Context, Namespace, On, Place, jobs_in

if TYPE_CHECKING:
    from mizzen.cluster.jobs import Job

app = typer.Typer(
    help="List, explain, follow and stop training jobs, here or on a cluster.", no_args_is_help=True
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The job, as `mizzen jobs list` names it.")]
COLOURS = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


@app.command("list")
def list_(
    on: On = Place.local,
    address: Address = None,
    namespace: Namespace = None,
    context: Context = None,
    json: output.JsonOption = False,
) -> None:
    """List the training jobs of a place, the newest first.

    Example: [bold]mizzen jobs list --on kubernetes[/bold]
    """
    found = jobs_in(on, address, namespace, context).list()
    if json:
        output.show_json([for_scripts(job) for job in found])
        return
    output.show_table(
        "",
        ["name", "state", "workers#", "age#", "took#", "published", "reason"],
        [
            [job.name, job.state, job.span, _age(job), _duration(job), published(job), job.reason]
            for job in found
        ],
    )


@app.command()
def show(
    name: Name,
    on: On = Place.local,
    address: Address = None,
    namespace: Namespace = None,
    context: Context = None,
    json: output.JsonOption = False,
) -> None:
    """Show one job: its state, and if it waits or has failed, why.

    Example: [bold]mizzen jobs show forecasting-20260102-030405-1a2b --on kubernetes[/bold]
    """
    from mizzen.cli.run_facts import progress_of

    job = jobs_in(on, address, namespace, context).show(name)
    if json:
        output.show_json(for_scripts(job))
        return
    colour = COLOURS.get(job.state, "white")
    output.out.print(f"[bold]{job.name}[/bold]  [{colour}]{job.state}[/{colour}]")
    facts = {
        "why": job.reason,
        "progress": "" if job.ended else progress_of(name),
        "job": f"{job.job} ({job.workload})" if job.workload else job.job,
        "workers": job.span,
        "created": _time(job.created_at),
        "started": _time(job.started_at),
        "ended": _time(job.ended_at),
        "took": _duration(job),
        "published": published(job),
        "where": job.where,
    }
    for fact, value in facts.items():
        if value:
            output.out.print(f"{fact:<10} {value}", markup=False, soft_wrap=True)
    events.show(job.events)


@app.command()
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    on: On = Place.local,
    address: Address = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Print a job's log; it stays in the store when the job's machines are gone.

    Example: [bold]mizzen jobs logs forecasting-20260102-030405-1a2b --follow[/bold]
    """
    for line in jobs_in(on, address, namespace, context).logs(name, follow):
        print(line, flush=follow)


@app.command()
def cancel(
    name: Name,
    on: On = Place.local,
    address: Address = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Stop a job; its record and its log stay.

    Example: [bold]mizzen jobs cancel forecasting-20260102-030405-1a2b[/bold]
    """
    jobs_in(on, address, namespace, context).cancel(name)
    output.out.print(f"{name} is being stopped")


@app.command()
def delete(
    name: Name,
    on: On = Place.local,
    address: Address = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Remove a job with its record, log and checkpoints; never what it has published.

    Example: [bold]mizzen jobs delete forecasting-20260102-030405-1a2b[/bold]
    """
    jobs_in(on, address, namespace, context).delete(name)
    output.out.print(f"{name} is deleted")


def follow(place: Any, name: str) -> Job:
    """Print a job's log until it has ended; returns how it ended. Ctrl-C leaves the job running."""
    try:
        for line in place.logs(name, follow=True):
            print(line, flush=True)
    except KeyboardInterrupt:
        output.say(f"{name} goes on; `mizzen jobs logs {name} --follow --on {place.place}` follows it again")
        raise
    job: Job = place.show(name)
    return job


def for_scripts(job: Job) -> dict[str, Any]:
    """A job as JSON."""
    times = {
        key: value.isoformat(timespec="seconds") if value else None
        for key, value in asdict(job).items()
        if key.endswith("_at")
    }
    return {**asdict(job), **times, "events": events.for_scripts(job.events)}


def published(job: Job) -> str:
    """The version that a job has published, if it has."""
    return f"{job.model}@{job.version}" if job.model and job.version else ""


def _time(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else ""


def _age(job: Job) -> str:
    return span((datetime.now(UTC) - job.created_at).total_seconds()) if job.created_at else ""


def _duration(job: Job) -> str:
    if job.started_at is None:
        return ""
    return span(((job.ended_at or datetime.now(UTC)) - job.started_at).total_seconds())


def span(seconds: float) -> str:
    """A length of time in its largest two units."""
    whole = max(0, round(seconds))
    units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)]
    parts: list[str] = []
    for unit, size in units:
        number, whole = divmod(whole, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number}{unit}")
    return " ".join(parts[:2])
