"""`mizzen runs`: what training runs have learned, wherever they were. Their states: `mizzen jobs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mizzen.cli import output
from mizzen.errors import InputError

if TYPE_CHECKING:
    from mizzen.cli.run_facts import RunFacts

app = typer.Typer(help="See, compare and draw what training runs have learned.", no_args_is_help=True)

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run, as `mizzen runs list` names it.")]
Metric = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", metavar="NAME",
        help="What to draw, for instance loss, learning_rate or a validation metric; may be given several "
        "times. Default: the loss and the metric that the workload judges by.",
    ),
]  # fmt: skip
Plot = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the curves into this file, too.")]


@app.command("list")
def list_(json: output.JsonOption = False) -> None:
    """List the runs in the store with how well they did, the newest first.

    Example: [bold]mizzen runs list[/bold]
    """
    from mizzen.settings import current
    from mizzen.store.runs import Runs

    found = Runs(current().store_url).list()
    if json:
        output.show_json(
            [record.model_dump(mode="json", exclude={"traceback", "events"}) for record in found]
        )
        return
    output.show_table(
        "",
        ["run", "job", "state", "steps#", "validation, before", "validation, last", "published"],
        [
            [
                record.run_id,
                record.job.get("name", ""),
                record.state,
                "" if record.step is None else f"{record.step} of {record.num_steps}",
                _metrics(record.job, record.initial_metrics),
                _metrics(record.job, record.metrics),
                f"{record.model}@{record.version}" if record.version else "",
            ]
            for record in found
        ],
    )


@app.command()
def show(run: Run, metric: Metric = None, plot: Plot = None, json: output.JsonOption = False) -> None:
    """Show what a run has learned, with its curves; of one that goes on, what it has learned so far.

    Example: [bold]mizzen runs show forecasting-20260102-030405-1a2b[/bold]
    """
    _report([run], metric or [], plot, json=json)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Two runs or more.")],
    metric: Metric = None,
    plot: Plot = None,
    json: output.JsonOption = False,
) -> None:
    """Compare runs: what they were told, how well and how quickly they learned, and their curves.

    Example: [bold]mizzen runs compare films-20260102-030405-1a2b films-20260103-030405-3c4d[/bold]
    """
    if len(set(runs)) < 2:
        raise InputError(
            "there is nothing to compare", saw=", ".join(runs), allowed="two different runs or more"
        )
    _report(list(dict.fromkeys(runs)), metric or [], plot, json=json)


@app.command()
def tensorboard(
    run: Run,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Default: below the run's folder in MIZZEN_HOME.")
    ] = None,
) -> None:
    """Write a run's TensorBoard event file from its history in the store: for runs of other machines.

    Runs of this machine write theirs while they go on.

    Example: [bold]mizzen runs tensorboard forecasting-20260102-030405-1a2b --to logs/first[/bold]
    """
    from mizzen.settings import current
    from mizzen.training import tensorboard

    facts = _gathered([run])[0]
    if not facts.points:
        raise InputError("this run has no history", saw=run, remedy="Runs have one from their first step on.")
    folder = to or current().runs_dir / run / tensorboard.FOLDER
    if folder.is_dir() and any(folder.glob("events.out.tfevents.*")):
        if to is not None:
            raise InputError("there are event files already", saw=str(to), allowed="a new or an empty folder")
        output.say("the run has written its event files itself")
    else:
        try:
            tensorboard.write(folder, facts.record.job, facts.points)
        except OSError as cause:
            raise InputError("the event file cannot be written", saw=str(cause), field="--to") from None
    output.out.print(str(folder), soft_wrap=True, markup=False)
    output.say(f"look at it with `tensorboard --logdir {folder}`")


def _report(run_ids: list[str], metrics: list[str], plot: Path | None, *, json: bool) -> None:
    from mizzen.cli import comparison, curves, events

    runs = _gathered(run_ids)
    drawn = curves.chosen(runs, metrics)
    if plot is not None:
        if not drawn:
            raise InputError(
                "there is nothing to draw", saw=", ".join(run_ids), allowed="runs with a history"
            )
        curves.plot(plot, drawn, runs)
    if json:
        output.show_json(
            {
                "runs": [run.summary() for run in runs],
                "differences": comparison.differences(runs),
                "curves": {tag: dict(zip(run_ids, each, strict=True)) for tag, each in drawn.items()},
            }
        )
        return
    comparison.show(runs)
    if len(runs) == 1:
        events.show(runs[0].record.events)
    curves.show(drawn)
    if plot is not None:
        output.say(f"the curves are in {plot}")


def _gathered(run_ids: list[str]) -> list[RunFacts]:
    from mizzen.cli.run_facts import gather
    from mizzen.settings import current
    from mizzen.store.runs import Runs
    from mizzen.store.store import ModelStore

    url = current().store_url
    runs, store = Runs(url), ModelStore(url)
    return [gather(runs, store, run_id) for run_id in run_ids]


def _metrics(job: dict[str, Any], metrics: dict[str, float]) -> str:
    """The metric that the workload judges by, if it is known; else all."""
    from mizzen.errors import NotFoundError
    from mizzen.workloads import registry

    try:
        name = registry.get(str(job.get("workload", ""))).quality.name
    except NotFoundError:
        name = ""
    shown = {name: metrics[name]} if name in metrics else metrics
    return ", ".join(f"{key} {output.figure(value)}" for key, value in shown.items())
