"""The command line: thin verbs over the platform; heavy imports stand inside the verbs.

Exit codes: 0 done; 1 an error of Mizzen's own; 2 wrong input (command line, job or serve file, data);
3 not found; 4 the gate refused an export; 5 the store; 6 training; 7 serving;
8 Kubernetes or a Ray cluster; 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

from mizzen.cli import (
    audit,
    data,
    jobs,
    keys,
    knowledge,
    logs,
    metrics,
    models,
    plan,
    quickstart,
    runs,
    serve,
    status,
    system,
    top,
    train,
    try_,
)
from mizzen.cli.output import show_error
from mizzen.errors import MizzenError

app = typer.Typer(
    name="mizzen",
    help="Train models on your own data, gate and store them, and serve them over HTTP.\n\n"
    "Exit codes: 0 done, 1 internal error, 2 wrong input, 3 not found, 4 gate refused, 5 store, "
    "6 training, 7 serving, 8 cluster, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("quickstart")(quickstart.quickstart)
app.command("train", cls=train.ResumeMayBeAlone)(train.train)
app.command("plan")(plan.plan)
app.add_typer(jobs.app, name="jobs")
app.add_typer(runs.app, name="runs")
app.add_typer(models.app, name="models")
app.add_typer(knowledge.app)
app.add_typer(keys.app, name="keys")
app.command("audit")(audit.audit)
app.command("serve")(serve.serve)
app.command("reload")(serve.reload)
app.command("status")(status.status)
app.command("try")(try_.try_)
app.command("logs")(logs.logs)
app.command("metrics")(metrics.metrics)
app.command("top")(top.top)
app.add_typer(data.app, name="data")
app.command("doctor")(system.doctor)
app.command("version")(system.version)


def main() -> None:
    """The entry point of the `mizzen` command."""
    try:
        app()
    except MizzenError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
