"""Records series: values live in memory-mapped files in `Settings.metrics_dir`, one set of files a process.

So any process of the machine can show the totals over all of them at once (`totals`), also over those that
have died. Only processes that emit something (replicas, training workers) write files: Ray's own processes
use prometheus-client too and must not see this folder.

It knows no series but those of `ServedMetrics`, and nothing of who reads.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mizzen import exemplars, metrics, settings
from mizzen.liveness import others, sign_in
from mizzen.series import ABSENT, OTHER, Label, Series

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = logging.getLogger(__name__)

_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_LONGEST_VALUE = 200
"""Characters of a label's value; a longer one is `other`."""

Key = tuple[str, ...]


class Recorder:
    """Writes series, some of whose labels are fixed.

    Each method takes the other labels of the series by name. A value outside a label's closed set, or a new
    one beyond its limit, is written as `other`. Safe to call from threads. A label that the series does not
    have, or one that is missing, is a mistake of the caller's: `ValueError`.
    """

    def __init__(self, **fixed: str) -> None:
        self.fixed = fixed
        self._cells: dict[Key, Any] = {}
        self._observed: dict[Key, Key] = {}
        """The values of all labels of the histograms in `_cells`: exemplars are kept by them."""
        self._gauges = _Gauges()

    def bound(self, **more: str) -> Recorder:
        """A recorder with these labels fixed too; `forget` means both."""
        other = Recorder(**{**self.fixed, **more})
        other._gauges = self._gauges
        return other

    def count(self, series: Series, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter; 0 shows it before anything has happened."""
        self._cell(series, labels).inc(amount)

    def set(self, series: Series, value: float, **labels: str) -> None:
        """Set a gauge."""
        with _lock:  # or it could be set right after `forget`, and stay
            if not self._gauges.forgotten:
                self._cell(series, labels).set(value)

    def add(self, series: Series, amount: float, **labels: str) -> None:
        """Add to a gauge."""
        with _lock:
            if not self._gauges.forgotten:
                self._cell(series, labels).inc(amount)

    def observe(self, series: Series, value: float, exemplar: str | None = None, **labels: str) -> None:
        """Note a value in a histogram; `exemplar` is the id of the trace that it belongs to."""
        self._cell(series, labels).observe(value)
        if exemplar is not None:
            values = self._observed.get((series.name, *labels, *labels.values()))
            if values is not None:
                exemplars.keep(series, values, value, exemplar)

    def cell(self, series: Series, **labels: str) -> Any:
        """prometheus-client's own object behind one line, to be kept where every microsecond counts."""
        return self._cell(series, labels)

    def forget(self) -> None:
        """Show none of the gauges any more that this recorder has set, and set none from now on.

        Counters and histograms stay, for totals go on. A gauge that another recorder of this process has
        set too stays until that one forgets it as well.
        """
        self._gauges.forget()

    def _cell(self, series: Series, labels: dict[str, str]) -> Any:
        # prometheus-client's own lookup costs more than the counting.
        key = series.name, *labels, *labels.values()
        found = self._cells.get(key)
        return self._made(series, labels, key) if found is None else found

    def _made(self, series: Series, labels: dict[str, str], key: Key) -> Any:
        names = series.label_names
        known = {**self.fixed, **labels}
        if not known.keys() >= set(names) or not labels.keys() <= set(names):
            raise ValueError(f"{series.name} has the labels {names}, not {tuple(known)}")
        values = tuple(bounded(series, label, known[label.name]) for label in series.labels)
        try:
            instrument = _instrument(series)
            _folder().mkdir(parents=True, exist_ok=True)  # somebody may have deleted it
            cell = instrument.labels(*values) if values else instrument
        except OSError as cause:
            # The disk is full, say: that is no reason to refuse a request or to end a run.
            _tell_once(str(cause))
            return NOWHERE
        if series.kind == "gauge":
            self._gauges.hold((series.name, *values), cell)
        if OTHER not in values:  # else who sends ever new values fills the memory
            if series.kind == "histogram":
                self._observed[key] = values
            self._cells[key] = cell
        return cell


class _Nowhere:
    """Stands for a line that cannot be kept now."""

    def inc(self, amount: float = 1) -> None:
        """Lose it."""

    def dec(self, amount: float = 1) -> None:
        """Lose it."""

    def set(self, value: float) -> None:
        """Lose it."""

    def observe(self, value: float) -> None:
        """Lose it."""


NOWHERE = _Nowhere()


@cache
def _tell_once(trouble: str) -> None:
    log.warning(
        "series cannot be kept in %s and are not counted: %s", settings.current().metrics_dir, trouble
    )


_lock = threading.RLock()
_holders: collections.Counter[Key] = collections.Counter()
"""How many recorders of this process show a gauge, by its name and the values of its labels."""


class _Gauges:
    """The gauges that a recorder, and those bound to it, have set."""

    def __init__(self) -> None:
        self.forgotten = False
        self._held: dict[Key, Any] = {}

    def hold(self, key: Key, cell: Any) -> None:
        with _lock:
            if key in self._held:
                return
            if key in _holders and not _holders[key]:
                cell.set(0)  # it was absent until now, and nothing can be added to that
            self._held[key] = cell
            _holders[key] += 1

    def forget(self) -> None:
        with _lock:
            self.forgotten = True
            for key, cell in self._held.items():
                _holders[key] -= 1
                if not _holders[key]:
                    cell.set(ABSENT)  # prometheus-client cannot take a line out of a file
            self._held.clear()


def begin() -> None:
    """Keep series of this process from now on, those too that are recorded only where `is_on`."""
    _registry()


def begin_beside_others() -> None:
    """The same if another live process keeps or shows series here: else nobody would ever see ours.

    For what ends soon after it has begun: the next that serves or trains cleans what only the dead have left.
    """
    if others(settings.current().metrics_dir):
        begin()


def is_on() -> bool:
    """Whether this process keeps series: a process that only looks something up leaves no files behind."""
    return _registry.cache_info().currsize > 0


_seen: dict[tuple[str, str], set[str]] = {}


def bounded(series: Series, label: Label, value: str) -> str:
    """`value`, or `other` if the label's bound does not allow it."""
    if label.values:
        return value if value in label.values else OTHER
    if len(value) > _LONGEST_VALUE or not value.isprintable():
        return OTHER
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
        self._labels = app, model, str(version)
        self._answered: dict[tuple[str, str, int], tuple[Any, Any]] = {}
        """By route, method and code: every request passes here."""

    @cached_property
    def _in_flight(self) -> Any:
        return self.recorder.cell(metrics.REQUESTS_IN_FLIGHT)

    def started(self) -> None:
        """A request came in."""
        self._in_flight.inc()

    def finished(
        self, *, route: str, method: str, code: int, duration_s: float, trace_id: str | None = None
    ) -> None:
        """The request was answered; `route` is a template from a bounded set, never the path itself."""
        self._in_flight.dec()
        cells = self._answered.get((route, method, code))
        if cells is None:
            count = self.recorder.cell(metrics.REQUESTS, route=route, method=method, code=str(code))
            cells = count, self.recorder.cell(metrics.REQUEST_DURATION, route=route)
            if NOWHERE not in cells:
                self._answered[route, method, code] = cells
        cells[0].inc()
        cells[1].observe(duration_s)
        if trace_id is not None:
            exemplars.keep(metrics.REQUEST_DURATION, (*self._labels, route), duration_s, trace_id)

    def rejected(self, reason: str) -> None:
        """A request was refused; `finished` counts it too."""
        self.recorder.count(metrics.REJECTED, reason=reason)

    def loaded(
        self, *, digest: str, workload: str, precision: str, provider: str, alias: str = "none"
    ) -> None:
        """This replica answers with the version from now on, until `forget`."""
        self._in_flight.inc(0)
        self.recorder.set(
            metrics.MODEL_INFO,
            1,
            digest=digest,
            alias=alias,
            workload=workload,
            precision=precision,
            provider=provider,
        )

    def forget(self) -> None:
        """This replica does not answer with the version any more: none of its gauges is shown."""
        self.recorder.forget()

    def reload_failed(self) -> None:
        """The version could not be loaded."""
        self.recorder.count(metrics.RELOAD_FAILURES)


# --- prometheus-client ----------------------------------------------------------------------------


@cache
def _folder() -> Path:
    return settings.current().metrics_dir


@cache
def _registry() -> CollectorRegistry:
    _into_files(_folder())
    sign_in(_folder(), os.getpid())
    os.register_at_fork(after_in_child=_sign_in_a_child)
    from prometheus_client import CollectorRegistry

    return CollectorRegistry()


def _sign_in_a_child() -> None:
    """Its number may have been that of another process, which is known to have died."""
    with suppress(OSError):  # a fork must not fail for it
        sign_in(_folder(), os.getpid())


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


def _instrument(series: Series) -> Any:
    with _lock:
        if series.name not in _instruments:
            _instruments[series.name] = _new(series)
        return _instruments[series.name]


def _new(series: Series) -> Any:
    registry = _registry()
    from prometheus_client import Counter, Gauge, Histogram

    names = series.label_names
    if series.kind == "counter":
        return Counter(series.name, series.help, names, registry=registry)
    if series.kind == "gauge":
        return Gauge(series.name, series.help, names, registry=registry, multiprocess_mode=series.across)
    return Histogram(series.name, series.help, names, registry=registry, buckets=series.buckets)
