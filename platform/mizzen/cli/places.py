"""Where a verb acts: this machine, a Ray cluster, or Kubernetes; the options that say so, once for all verbs.

It opens places; what jobs are, `mizzen.cluster.jobs` says.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mizzen.cluster.jobs import Jobs


class Place(StrEnum):
    """Values of `--on`."""

    local = "local"
    ray = "ray"
    kubernetes = "kubernetes"


On = Annotated[Place, typer.Option("--on", help="This machine, a running Ray cluster, or Kubernetes.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="With --on ray: the cluster's dashboard. Default: $RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="With --on kubernetes. Default: the context's namespace."),
]
Context = Annotated[
    str | None, typer.Option("--context", help="With --on kubernetes: the context of the kubeconfig file.")
]
Release = Annotated[
    str | None,
    typer.Option(help="With --on kubernetes: the Helm release, where a namespace has several."),
]
Image = Annotated[
    str | None, typer.Option(help="With --on kubernetes: the container image. Default: the release's.")
]


def jobs_in(place: Place, address: str | None, namespace: str | None, context: str | None) -> Jobs:
    """The jobs of a place. Raises `ClusterError`, and `InputError` for an option of another place."""
    from mizzen.settings import current

    check_options(place, address=address, namespace=namespace, context=context)
    if place is Place.ray:
        from mizzen.cluster.ray_jobs import RayJobs

        return RayJobs(address, current())
    if place is Place.kubernetes:
        from mizzen.cluster.kube import connect
        from mizzen.cluster.kube_jobs import KubeJobs

        return KubeJobs(connect(namespace, context), current())
    from mizzen.cluster.local_jobs import LocalJobs

    return LocalJobs(current())


OPTIONS_OF = {
    "address": (Place.ray,),
    "namespace": (Place.kubernetes,),
    "context": (Place.kubernetes,),
    "release": (Place.kubernetes,),
    "image": (Place.kubernetes,),
    "cluster": (Place.kubernetes,),
    "dry_run": (Place.kubernetes,),
    "follow": (Place.kubernetes, Place.ray),
}
"""Options that only some places understand: given elsewhere, they are refused, not ignored."""


def check_options(place: Place, **given: object) -> None:
    """Raise `InputError` if an option is given that `place` has no use for."""
    from mizzen.errors import InputError

    for name, value in given.items():
        if value and place not in OPTIONS_OF[name]:
            option = "--" + name.replace("_", "-")
            raise InputError(
                f"{option} means nothing with --on {place}",
                allowed=f"{option} with --on " + " or ".join(OPTIONS_OF[name]),
                remedy="Leave it out, or say where with --on.",
            )
