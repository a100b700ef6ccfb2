"""Which of a run's steps become points of its history, and who besides the store hears of them.

Long runs are thinned as they go, without touching what is written: all of the first `ALL_UP_TO` steps are
kept, later a step that is `1 / STEPS_APART` further than the last one, or further by `1 / PARTS` of the run,
whichever comes first. So a curve is as fine at its beginning, where most happens, as at its end, and a
million steps leave about 4,500 points, a megabyte or so. The first step, the last, all validations and the
steps that they follow are always kept. (`worker` hands over one step in `REPORT_EVERY_S` at most anyway.)

It writes nothing: `journal` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from mizzen.store.history import Point
from mizzen.store.manifest import Manifest
from mizzen.store.runs import RunRecord
from mizzen.training.mailbox import Progress

ALL_UP_TO = 500
STEPS_APART = 500
PARTS = 1000
DIGITS = 6
"""Significant ones: as many as a 32-bit float has."""


class Follower(Protocol):
    """Hears of a run besides the store, in the journal's thread, which it must not hold up."""

    def take(self, points: Sequence[Point]) -> None:
        """New points, in the order in which they were measured."""

    def published(self, manifest: Manifest) -> None:
        """What the run has put into the store, with the gate's report, whether it has passed or not."""

    def end(self, record: RunRecord) -> None:
        """The run is over; wait a little if something is left to be done."""


class Thinning:
    """Makes points of the progress of a run."""

    def __init__(self) -> None:
        self._last: tuple[int, bool] | None = None
        self._passed_over: tuple[Progress, float] | None = None

    def take(self, progress: Progress, time_s: float) -> list[Point]:
        """The points to keep now that a run has come this far, at `time_s` seconds since 1970."""
        if not self._keeps(progress):
            self._passed_over = progress, time_s
            return []
        before = self.rest() if progress.metrics else []
        self._last, self._passed_over = _place(progress), None
        return [*before, _point(progress, time_s)]

    def rest(self) -> list[Point]:
        """The last step of all, if it has not been kept yet."""
        passed_over, self._passed_over = self._passed_over, None
        return [] if passed_over is None else [_point(*passed_over)]

    def _keeps(self, progress: Progress) -> bool:
        step, num_steps = progress.step, progress.num_steps
        if self._last is None or _place(progress) <= self._last:  # it went back to a checkpoint
            return True
        if progress.metrics or step <= ALL_UP_TO or step >= num_steps:
            return True
        return step - self._last[0] >= min(step / STEPS_APART, num_steps / PARTS)


def _place(progress: Progress) -> tuple[int, bool]:
    return progress.step, bool(progress.metrics)


def _point(progress: Progress, time_s: float) -> Point:
    return Point(
        step=progress.step,
        time_s=round(time_s, 3),
        loss=None if progress.loss is None else _short(progress.loss),
        figures=_all_short(progress.figures),
        metrics=_all_short(progress.metrics or {}),
    )


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _all_short(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: _short(value) for name, value in figures.items()}
