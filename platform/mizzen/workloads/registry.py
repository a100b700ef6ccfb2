"""Finds workloads by entry point; a workload is imported when it is first asked for, not before."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from mizzen.errors import MizzenError, NotFoundError
from mizzen.workloads.contract import Workload

GROUP = "mizzen.workloads"


@cache
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name)}


def names() -> list[str]:
    """Names of all workloads that are installed, sorted."""
    return list(_entries())


@cache
def get(name: str) -> Workload:
    """The workload called `name`. Raises `NotFoundError`, or `MizzenError` if its package is broken."""
    entry = _entries().get(name)
    if entry is None:
        raise NotFoundError(
            "no such workload",
            saw=repr(name),
            allowed=", ".join(names()) or "none is installed",
            remedy=f"Install the package that registers it under the entry-point group {GROUP!r}.",
            field="workload",
        )
    try:
        workload = entry.load()
    except (ImportError, AttributeError) as cause:
        raise MizzenError(
            f"the workload {name!r} cannot be imported: {cause}",
            saw=entry.value,
            remedy=f"Mend or remove the package {entry.dist.name if entry.dist else entry.value!r}.",
        ) from cause
    if not isinstance(workload, Workload) or workload.name != name:
        raise MizzenError(
            f"the entry point {GROUP}:{name} is no workload of that name",
            saw=repr(workload),
            allowed="an instance of mizzen.workloads.contract.Workload whose name is the entry point's",
            remedy=f"Mend or remove the package {entry.dist.name if entry.dist else entry.value!r}.",
        )
    return workload
