"""The totals of all series over the processes of this machine or pod, from the files that `recording` keeps.

Counters of processes that have died stay in the totals; their gauges go. What is of the machine and of no
process (its disk, which Mizzen it is) is added here. It starts no server, and it does not know who scrapes:
`exporter` does.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mizzen import exemplars, gathering, metrics, settings
from mizzen.liveness import ALONE_OR_NOT, forget_the_dead, is_alive, locked, others, pid_of
from mizzen.series import Series, is_absent

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text"
OPENMETRICS_TYPE = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"


def answer(accept: str | None, folder: Path | None = None) -> tuple[bytes, str]:
    """The totals in the format that an `Accept` header asks for, and their content type.

    OpenMetrics 1.0 if it is named, as Prometheus does; else Prometheus's own text format.
    """
    openmetrics = OPENMETRICS in (accept or "").lower()
    return exposition(folder, openmetrics=openmetrics), OPENMETRICS_TYPE if openmetrics else CONTENT_TYPE


def exposition(folder: Path | None = None, *, openmetrics: bool = False) -> bytes:
    """The totals over all processes of this machine, in Prometheus's text format 0.0.4 or in OpenMetrics 1.0.

    OpenMetrics has units and exemplars too. https://prometheus.io/docs/specs/om/open_metrics_spec/
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.openmetrics import exposition as openmetrics_format

    folder = folder or settings.current().metrics_dir
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Totals(folder, with_exemplars=openmetrics))  # type: ignore[arg-type] # duck-typed
    registry.register(_Machine(folder))  # type: ignore[arg-type] # duck-typed
    if openmetrics:
        return bytes(openmetrics_format.generate_latest(registry))  # type: ignore[no-untyped-call] # no types
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

    def __init__(
        self, folder: Path, pids: Collection[int] | None = None, *, with_exemplars: bool = False
    ) -> None:
        self.folder = folder
        self.pids = pids
        self.with_exemplars = with_exemplars

    def collect(self) -> Iterator[Any]:
        from prometheus_client.multiprocess import MultiProcessCollector

        forget_the_dead(self.folder)
        gathering.gather(self.folder)
        # In two steps, not with `merge`: a gauge that one process does not show any more must not spoil the
        # sum over those that do.
        collector: Any = MultiProcessCollector
        with gathering.reading(self.folder) as found:
            files = [file for file in found if self.pids is None or pid_of(file) in self.pids]
            try:
                read = collector._read_metrics(map(str, files))
            except (ValueError, RuntimeError, struct.error):  # what others have kept shall be seen
                read = collector._read_metrics(map(str, filter(gathering.is_whole, files)))
        for metric in read.values():
            if metric.type == "gauge":
                metric.samples = [sample for sample in metric.samples if not is_absent(sample.value)]
        kept = exemplars.read(self.folder) if self.with_exemplars else {}
        for metric in collector._accumulate_metrics(read, True):
            if metric.samples:
                metric.unit = _unit(metric.name)
                if kept and metric.type == "histogram":
                    metric.samples = [_with_exemplar(metric.name, sample, kept) for sample in metric.samples]
                yield metric


def _with_exemplar(name: str, sample: Any, kept: Mapping[exemplars.Bucket, exemplars.Exemplar]) -> Any:
    from prometheus_client.samples import Exemplar

    labels = dict(sample.labels)
    bound = labels.pop("le", None)
    one = None if bound is None else kept.get((name, tuple(sorted(labels.items())), float(bound)))
    if one is None:
        return sample
    return sample._replace(exemplar=Exemplar({"trace_id": one.trace_id}, one.value, round(one.at_s, 3)))


class _Machine:
    """What the exposition itself knows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        disk = shutil.disk_usage(next(path for path in (self.folder, *self.folder.parents) if path.exists()))
        for series, value in ((metrics.DISK_FREE, disk.free), (metrics.DISK_SIZE, disk.total)):
            yield GaugeMetricFamily(series.name, series.help, value, unit=_unit(series.name))
        info = metrics.BUILD_INFO
        build = GaugeMetricFamily(info.name, info.help, labels=info.label_names)
        build.add_metric([_release_version(), platform.python_version()], 1)
        yield build


@cache
def _release_version() -> str:
    return version("mizzen")


@cache
def _units() -> dict[str, str]:
    """The units that OpenMetrics can say: those that the name ends with, by the name without `_total`."""
    names = {one.name.removesuffix("_total"): one.unit for one in metrics.SERIES}
    return {name: unit for name, unit in names.items() if name.endswith(f"_{unit}")}


def _unit(name: str) -> str:
    return _units().get(name, "")


def clean(folder: Path | None = None) -> bool:
    """Delete all values if no live process holds any, and no other one shows them; says whether it did.

    Who is being scraped must not lose what has just happened, such as a gate failure, before the next scrape.
    """
    folder = folder or settings.current().metrics_dir
    if not folder.exists():
        return True
    with locked(folder, ALONE_OR_NOT) as is_ours:  # who begins meanwhile waits to sign in
        files = list(folder.glob("*.db"))
        if not is_ours or others(folder) or any(is_alive(folder, pid_of(file)) for file in files):
            return False
        records = [file for file in folder.glob("process_*.txt") if pid_of(file) != os.getpid()]
        for file in (*files, *records, *folder.glob(exemplars.FILES)):
            file.unlink(missing_ok=True)
        gathering.delete(folder)
    return True
