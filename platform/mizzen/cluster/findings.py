"""What a check of `mizzen doctor` has seen, on this machine or on a cluster. It checks nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What a check saw, and what to do about it."""

    what: str
    state: Literal["ok", "warning", "missing"]
    saw: str
    remedy: str = ""
