"""`mizzen status`: what is served, here or on Kubernetes, and if not, why."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from mizzen.cli import output
from mizzen.cli.places import Context, Namespace, On, Place, Release, check_options
from mizzen.errors import InputError

if TYPE_CHECKING:
    from mizzen.cluster.service import ServiceStatus

COLOURS = {"running": "green", "failed": "red", "unhealthy": "red", "starting": "yellow", "waiting": "yellow"}


def status(
    on: On = Place.local,
    namespace: Namespace = None,
    context: Context = None,
    release: Release = None,
    json: output.JsonOption = False,
) -> None:
    """Show what is served; for what does not answer, the reason. Exit code 7 if something does not.

    Example: [bold]mizzen status --on kubernetes[/bold]
    """
    check_options(on, namespace=namespace, context=context, release=release)
    if on is Place.ray:
        raise InputError(
            "Mizzen serves on this machine and on Kubernetes",
            saw="--on ray",
            allowed="--on local, --on kubernetes",
            remedy="For applications on a Ray cluster of your own: `serve status`.",
        )
    if on is Place.local:
        _local(json=json)
    else:
        _kubernetes(namespace, context, release, json=json)


def _local(*, json: bool) -> None:
    from mizzen.serving.running import find
    from mizzen.settings import current

    found = find(current())
    if json:
        output.show_json([asdict(one) for one in found])
        return
    for one in found:
        output.out.print(f"process {one.pid} serves at {one.url}")
        for app in one.apps:
            output.out.print(f"  {app.name}  {app}", soft_wrap=True)
    if not found:
        output.out.print("nothing is being served; `mizzen serve` starts it")


def _kubernetes(namespace: str | None, context: str | None, release: str | None, *, json: bool) -> None:
    from mizzen.cluster import service
    from mizzen.cluster.kube import connect

    kube = connect(namespace, context)
    found = service.status(kube, release)
    if json:
        output.show_json([asdict(one) for one in found])
    elif not found:
        output.out.print(
            f"nothing is served in the namespace {kube.namespace}; name models under `apps` in its values",
            soft_wrap=True,
        )
    else:
        for one in found:
            _show(one)
    if not all(one.healthy for one in found):
        raise typer.Exit(7)


def _show(one: ServiceStatus) -> None:
    ready = "[green]ready[/green]" if one.ready else "[red]not ready[/red]"
    pods = f"{one.num_endpoints} pod{'' if one.num_endpoints == 1 else 's'} take requests"
    output.out.print(f"[bold]{one.name}[/bold]  {ready}, {pods}, {one.address}", soft_wrap=True)
    if one.next_cluster and one.cluster:
        output.out.print(f"{one.next_cluster} is being made ready to take over from {one.cluster}")
    if one.reason:
        output.out.print(one.reason, style="red", markup=False, soft_wrap=True)
    for app in one.apps:
        colour = COLOURS.get(app.state, "white")
        output.out.print(
            f"  [{colour}]{app.state:<9}[/{colour}] {app.name}  {', '.join((app.model, *app.beside))}"
            f"  {app.route_prefix}",
            soft_wrap=True,
        )
        if app.reason:
            output.out.print(f"            {app.reason}", markup=False, soft_wrap=True)
