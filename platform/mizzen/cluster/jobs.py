"""What `mizzen jobs` asks of a place where jobs run: this machine, a Ray cluster, Kubernetes.

Each place implements `Jobs` in a module of its own; the verbs know this protocol alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mizzen.store.runs import ENDED, Event, Place, State


@dataclass(frozen=True)
class Job:
    """A submitted training job, as its place tells it."""

    name: str
    """The run id: also the RayJob's name, and Ray's submission id."""
    state: State
    reason: str = ""
    """One sentence: why it waits, failed or was cancelled; empty if there is nothing to explain."""
    job: str = ""
    """The job file's `name`."""
    workload: str = ""
    created_at: datetime | None = None
    """With a time zone, as `started_at` and `ended_at`."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    workers: int | None = None
    """At most."""
    min_workers: int | None = None
    """At least; fewer than `workers` if their number may change."""
    model: str | None = None
    """The model in the store that the run published, with `version`."""
    version: int | None = None
    events: tuple[Event, ...] = ()
    """What happened to it and when, as its run's record has it."""
    where: str = ""
    """The place, for people: a folder, an address, `namespace/cluster`."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ENDED

    @property
    def span(self) -> str:
        """How many workers, for people: `2`, `2-4`, or nothing if that is not known."""
        most = "" if self.workers is None else str(self.workers)
        return f"{self.min_workers}-{most}" if self.min_workers not in (None, self.workers) else most


def numbers(workers: str) -> tuple[int | None, int | None]:
    """The fewest and the most of `workers`, as a job or its note has them: `2`, `[2, 4]`, `2 to 4`."""
    found = [int(number) for number in re.findall(r"[0-9]+", workers)]
    return (found[0], found[-1]) if found else (None, None)


class Jobs(Protocol):
    """Training jobs in one place. Every method raises `ClusterError` if the place cannot be reached."""

    @property
    def place(self) -> Place:
        """Which place this is."""
        ...

    def list(self) -> list[Job]:
        """All jobs, the newest first."""
        ...

    def show(self, name: str) -> Job:
        """One job, with `reason` as well explained as the place allows. Raises `NotFoundError`."""
        ...

    def logs(self, name: str, follow: bool) -> Iterator[str]:
        """The lines of the job's log without their ends; with `follow`, until the job has ended.

        Raises `NotFoundError` if there is no such job.
        """
        ...

    def cancel(self, name: str) -> None:
        """Stop the job; its record and logs stay. Raises `NotFoundError`; `ClusterError` if it has ended."""
        ...

    def delete(self, name: str) -> None:
        """Remove the job with its record and logs; never what it published. Raises `NotFoundError`."""
        ...
