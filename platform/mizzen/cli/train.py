"""`mizzen train`: from a job file to a version in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from mizzen.cli import output
from mizzen.cli.places import Address, Context, Image, Namespace, On, Place, Release, check_options

NEWEST = "newest"
"""What `--resume` alone stands for. No run is called that: ids end with the time of their start."""


class ResumeMayBeAlone(TyperCommand):
    """A command whose `--resume` need not be followed by a run; typer knows no such options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `click.Command`."""
        said = [*args, "--"]
        full = [
            f"--resume={NEWEST}" if word == "--resume" and said[i + 1].startswith("-") else word
            for i, word in enumerate(args)
        ]
        rest: list[str] = super().parse_args(ctx, full)
        return rest


def train(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the job; may be repeated."),
    ] = None,
    on: On = Place.local,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="On a cluster: print the job's log, and end as it ends.")
    ] = False,
    address: Address = None,
    namespace: Namespace = None,
    context: Context = None,
    release: Release = None,
    image: Image = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="With --on kubernetes: a RayCluster that runs, instead of one of its own."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --on kubernetes: print the manifest, create nothing.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="[RUN]",
            help="Go on with this run from its last checkpoint; alone: the newest of the job's name that has "
            "not succeeded. Workers may be others, steps and epochs more.",
        ),
    ] = None,
    json: output.JsonOption = False,
) -> None:
    """Train a model, export it, gate it and publish it: here, on a Ray cluster or on Kubernetes.

    Example: [bold]mizzen train jobs/recommendation.yaml --set training.epochs=3[/bold]
    """
    from mizzen.cli import submit
    from mizzen.training import job as jobs

    check_options(
        on,
        follow=follow,
        address=address,
        namespace=namespace,
        context=context,
        release=release,
        image=image,
        cluster=cluster,
        dry_run=dry_run,
    )
    job = jobs.load(job_file, assignments or [])
    wanted = None if resume == NEWEST else resume
    if on is Place.ray:
        run = submit.resumed_on_ray(job, wanted, address) if resume else None
        submit.to_ray(job, address, run=run, follow=follow, json=json)
    elif on is Place.kubernetes:
        submit.to_kubernetes(
            job,
            namespace=namespace,
            context=context,
            release=release,
            image=image,
            cluster=cluster,
            dry_run=dry_run,
            follow=follow,
            json=json,
            run=submit.resumed_on_kubernetes(job, wanted, namespace, context) if resume else None,
        )
    else:
        _here(job, run=_resumed_here(job, wanted) if resume else None, json=json)


def _resumed_here(job: Any, wanted: str | None) -> str:
    """The run of this machine to go on with; people are told which."""
    from mizzen.cluster.local_jobs import LocalJobs
    from mizzen.settings import current
    from mizzen.training.resuming import chosen

    settings = current()
    place = LocalJobs(settings)
    record, last = chosen(job, wanted, "local", settings, lambda run: place.show(run).ended)
    output.say(f"going on with run {record.run_id} after step {last.step}")
    return record.run_id


def _here(job: Any, *, run: str | None, json: bool) -> None:
    from mizzen import targets, totals
    from mizzen.settings import current
    from mizzen.training import pipeline

    settings = current()
    totals.clean(settings.metrics_dir)
    with targets.shown(settings.metrics_dir, settings.run_dir, say=output.say) as port, Bars() as bars:
        output.say(f"metrics of the run: http://127.0.0.1:{port}/metrics")
        published = pipeline.run(job, settings, say=output.say, watch=bars.watch, run=run)
    if json:
        output.show_json(published.summary())
        return
    show(published)


def show(published: Any) -> None:
    """The outcome of a job, for people."""
    manifest, job = published.manifest, published.job
    quality = job.implementation.quality.name
    report = published.prepared.report
    dropped = ", ".join(f"{n} {reason}" for reason, n in report.dropped.items() if n) or "none"
    output.out.print(f"rows: {report.rows_read} read, {report.rows_kept} kept, dropped: {dropped}")
    names = sorted({*manifest.quality, *(n for m in manifest.baselines.values() for n in m)})
    before, after = manifest.lineage.initial_metrics, manifest.lineage.metrics
    output.show_table(
        f"{manifest.name}@{manifest.version}: quality (judged by {quality})",
        ["metric", "validation, before#", "validation, after#", "test#"]
        + [f"{name}, test#" for name in manifest.baselines],
        [
            [
                name,
                output.figure(before.get(name)),
                output.figure(after.get(name)),
                output.figure(manifest.quality.get(name)),
                *(output.figure(metrics.get(name)) for metrics in manifest.baselines.values()),
            ]
            for name in names
        ],
    )
    for line in manifest.gate.lines():
        output.out.print(line)
    alias = f", alias {job.publish.alias}" if job.publish.alias else ""
    output.out.print(f"published [bold]{manifest.name}@{manifest.version}[/bold]{alias}  {manifest.digest}")


class Bars:
    """A progress bar on stderr that follows a training run."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=output.err,
            transient=True,
        )
        self._task: Any = None
        self._note = ""

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def watch(self, progress: Any) -> None:
        """Take in a `training.launch.Progress`."""
        if self._task is None:
            self._task = self._progress.add_task("training", total=None, note="")
        if progress.metrics:
            shown = list(progress.metrics.items())[:3]
            self._note = "  ".join(f"{name} {output.figure(value)}" for name, value in shown)
        loss = f"loss {progress.loss:.4f}  " if progress.loss is not None else ""
        total = progress.num_steps or None
        self._progress.update(self._task, completed=progress.step, total=total, note=loss + self._note)
        if total and progress.step >= total:
            self._progress.update(self._task, visible=False)
            self._task = None
