"""`mizzen doctor` and `mizzen version`: is this machine fit, and what is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import typer

from mizzen.cli import output
from mizzen.cli.places import Context, Image, Namespace, On, Place, Release, check_options
from mizzen.errors import InputError

MARKS = {
    "ok": "[green]ok[/green]",
    "warning": "[yellow]warning[/yellow]",
    "missing": "[red]missing[/red]",
}


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


def doctor(
    on: On = Place.local,
    namespace: Namespace = None,
    context: Context = None,
    release: Release = None,
    image: Image = None,
    json: output.JsonOption = False,
) -> None:
    """Check what training, the store and serving need, here or on Kubernetes; each finding with its remedy.

    Exit code 1 if something is missing. On Kubernetes it starts a short pod, which looks from inside.

    Example: [bold]mizzen doctor[/bold], [bold]mizzen doctor --on kubernetes[/bold]
    """
    check_options(on, namespace=namespace, context=context, release=release, image=image)
    findings: Iterable[Any]
    if on is Place.kubernetes:
        from mizzen.cluster import doctor as on_kubernetes
        from mizzen.cluster.kube import connect

        findings = on_kubernetes.run_all(connect(namespace, context), release, image)
    elif on is Place.ray:
        raise InputError(
            "there are no checks of a Ray cluster from outside",
            saw="--on ray",
            allowed="--on local, --on kubernetes",
            remedy="Run `mizzen doctor` on its head.",
        )
    else:
        from mizzen.cli.checks import run_all
        from mizzen.settings import current

        findings = run_all(current())
    shown = list(_told(findings, quiet=json))
    if json:
        output.show_json([f.__dict__ for f in shown])
    if any(f.state == "missing" for f in shown):
        raise typer.Exit(1)


def _told(findings: Iterable[Any], *, quiet: bool) -> Iterator[Any]:
    """The findings, each printed when it is made: some take a while."""
    for finding in findings:
        if not quiet:
            remedy = f"\n         {finding.remedy}" if finding.remedy and finding.state != "ok" else ""
            output.out.print(MARKS[finding.state], end=" " * (9 - len(finding.state)))
            output.out.print(f"{finding.what}: {finding.saw}{remedy}", soft_wrap=True, markup=False)
        yield finding
