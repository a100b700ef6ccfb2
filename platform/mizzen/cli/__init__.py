"""The command line: thin verbs over the platform; heavy imports stand inside the verbs.

Exit codes: 0 done; 1 an error of Mizzen's own; 2 wrong input (command line, job or serve file, data);
3 not found; 4 the gate refused an export; 5 the store; 6 training; 7 serving;
8 Kubernetes or a Ray cluster; 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import typer

from mizzen import settings
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
from mizzen.errors import InputError, MizzenError

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
    except OSError as error:
        problem = _with_home(error)
        if problem is None:
            raise
        show_error(problem)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _with_home(error: OSError) -> InputError | None:
    """What is wrong with the folder that Mizzen keeps its files in; None if it is something else."""
    home = settings.current().home
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not full and not (error.filename and Path(os.fsdecode(error.filename)).is_relative_to(home)):
        return None
    return InputError(
        "a file of Mizzen's cannot be read or written",
        saw=str(error),
        remedy=f"Its folder is {home} (MIZZEN_HOME): it has to be one that you may write to, with room.",
    )
