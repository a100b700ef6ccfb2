"""Exemplars: the trace of the last value in each bucket of a histogram, in one small file a process.

prometheus-client drops them where several processes share files, so they stand beside its values, in the
same folder. Nothing is written as long as nobody gives any. It traces nothing, and `totals` shows them.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mizzen import settings
from mizzen.series import Series

EVERY_S = 2.0
"""How often a bucket gets a new one, and how often they are written if no bucket got its first."""
MOST = 1000
"""Buckets of a process that have an exemplar."""
UNUSED_S = 600.0
"""A bucket that has got none for so long, of a version that is not served any more, makes room."""
OLDEST_S = 3600.0
"""Older ones are not shown: their traces are hard to find by now."""
FILES = "exemplars_*.json"
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
"""As W3C's trace context writes it. https://www.w3.org/TR/trace-context/"""

Bucket = tuple[str, tuple[tuple[str, str], ...], float]
"""A bucket of a histogram: its name, its labels by name, and its upper bound."""


@dataclass(frozen=True)
class Exemplar:
    """A value that was observed, and the trace that it belongs to."""

    trace_id: str
    value: float
    at_s: float
    """Seconds since 1970."""


_kept: dict[tuple[str, tuple[str, ...], int], tuple[Series, Exemplar]] = {}
"""By name, values of the labels, and number of the bucket; who got its last first stands first."""
_written_at_s = 0.0
_lock = threading.Lock()


def keep(series: Series, values: tuple[str, ...], value: float, trace_id: str) -> None:
    """Remember the trace for the bucket that `value` falls into; `values` are the labels', in order.

    An id that is none of W3C's is passed over, for it may come from whoever calls. So is one for a bucket
    that got its last a moment ago.
    """
    global _written_at_s
    bucket = series.name, values, bisect_left(series.buckets, value)
    now_s = time.time()
    before = _kept.get(bucket)
    if before is not None and now_s - before[1].at_s < EVERY_S:
        return
    if not _TRACE_ID.fullmatch(trace_id):
        return
    with _lock:
        is_first = _kept.pop(bucket, None) is None
        if is_first and len(_kept) >= MOST:
            oldest = next(iter(_kept))
            if now_s - _kept[oldest][1].at_s < UNUSED_S:
                return
            del _kept[oldest]
        _kept[bucket] = series, Exemplar(trace_id, value, now_s)
        if is_first or now_s - _written_at_s >= EVERY_S:
            _written_at_s = now_s
            with suppress(OSError):  # a request must not fail for it
                _write(settings.current().metrics_dir)


def _write(folder: Path) -> None:
    rows = []
    for (name, values, place), (series, one) in _kept.items():
        bound = series.buckets[place] if place < len(series.buckets) else float("inf")
        labels = sorted(zip(series.label_names, values, strict=True))
        rows.append([name, labels, bound, one.trace_id, one.value, one.at_s])
    file = folder / f"exemplars_{os.getpid()}.json"
    new = file.with_suffix(".new")
    new.write_text(json.dumps(rows))
    new.replace(file)


def read(folder: Path) -> dict[Bucket, Exemplar]:
    """The last exemplar of each bucket over all processes."""
    found: dict[Bucket, Exemplar] = {}
    oldest_s = time.time() - OLDEST_S
    for file in folder.glob(FILES):
        try:
            rows = [_row(*row) for row in json.loads(file.read_text())]
        except (OSError, ValueError, TypeError):  # gone meanwhile, or damaged: the totals do without
            continue
        for bucket, one in rows:
            if one.at_s >= oldest_s and (bucket not in found or found[bucket].at_s < one.at_s):
                found[bucket] = one
    return found


def _row(
    name: str, labels: list[tuple[str, str]], bound: float, trace_id: str, value: float, at_s: float
) -> tuple[Bucket, Exemplar]:
    bucket = name, tuple((label, text) for label, text in labels), float(bound)
    return bucket, Exemplar(trace_id, value, at_s)
