"""Records series: values live in memory-mapped files in `Settings.metrics_dir`, one set of files a process.

So any process of the machine can show the totals over all of them at once (`totals`), also over those that
have died. Only processes that emit something (replicas, training workers) write files: Ray's own processes
use prometheus-client too and must not see this folder.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mizzen import metrics, settings
from mizzen.liveness import sign_in
from mizzen.series import OTHER, Label, Series

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class Recorder:
    """Writes series, some of whose labels are fixed.

    Each method takes the other labels of the series by name, in the series' order. A value outside a label's
    closed set, or a new one beyond its limit, is written as `other`. Safe to call from threads.
    """

    def __init__(self, **fixed: str) -> None:
        self.fixed = fixed
        self._children: dict[tuple[str, ...], Any] = {}

    def bound(self, **more: str) -> Recorder:
        """A recorder with these labels fixed too."""
        return Recorder(**self.fixed, **more)

    def count(self, series: Series, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self._child(series, labels).inc(amount)

    def set(self, series: Series, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._child(series, labels).set(value)

    def add(self, series: Series, amount: float, **labels: str) -> None:
        """Add to a gauge."""
        self._child(series, labels).inc(amount)

    def observe(self, series: Series, value: float, **labels: str) -> None:
        """Note a value in a histogram."""
        self._child(series, labels).observe(value)

    def _child(self, series: Series, labels: dict[str, str]) -> Any:
        # prometheus-client's own lookup costs more than the counting.
        key = series.name, *labels.values()
        found = self._children.get(key)
        if found is None:
            known = {**self.fixed, **labels}
            values = [bounded(series, label, known[label.name]) for label in series.labels]
            instrument = _instrument(series)
            found = instrument.labels(*values) if values else instrument
            if OTHER not in values:  # else who sends ever new values fills the memory
                self._children[key] = found
        return found


_seen: dict[tuple[str, str], set[str]] = {}
_lock = threading.Lock()


def bounded(series: Series, label: Label, value: str) -> str:
    """`value`, or `other` if the label's bound does not allow it."""
    if label.values:
        return value if value in label.values else OTHER
    with _lock:
        seen = _seen.setdefault((series.name, label.name), set())
        if value not in seen and len(seen) >= label.limit:
            return OTHER
        seen.add(value)
    return value


class ServedMetrics:
    """What a replica records of one model version that it answers with."""

    def __init__(self, app: str, model: str, version: int) -> None:
        self.recorder = Recorder(app=app, model=model, version=str(version))

    def started(self) -> None:
        """A request came in."""
        self.recorder.add(metrics.REQUESTS_IN_FLIGHT, 1)

    def finished(self, *, route: str, method: str, code: int, duration_s: float) -> None:
        """The request was answered; `route` is a template from a bounded set, never the path itself."""
        self.recorder.add(metrics.REQUESTS_IN_FLIGHT, -1)
        self.recorder.count(metrics.REQUESTS, route=route, method=method, code=str(code))
        self.recorder.observe(metrics.REQUEST_DURATION, duration_s, route=route)

    def batch(self, size: int) -> None:
        """The model was called once for `size` requests."""
        self.recorder.observe(metrics.BATCH_SIZE, size)

    def loaded(
        self, present: bool, *, digest: str, workload: str, precision: str, provider: str, alias: str = "none"
    ) -> None:
        """This replica answers with the version from now on, or no longer."""
        self.recorder.set(
            metrics.MODEL_INFO,
            1 if present else 0,
            digest=digest,
            alias=alias,
            workload=workload,
            precision=precision,
            provider=provider,
        )

    def reload_failed(self) -> None:
        """The version could not be loaded."""
        self.recorder.count(metrics.RELOAD_FAILURES)


# --- prometheus-client ----------------------------------------------------------------------------


@cache
def _registry() -> CollectorRegistry:
    folder = settings.current().metrics_dir
    _into_files(folder)
    sign_in(folder, os.getpid())
    from prometheus_client import CollectorRegistry

    return CollectorRegistry()


def _into_files(folder: Path) -> None:
    """Make prometheus-client keep this process's values in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[_FOLDER_VARIABLE] = str(folder)
    from prometheus_client import values

    if not values.ValueClass._multiprocess:
        # Somebody imported it before the variable was set. Metrics look the class up when a series is
        # first used, so this is in time for all of ours.
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call] # it has no types


_instruments: dict[str, Any] = {}
_making = threading.RLock()


def _instrument(series: Series) -> Any:
    with _making:
        if series.name not in _instruments:
            _instruments[series.name] = _made(series)
        return _instruments[series.name]


def _made(series: Series) -> Any:
    registry = _registry()
    from prometheus_client import Counter, Gauge, Histogram

    names = series.label_names
    if series.kind == "counter":
        return Counter(series.name, series.help, names, registry=registry)
    if series.kind == "gauge":
        return Gauge(series.name, series.help, names, registry=registry, multiprocess_mode=series.across)
    return Histogram(series.name, series.help, names, registry=registry, buckets=series.buckets)
