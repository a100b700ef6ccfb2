"""`mizzen doctor` and `mizzen version`: is this machine fit, and what is installed."""

from __future__ import annotations

import sys

import typer

from mizzen.cli import output


def version(json: output.JsonOption = False) -> None:
    """Show the versions of Mizzen and of what it stands on.

    Example: [bold]mizzen version --json[/bold]
    """
    from importlib.metadata import version as version_of

    from mizzen.training.pipeline import libraries

    found = {"mizzen": version_of("mizzen"), "python": sys.version.split()[0], **libraries()}
    if json:
        output.show_json(found)
    else:
        for name, number in found.items():
            print(f"{name} {number}")


def doctor(json: output.JsonOption = False) -> None:
    """Check what training, the store and serving need on this machine; each finding with its remedy.

    Exit code 1 if something is missing.

    Example: [bold]mizzen doctor[/bold]
    """
    from mizzen.cli.checks import run_all
    from mizzen.settings import current

    findings = run_all(current())
    if json:
        output.show_json([f.__dict__ for f in findings])
    else:
        marks = {
            "ok": "[green]ok[/green]",
            "warning": "[yellow]warning[/yellow]",
            "missing": "[red]missing[/red]",
        }
        for finding in findings:
            remedy = f"\n         {finding.remedy}" if finding.remedy and finding.state != "ok" else ""
            output.out.print(
                f"{marks[finding.state]:<8} {finding.what}: {finding.saw}{remedy}", soft_wrap=True
            )
    if any(f.state == "missing" for f in findings):
        raise typer.Exit(1)
