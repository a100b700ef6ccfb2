"""`mizzen train`: from a job file to a version in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mizzen.cli import output
from mizzen.cli.places import Address, Context, Image, Namespace, On, Place, Release, check_options


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
    if on is Place.ray:
        submit.to_ray(job, address, follow=follow, json=json)
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
        )
    else:
        _here(job, json=json)


def _here(job: Any, *, json: bool) -> None:
    from mizzen import targets, totals
    from mizzen.settings import current
    from mizzen.training.pipeline import run

    settings = current()
    totals.clean(settings.metrics_dir)
    with targets.shown(settings.metrics_dir, settings.run_dir, say=output.say) as port, Bars() as bars:
        output.say(f"metrics of the run: http://127.0.0.1:{port}/metrics")
        published = run(job, settings, say=output.say, watch=bars.watch)
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
