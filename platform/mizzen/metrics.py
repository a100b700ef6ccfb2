"""Every series that Mizzen emits, declared once: name, kind, labels, help.

Values live in memory-mapped files in `Settings.metrics_dir`, one set of files a process, so that any
process of the machine can show the totals over all of them at once, also over those that have died.
Only processes that emit something (replicas, training workers) write files: Ray's own processes use
prometheus-client too and must not see this folder.

It starts no server, and it does not know who scrapes.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mizzen import settings

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_DURATIONS_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0),
)
_BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

Across = Literal["livesum", "mostrecent"]
"""What a gauge shows when several processes hold a value; `live*` forgets processes that have died."""


@dataclass(frozen=True)
class Series:
    """One declared series; counters are exposed with the ending `_total`, which stands in the name."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    across: Across = "livesum"


_SERVED = ("app", "model", "version")
REQUESTS = Series(
    "mizzen_requests_total",
    "counter",
    (*_SERVED, "route", "method", "code"),
    "Requests answered. Code 499: the client went away.",
)
REQUEST_DURATION = Series(
    "mizzen_request_duration_seconds",
    "histogram",
    (*_SERVED, "route"),
    "From the request's first byte to the last of the answer.",
    buckets=_DURATIONS_S,
)
REQUESTS_IN_FLIGHT = Series(
    "mizzen_requests_in_flight",
    "gauge",
    _SERVED,
    "Requests that are being answered or wait for it.",
    across="livesum",
)
BATCH_SIZE = Series(
    "mizzen_batch_size",
    "histogram",
    _SERVED,
    "Requests that shared one call of the model.",
    buckets=_BATCH_SIZES,
)
MODEL_INFO = Series(
    "mizzen_model_info",
    "gauge",
    (*_SERVED, "digest", "workload", "precision", "provider"),
    "Replicas that answer with this version.",
    across="livesum",
)
RELOAD_FAILURES = Series(
    "mizzen_reload_failures_total",
    "counter",
    ("app", "model", "version"),
    "Replicas that could not load this version and kept the one before.",
)
TRAINING_LOSS = Series(
    "mizzen_training_loss", "gauge", ("job",), "Training loss of the last step.", across="mostrecent"
)
TRAINING_LEARNING_RATE = Series(
    "mizzen_training_learning_rate", "gauge", ("job",), "Learning rate of the last step.", across="mostrecent"
)
TRAINING_STEP_DURATION = Series(
    "mizzen_training_step_duration_seconds",
    "histogram",
    ("job",),
    "One optimiser step, its data included.",
    buckets=_DURATIONS_S,
)
TRAINING_STEPS = Series(
    "mizzen_training_steps_total", "counter", ("job",), "Optimiser steps, over all workers."
)
TRAINING_SAMPLES = Series(
    "mizzen_training_samples_total", "counter", ("job",), "Samples trained on, over all workers."
)
TRAINING_TOKENS = Series(
    "mizzen_training_tokens_total", "counter", ("job",), "Tokens trained on, over all workers."
)

SERIES = (
    REQUESTS,
    REQUEST_DURATION,
    REQUESTS_IN_FLIGHT,
    BATCH_SIZE,
    MODEL_INFO,
    RELOAD_FAILURES,
    TRAINING_LOSS,
    TRAINING_LEARNING_RATE,
    TRAINING_STEP_DURATION,
    TRAINING_STEPS,
    TRAINING_SAMPLES,
    TRAINING_TOKENS,
)


# --- writing --------------------------------------------------------------------------------------


def _into_files(folder: Path) -> None:
    """Make prometheus-client keep this process's values in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[_FOLDER_VARIABLE] = str(folder)
    from prometheus_client import values

    if not values.ValueClass._multiprocess:
        # Somebody imported it before the variable was set. Metrics look the class up when a series is
        # first used, so this is in time for all of ours.
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call] # it has no types


@cache
def _instruments() -> dict[str, Any]:
    folder = settings.current().metrics_dir
    _into_files(folder)
    _sign_in(folder, os.getpid())
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    registry = CollectorRegistry()
    made: dict[str, Any] = {}
    for series in SERIES:
        if series.kind == "counter":
            made[series.name] = Counter(series.name, series.help, series.labels, registry=registry)
        elif series.kind == "gauge":
            made[series.name] = Gauge(
                series.name, series.help, series.labels, registry=registry, multiprocess_mode=series.across
            )
        else:
            made[series.name] = Histogram(
                series.name, series.help, series.labels, registry=registry, buckets=series.buckets
            )
    return made


def _counter(series: Series) -> Counter:
    instrument: Counter = _instruments()[series.name]
    return instrument


def _gauge(series: Series) -> Gauge:
    instrument: Gauge = _instruments()[series.name]
    return instrument


def _histogram(series: Series) -> Histogram:
    instrument: Histogram = _instruments()[series.name]
    return instrument


class ServedMetrics:
    """What a replica records of one model version that it answers with."""

    def __init__(self, app: str, model: str, version: int) -> None:
        self._labels = (app, model, str(version))
        self._in_flight = _gauge(REQUESTS_IN_FLIGHT).labels(*self._labels)
        self._batch_size = _histogram(BATCH_SIZE).labels(*self._labels)
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        """By route, method and code: prometheus-client's own lookup costs more than the counting."""

    def started(self) -> None:
        """A request came in."""
        self._in_flight.inc()

    def finished(self, *, route: str, method: str, code: int, duration_s: float) -> None:
        """The request was answered; `route` is a template from a bounded set, never the path itself."""
        self._in_flight.dec()
        series = self._answered.get((route, method, code))
        if series is None:
            count = _counter(REQUESTS).labels(*self._labels, route, method, str(code))
            series = count, _histogram(REQUEST_DURATION).labels(*self._labels, route)
            self._answered[route, method, code] = series
        series[0].inc()
        series[1].observe(duration_s)

    def batch(self, size: int) -> None:
        """The model was called once for `size` requests."""
        self._batch_size.observe(size)

    def loaded(self, present: bool, *, digest: str, workload: str, precision: str, provider: str) -> None:
        """This replica answers with the version from now on, or no longer."""
        info = _gauge(MODEL_INFO).labels(*self._labels, digest, workload, precision, provider)
        info.set(1 if present else 0)

    def reload_failed(self) -> None:
        """The version could not be loaded."""
        _counter(RELOAD_FAILURES).labels(*self._labels).inc()


class TrainingMetrics:
    """What a training worker records."""

    def __init__(self, job: str) -> None:
        self._loss = _gauge(TRAINING_LOSS).labels(job)
        self._learning_rate = _gauge(TRAINING_LEARNING_RATE).labels(job)
        self._duration = _histogram(TRAINING_STEP_DURATION).labels(job)
        self._steps = _counter(TRAINING_STEPS).labels(job)
        self._trained = {
            "samples": _counter(TRAINING_SAMPLES).labels(job),
            "tokens": _counter(TRAINING_TOKENS).labels(job),
        }

    def step(
        self,
        *,
        loss: float,
        duration_s: float,
        count: int,
        unit: Literal["samples", "tokens"],
        learning_rate: float,
    ) -> None:
        """One optimiser step of this worker; `count` is what this worker alone saw, in `unit`."""
        self._loss.set(loss)
        self._learning_rate.set(learning_rate)
        self._duration.observe(duration_s)
        self._steps.inc()
        self._trained[unit].inc(count)


def training(job: str) -> TrainingMetrics:
    """The recorder for a training worker of the job called `job`."""
    return TrainingMetrics(job)


# --- reading --------------------------------------------------------------------------------------


def exposition(folder: Path | None = None) -> bytes:
    """The totals over all processes of this machine, in Prometheus's text format."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Totals(folder or settings.current().metrics_dir))  # type: ignore[arg-type] # duck-typed
    return generate_latest(registry)


def samples(
    series: Series, folder: Path | None = None, pids: Collection[int] | None = None
) -> list[tuple[dict[str, str], float]]:
    """Labels and value of each line of a counter or gauge, over all processes here or over `pids`."""
    totals = _Totals(folder or settings.current().metrics_dir, pids)
    return [
        (dict(sample.labels), sample.value)
        for metric in totals.collect()
        for sample in metric.samples
        if sample.name == series.name
    ]


class _Totals:
    """Sums the files of all processes, or of `pids`."""

    def __init__(self, folder: Path, pids: Collection[int] | None = None) -> None:
        self.folder = folder
        self.pids = pids

    def collect(self) -> Iterator[Any]:
        from prometheus_client.multiprocess import MultiProcessCollector

        _forget_the_dead(self.folder)
        files = [
            str(file)
            for file in self.folder.glob("*.db")
            if (self.pids is None or _pid(file) in self.pids) and _has_begun(file)
        ]
        merge: Any = MultiProcessCollector.merge
        for metric in merge(files):
            if metric.name == MODEL_INFO.name:
                # A version that is no longer served: prometheus-client cannot take a line out of a file.
                metric.samples = [sample for sample in metric.samples if sample.value]
            if metric.samples:
                yield metric


def _has_begun(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


def clean(folder: Path | None = None) -> bool:
    """Delete all values if no live process holds any; says whether it did."""
    folder = folder or settings.current().metrics_dir
    files = list(folder.glob("*.db"))
    if any(_is_alive(folder, _pid(file)) for file in files):
        return False
    for file in (*files, *folder.glob("process_*.txt")):
        file.unlink(missing_ok=True)
    return True


# --- who is alive ---------------------------------------------------------------------------------


def _sign_in(folder: Path, pid: int) -> None:
    """Note which process writes under `pid`, for the number may be another's some day, or in another pod.

    Gauges that a process before us left under our number would be taken for ours; its counters may go on.
    """
    for file in folder.glob(f"gauge_live*_{pid}.db"):
        file.unlink(missing_ok=True)
    _record(folder, pid).write_text(_identity(pid) or "")


def _record(folder: Path, pid: int) -> Path:
    return folder / f"process_{pid}.txt"


def _identity(pid: int) -> str | None:
    """The namespace in which `pid` is a number, and when its process has started, in clock ticks.

    None where the system does not tell, which only Linux does, or if there is no such process any more.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 # not a file's path
        state, *more = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in ("Z", "X") else f"{namespace} {more[18]}"


def _forget_the_dead(folder: Path) -> None:
    for file in folder.glob("gauge_live*.db"):
        if not _is_alive(folder, _pid(file)):
            file.unlink(missing_ok=True)


def _pid(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])


def _is_alive(folder: Path, pid: int) -> bool:
    """Whether the process that wrote under `pid` lives; where that cannot be told, it is taken to live."""
    try:
        then = _record(folder, pid).read_text()
    except FileNotFoundError:
        then = ""
    ours, now = _identity(os.getpid()), _identity(pid)
    if then and ours:
        # Numbers of another container, unless the pod shares its processes, say nothing here.
        return now == then or then.split()[0] != ours.split()[0]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
