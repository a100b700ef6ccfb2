"""Where an optimiser step's time goes: data, forward, backward, step. It slows no step down to find out.

On a CPU the host's clock says it. A GPU works behind the host's back, so there each border between two phases
is a CUDA event in the stream's order, and they are read once a step, after its loss, for which the host has
to wait anyway. What shows is then the GPU's time: a phase of `data` is what the GPU had to wait for, batches
that were read while it still worked cost nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

Phase = Literal["data", "forward", "backward", "step"]
PHASES: tuple[Phase, ...] = ("data", "forward", "backward", "step")


@dataclass(frozen=True)
class Phases:
    """Seconds of an optimiser step, or of several, summed over micro-batches; `step` is the optimiser's."""

    data: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    step: float = 0.0

    def items(self) -> list[tuple[Phase, float]]:
        """Each phase with its seconds."""
        return [(phase, getattr(self, phase)) for phase in PHASES]

    def __add__(self, other: Phases) -> Phases:
        more_s = dict(other.items())
        return Phases(**{phase: seconds + more_s[phase] for phase, seconds in self.items()})


class Stopwatch(Protocol):
    """Measures one step after the other."""

    def start(self) -> None:
        """A step begins."""

    def mark(self, phase: Phase) -> None:
        """What was done since the last mark was `phase`."""

    def read(self) -> Phases:
        """What the step took; ask once its loss is known."""


class HostStopwatch:
    """Measures what the host does."""

    def __init__(self) -> None:
        self._last_s = 0.0
        self._sums_s: dict[Phase, float] = {}

    def start(self) -> None:
        """See `Stopwatch`."""
        self._sums_s = dict.fromkeys(PHASES, 0.0)
        self._last_s = time.perf_counter()

    def mark(self, phase: Phase) -> None:
        """See `Stopwatch`."""
        now_s = time.perf_counter()
        self._sums_s[phase] += now_s - self._last_s
        self._last_s = now_s

    def read(self) -> Phases:
        """See `Stopwatch`."""
        return Phases(**self._sums_s)


class GpuStopwatch:
    """Measures what the current stream of a GPU does, with the same events step after step."""

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._marks: list[Phase] = []

    def start(self) -> None:
        """See `Stopwatch`."""
        self._marks.clear()
        self._event(0).record()

    def mark(self, phase: Phase) -> None:
        """See `Stopwatch`."""
        self._marks.append(phase)
        self._event(len(self._marks)).record()

    def read(self) -> Phases:
        """See `Stopwatch`."""
        self._event(len(self._marks)).synchronize()
        sums_s = dict.fromkeys(PHASES, 0.0)
        for phase, (before, after) in zip(self._marks, pairwise(self._events), strict=False):
            sums_s[phase] += before.elapsed_time(after) / 1000
        return Phases(**sums_s)

    def _event(self, number: int) -> Any:
        import torch

        while len(self._events) <= number:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call] # it has no types
            self._events.append(event)
        return self._events[number]


def stopwatch(device: Any) -> Stopwatch:
    """One for a `torch.device`."""
    return GpuStopwatch() if device.type == "cuda" else HostStopwatch()
