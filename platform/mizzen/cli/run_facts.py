"""What is known of a run, gathered from its record, its history and the version that it has published.

It gathers and reckons; `comparison` makes tables of it, `curves` pictures, `runs` has the verbs.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING, Any

from mizzen.cli import events
from mizzen.cluster import records
from mizzen.errors import InputError, IntegrityError, NotFoundError, StoreError
from mizzen.store.history import VALIDATION, Point, seconds_left, series

if TYPE_CHECKING:
    from mizzen.store.manifest import Manifest
    from mizzen.store.runs import RunRecord, Runs
    from mizzen.store.store import ModelStore
    from mizzen.workloads.contract import QualityMetric

MAX_NAMED = 10
PHASES = ("data", "forward", "backward", "optimizer")
"""Parts of a step."""


@dataclass(frozen=True)
class RunFacts:
    """A run with all that it has left."""

    record: RunRecord
    points: tuple[Point, ...]
    manifest: Manifest | None
    """The version in the store, also one whose gate has not passed."""

    @cached_property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """The curve of each tag."""
        return series(self.points)

    @cached_property
    def quality(self) -> QualityMetric | None:
        """The metric by which the workload judges; None if the workload is not installed here."""
        from mizzen.workloads import registry

        with suppress(NotFoundError):
            return registry.get(str(self.record.job.get("workload", ""))).quality
        return None

    @property
    def quiet(self) -> str:
        """What to say of a run that should give signs of life and gives none; else empty."""
        return records.quiet(self.record)

    @property
    def duration_s(self) -> float | None:
        """Of the last attempt, so far if it still runs, and as far as is known if nothing is heard of it."""
        record = self.record
        if record.started_at is None:
            return None
        now = record.updated_at if self.quiet else datetime.now(UTC)
        return ((record.ended_at or now) - record.started_at).total_seconds()

    @property
    def seconds_left(self) -> float | None:
        """Until the last step, if the run goes on and that can be said."""
        record = self.record
        if record.state != "running" or not record.num_steps or record.started_at is None or self.quiet:
            return None
        return seconds_left(self.points, record.num_steps, record.started_at.timestamp())

    def last(self, tag: str) -> float | None:
        """The last value of a curve."""
        curve = self.curves.get(tag)
        return curve[-1][1] if curve else None

    def usual(self, tag: str) -> float | None:
        """The median of a curve: a slow start and pauses do not count."""
        values = [value for _, value in self.curves.get(tag, []) if isfinite(value)]
        return median(values) if values else None

    def best(self) -> tuple[int, float] | None:
        """The step with the best validation, by the workload's own metric, and its value."""
        if self.quality is None:
            return None
        curve = self.curves.get(VALIDATION + self.quality.name, [])
        sign = 1.0 if self.quality.higher_is_better else -1.0
        finite = [point for point in curve if isfinite(point[1])]
        return max(finite, key=lambda point: sign * point[1], default=None)

    def summary(self) -> dict[str, Any]:
        """For scripts."""
        record, manifest, best = self.record, self.manifest, self.best()
        return {
            "run_id": record.run_id,
            "state": record.state,
            "reason": record.error or self.quiet or None,
            "job": record.job,
            "place": record.place,
            "attempts": record.attempt,
            "step": record.step,
            "num_steps": record.num_steps,
            "duration_s": self.duration_s,
            "start_up_s": record.start_up_s,
            "seconds_left": self.seconds_left,
            "last": {tag: curve[-1][1] for tag, curve in self.curves.items()},
            "median": {
                tag: self.usual(tag) for tag in self.curves if tag.startswith(("time/", "throughput/"))
            },
            "validation_before": record.initial_metrics,
            "validation": record.metrics,
            "best": None if best is None or self.quality is None else
            {"metric": self.quality.name, "step": best[0], "value": best[1]},
            "events": events.for_scripts(record.events),
            "published": None if manifest is None else {
                "model": manifest.name,
                "version": manifest.version,
                "gate_passed": manifest.gate.passed,
                "test": manifest.quality,
            },
        }  # fmt: skip


def gather(runs: Runs, store: ModelStore, run_id: str) -> RunFacts:
    """All that is known of a run. Raises `NotFoundError` that names the runs that there are."""
    record = runs.find(run_id)
    if record is None:
        names = [one.run_id for one in runs.list()]
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        raise NotFoundError(
            f"{runs.objects.url} has no run {run_id!r}",
            allowed=(", ".join(names[:MAX_NAMED]) + more) or "there is none yet",
            remedy="`mizzen runs list` shows them all; MIZZEN_STORE says which store is asked.",
        )
    manifest = None
    if record.model is not None and record.version is not None:
        with suppress(NotFoundError, IntegrityError):
            manifest = store.manifest(record.model, record.version)
    return RunFacts(record, runs.history(run_id), manifest)


def progress_of(run_id: str) -> str:
    """How far a run that goes on has come and how long it will take, for people; empty if nobody can say."""
    from mizzen.cli.jobs import span
    from mizzen.settings import current
    from mizzen.store.runs import Runs

    with suppress(StoreError, NotFoundError, InputError):
        runs = Runs(current().store_url)
        record = runs.find(run_id)
        if record is not None and record.num_steps and not record.ended:
            left_s = RunFacts(record, runs.history(run_id), None).seconds_left
            left = f", about {span(left_s)} left" if left_s is not None else ""
            return f"step {record.step or 0} of {record.num_steps}{left}"
    return ""
