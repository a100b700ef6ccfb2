"""What a series of metrics is: name, kind, unit, labels and their bounds, help, emitter.

It names none and records none: `metrics` declares those of Mizzen, `recording` writes them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Across = Literal["livesum", "livemax", "livemostrecent", "max", "mostrecent"]
"""What a gauge shows when several processes hold a value; `live*` forgets processes that have died."""
Emitter = Literal[
    "replica", "training worker", "replica, training worker", "training driver", "store", "exporter"
]
OTHER = "other"
"""What a label shows in place of a value that is not in its set, or beyond its limit."""


@dataclass(frozen=True)
class Label:
    """A label and its bound: a closed set of values, or where they come from and how many there may be."""

    name: str
    help: str
    values: tuple[str, ...] = ()
    """The closed set; empty: any value up to `limit`."""
    limit: int = 100
    """Most distinct values that a process writes, if the set is open."""


@dataclass(frozen=True)
class Series:
    """One declared series; counters are exposed with the ending `_total`, which stands in the name."""

    name: str
    kind: Kind
    unit: str
    """`seconds`, `bytes`, `tokens`, `ratio`, ... or `1` for a plain count."""
    labels: tuple[Label, ...]
    help: str
    emitter: Emitter
    buckets: tuple[float, ...] = ()
    across: Across = "livesum"

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels' names, in order."""
        return tuple(label.name for label in self.labels)


_ABSENT_BYTES = struct.pack("<Q", 0x7FF8_0000_4D49_5A5A)
ABSENT: float = struct.unpack("<d", _ABSENT_BYTES)[0]
"""The value of a gauge that is not shown any more: a NaN unlike the one that arithmetic makes, for a loss may
well be NaN, and that must be seen."""


def is_absent(value: float) -> bool:
    """Whether a gauge's value says that it is not to be shown."""
    return value != value and struct.pack("<d", value) == _ABSENT_BYTES
