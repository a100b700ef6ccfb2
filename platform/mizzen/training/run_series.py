"""The series of a run as a whole, recorded by the process that drives it: what happened, and how it ended.

Counters stand at 0 from the run's start: Prometheus sees an increase only from a value that it has scraped.
What a run's steps are like is recorded by its workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from mizzen import metrics, recording
from mizzen.recording import Recorder
from mizzen.store.runs import EventKind

Outcome = Literal["succeeded", "failed", "cancelled"]


class RunSeries:
    """Records one attempt at a run."""

    def __init__(self, job: str, run: str) -> None:
        recording.begin()
        self._job, self._run = Recorder(train_job=job), Recorder(train_job=job, run=run)
        self._started_before = False
        self._resized = self._failed = False
        """Since the workers began: they stand still to be more or fewer, or one of them has failed."""
        for outcome in metrics.TRAINING_RUNS.labels[-1].values:
            self._job.count(metrics.TRAINING_RUNS, 0, outcome=outcome)
        self._run.count(metrics.TRAINING_RESTARTS, 0)
        for kind in get_args(EventKind):
            self._run.count(metrics.TRAINING_EVENTS, 0, kind=kind)

    def attempt(self, number: int) -> None:
        """Which attempt at the run this is, from 1."""
        self._started_before = number > 1

    def workers_began(self) -> None:
        """The run's workers begin: once for all of them."""
        if self._started_before and not self._resized:
            self._run.count(metrics.TRAINING_RESTARTS)
        self._started_before, self._resized, self._failed = True, False, False

    def event(self, kind: EventKind) -> None:
        """Something has happened to the run, and stands in its record."""
        self._run.count(metrics.TRAINING_EVENTS, kind=kind)
        self._failed = self._failed or kind in ("worker_failed", "node_lost")
        self._resized = self._resized or (kind == "resized" and not self._failed)

    @contextmanager
    def outcome(self) -> Iterator[None]:
        """How the block ends is how the run has ended."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self._job.count(metrics.TRAINING_RUNS, outcome="cancelled")
            raise
        except BaseException:
            self._job.count(metrics.TRAINING_RUNS, outcome="failed")
            raise
        self._job.count(metrics.TRAINING_RUNS, outcome="succeeded")
