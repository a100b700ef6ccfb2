"""The totals of all series over the processes of this machine or pod, from the files that `recording` keeps.

Counters of processes that have died stay in the totals; their gauges go. It starts no server, and it does not
know who scrapes: `exporter` does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mizzen import settings
from mizzen.liveness import forget_the_dead, is_alive, pid_of
from mizzen.metrics import MODEL_INFO
from mizzen.series import Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


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

        forget_the_dead(self.folder)
        files = [
            str(file)
            for file in self.folder.glob("*.db")
            if (self.pids is None or pid_of(file) in self.pids) and _has_begun(file)
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
    if any(is_alive(folder, pid_of(file)) for file in files):
        return False
    for file in (*files, *folder.glob("process_*.txt")):
        file.unlink(missing_ok=True)
    return True
