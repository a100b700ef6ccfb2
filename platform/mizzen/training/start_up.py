"""How long a run takes from the command to its first step, and with what: a stopwatch handed on.

Each process has one. The one that drives the run begins it and hands on what it has; the first worker goes
on with that, and says what it all took when its first step is done. Parts follow each other without a gap, so
they add up to the whole. Clocks of two machines may differ: no part is less than 0.

A start of the workers later in the run goes on from the same beginning: only the first one says something.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Part = Literal[
    "python",
    "ray",
    "data",
    "workers",
    "libraries",
    "meeting",
    "model",
    "deepspeed",
    "evaluation",
    "first step",
]
"""In this order: the interpreter with its imports and the job file; a Ray of its own, or the way to one that
is there; data read, cleaned and split; processes of the workers; what they import; the process group; the
model and its examples; DeepSpeed's engine, with the checkpoint that the run goes on from; the evaluation
before the first step; that step."""
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass
class Laps:
    """Seconds by part, and when the last of them ended (seconds since 1970)."""

    last_s: float
    parts: dict[str, float] = field(default_factory=dict)
    clock_s: Callable[[], float] = time.time

    def done(self, part: Part) -> None:
        """What was done since the last call was `part`."""
        now_s = self.clock_s()
        self.parts[part] = self.parts.get(part, 0.0) + max(0.0, now_s - self.last_s)
        self.last_s = now_s


_laps: Laps | None = None


def begin(since_s: float) -> None:
    """This process drives a run, its first one since `since_s` (seconds since 1970), any other since now."""
    global _laps
    _laps = Laps(since_s if _laps is None else time.time())


def done(part: Part) -> None:
    """What was done since the last call was `part`; nothing happens where no run has begun."""
    if _laps is not None:
        _laps.done(part)


def handed_on() -> dict[str, Any] | None:
    """For `go_on` in another process; None if nothing was begun here."""
    return None if _laps is None else {"last_s": _laps.last_s, "parts": dict(_laps.parts)}


def go_on(handed: Mapping[str, Any] | None) -> None:
    """This process is a worker of a run."""
    global _laps
    _laps = None if handed is None else Laps(handed["last_s"], dict(handed["parts"]))


def over() -> dict[str, float]:
    """Seconds by part, once, when the first step is done; empty from then on."""
    global _laps
    if _laps is None:
        return {}
    _laps.done("first step")
    parts, _laps = _laps.parts, None
    return parts


def sentence(parts: Mapping[str, float]) -> str:
    """For people: `start-up: 21.4 s (python 1.1, ray 4.0, ...)`."""
    each = ", ".join(f"{part} {parts[part]:.1f}" for part in PARTS if part in parts)
    return f"start-up: {sum(parts.values()):.1f} s ({each})"
