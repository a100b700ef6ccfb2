"""What the processes of a run switch on to be followed: their spans and their log files.

One trace is one run: the driver's span is its root, or lies below the span of whoever submitted the job, and
those of the workers lie below the driver's. It measures nothing itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mizzen import logs, tracing
from mizzen.settings import Settings
from mizzen.training.job import TrainJob
from mizzen.training.loop import StepDone

STEP_EVERY_S = 10.0
"""A step of each worker becomes spans so often; all of them would be most of what a collector gets."""


@contextmanager
def driver(job: TrainJob, run: str, settings: Settings) -> Iterator[None]:
    """The block is the run."""
    file = logs.start("train")
    tracing.start(role="training driver")
    about: dict[str, tracing.Value] = {
        "train_job": job.name,
        "run": run,
        "workload": job.workload,
        "workers": job.scaling.max_workers,
    }
    try:
        with (
            logs.about(train_job=job.name, run=run),
            tracing.below(settings.traceparent),
            tracing.span("run", **about),
        ):
            yield
    finally:
        tracing.flush()
        file.flush()


@contextmanager
def worker(job: TrainJob, run: str, rank: int, traceparent: str | None) -> Iterator[None]:
    """The block is what one worker does; `traceparent` is the driver's span."""
    logs.start(f"worker-{rank}", train_job=job.name, run=run, rank=str(rank))
    tracing.start(role="training worker", rank=str(rank))
    try:
        with tracing.below(traceparent), tracing.span("worker", train_job=job.name, run=run, rank=rank):
            yield
    finally:
        tracing.flush()  # Ray ends the process at once


class Steps:
    """Makes spans of a step with its phases, once in a while.

    The phases stand one behind the other; with several micro-batches each is the sum over them.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._last_s: float | None = None

    def done(self, done: StepDone) -> None:
        """A step has just ended."""
        if tracing.context() is None:
            return
        now_s = self._clock_s()
        if self._last_s is not None and now_s - self._last_s < STEP_EVERY_S:
            return
        self._last_s = now_s
        ended_ns = time.time_ns()
        begun_ns = ended_ns - _ns(done.duration_s)
        step = tracing.begin("step", {"step": done.step, "count": done.count}, start_ns=begun_ns)
        for phase, duration_s in done.phases.items():
            until_ns = min(begun_ns + _ns(duration_s), ended_ns)
            tracing.begin(phase, {}, parent=step.context, start_ns=begun_ns).end(until_ns)
            begun_ns = until_ns
        step.end(ended_ns)


def _ns(duration_s: float) -> int:
    return round(duration_s * 1e9)
