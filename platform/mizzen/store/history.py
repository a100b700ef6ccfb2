"""The history of a run: what it measured at which step, point by point, to be drawn and compared.

A run that goes on from a checkpoint takes some steps twice. Points are written as they come; whoever reads
them gets one curve (`one_curve`). It does not decide which steps become points: `training.history` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pydantic import ConfigDict, Field

from mizzen.store.manifest import Record

LOSS = "train/loss"
VALIDATION = "validation/"
TAGS = {
    "step_seconds": "time/step_seconds",
    "data_seconds": "time/data_seconds",
    "forward_seconds": "time/forward_seconds",
    "backward_seconds": "time/backward_seconds",
    "optimizer_seconds": "time/optimizer_seconds",
    "samples_per_second": "throughput/samples_per_second",
    "tokens_per_second": "throughput/tokens_per_second",
    "model_flops_utilisation": "throughput/model_flops_utilisation",
    "memory_bytes": "memory/bytes",
}
"""What TensorBoard, MLflow and `mizzen runs` call figures of a step; any other is `train/NAME`."""


class Point(Record):
    """What was measured at a step: of the step itself, or on validation after it."""

    model_config = ConfigDict(extra="ignore")

    step: int
    """Optimiser steps that were done; 0: before the first."""
    time_s: float
    """Seconds since 1970."""
    loss: float | None = None
    """In training: the mean over the steps since the last that was reported, kept or not."""
    figures: Mapping[str, float] = Field(default_factory=dict)
    """Learning rate, gradient norm, seconds of the step's parts, and so on, of the step."""
    metrics: Mapping[str, float] = Field(default_factory=dict)
    """On validation, after the step."""

    def scalars(self) -> dict[str, float]:
        """Everything that was measured, by its tag."""
        found = {} if self.loss is None else {LOSS: self.loss}
        found |= {TAGS.get(name, f"train/{name}"): value for name, value in self.figures.items()}
        return found | {VALIDATION + name: value for name, value in self.metrics.items()}

    def line(self) -> str:
        """As the store keeps it."""
        return self.model_dump_json(exclude_defaults=True)

    @property
    def place(self) -> tuple[int, bool]:
        """Where it stands in a run: the validation after a step comes after the step."""
        return self.step, bool(self.metrics)


def one_curve(points: Iterable[Point]) -> list[Point]:
    """`points`, in the order in which they were written, without those that were taken again later.

    A run that goes back to a step has forgotten everything that it had done from there on.
    """
    kept: list[Point] = []
    for point in points:
        while kept and kept[-1].place >= point.place:
            kept.pop()
        kept.append(point)
    return kept


def series(points: Sequence[Point]) -> dict[str, list[tuple[int, float]]]:
    """The curve of each tag: steps with their values."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for point in points:
        for tag, value in point.scalars().items():
            curves.setdefault(tag, []).append((point.step, value))
    return curves


def tag_of(name: str, tags: Iterable[str]) -> str | None:
    """The tag that people mean by `name`: a tag in full, what stands behind its slash, or a figure's name."""
    known = sorted(tags)
    for tag in (name, TAGS.get(name)):
        if tag in known:
            return tag
    return next((tag for tag in known if re.sub(r"^\w+/", "", tag) == name), None)


def seconds_left(points: Sequence[Point], num_steps: int, since_s: float) -> float | None:
    """How long the steps that are left will take, validations included, if the run goes on as lately.

    `since_s`: when this attempt began, in seconds since 1970. None if too little is known. Export and gate
    come after.
    """
    recent = [point for point in points if point.time_s >= since_s]
    recent = recent[len(recent) // 2 :] if len(recent) > 3 else recent
    if not recent or recent[-1].step >= num_steps:
        return None if not recent else 0.0
    steps, took_s = recent[-1].step - recent[0].step, recent[-1].time_s - recent[0].time_s
    return (num_steps - recent[-1].step) * took_s / steps if steps > 0 else None
