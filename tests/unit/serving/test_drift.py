"""Features of requests against the distribution that a version was published with, as series."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mizzen import metrics
from mizzen.series import Series
from mizzen.serving import drift
from mizzen.store import distribution


@dataclass
class Line:
    """prometheus-client's counter or gauge."""

    value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount


@dataclass
class Lines:
    """`recording.Recorder`, in memory."""

    lines: dict[tuple[str, ...], Line] = field(default_factory=dict)

    def cell(self, series: Series, **labels: str) -> Line:
        return self.lines.setdefault((series.name, *labels.values()), Line())

    def set(self, series: Series, value: float, **labels: str) -> None:
        self.cell(series, **labels).value = value

    def of(self, series: Series, feature: str) -> list[float]:
        """By bin, or one value of a series without bins."""
        return [
            line.value
            for (name, one, *_), line in self.lines.items()
            if (name, one) == (series.name, feature)
        ]


class Watched:
    """A version that was published with `features` of training, and is watched."""

    def __init__(self, folder: Path, **features: Any) -> None:
        distribution.write(features, folder)
        self.recorder = Lines()
        self.take: Any = drift.watching(folder, self.recorder)  # type: ignore[arg-type]

    def counts(self, feature: str = "length") -> list[float]:
        return self.recorder.of(metrics.DRIFT_OBSERVATIONS, feature)

    @property
    def psi(self) -> float | None:
        found = self.recorder.of(metrics.DRIFT_PSI, "length")
        return found[0] if found else None


def test_bins_are_there_from_the_start_with_what_is_expected_in_them(tmp_path: Path) -> None:
    version = Watched(tmp_path, length=range(1000))
    assert version.counts() == [0] * 11
    expected = version.recorder.of(metrics.DRIFT_EXPECTED, "length")
    assert expected == pytest.approx([0.1] * 10 + [0.0001], rel=0.01) and sum(expected) == pytest.approx(1)
    assert {line[2] for line in version.recorder.lines} == {*map(str, range(10)), "missing"}


def test_values_are_counted_one_by_one_or_together(tmp_path: Path) -> None:
    version = Watched(tmp_path, length=range(1000), width=range(1000))
    version.take({"length": [5]})
    version.take({"length": [5, 7, -1, 2000, math.nan], "width": [], "unheard of": [1.0]})
    assert version.counts() == [4, *[0] * 8, 1, 1]
    assert version.counts("width") == [0] * 11
    assert version.counts("unheard of") == []


def test_the_index_is_shown_from_a_hundred_values_on_and_renewed_every_fifty(tmp_path: Path) -> None:
    version = Watched(tmp_path, length=range(1000))
    random = np.random.default_rng(1)
    seen = []
    for value in random.integers(0, 1000, 260).tolist():
        version.take({"length": [value]})
        seen.append(version.psi)
    assert seen[:99] == [None] * 99
    shown = [value for i, value in enumerate(seen) if value is not None and value != seen[i - 1]]
    assert [seen.index(value) + 1 for value in shown] == [100, 150, 200, 250]
    assert all(0 <= value < 0.25 for value in shown)


def test_the_index_rises_when_inputs_shift_and_falls_again_after_them(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    version = Watched(tmp_path, length=random.normal(size=2000))

    def take(mean: float, count: int) -> float:
        for start in range(0, count, 20):
            version.take({"length": random.normal(mean, size=min(20, count - start)).tolist()})
        assert version.psi is not None
        return version.psi

    assert take(0, drift.WINDOW) < 0.1
    assert take(1, drift.WINDOW) > 0.25
    assert take(0, drift.WINDOW) < 0.1


def test_the_index_looks_at_the_last_values_alone(tmp_path: Path) -> None:
    version = Watched(tmp_path, length=range(1000))
    version.take({"length": [0] * 5000})
    version.take({"length": list(range(0, 1000)) * 2})
    assert version.psi == pytest.approx(0, abs=0.01)
    assert sum(version.counts()) == 7000


def test_a_version_without_distribution_takes_features_and_shows_nothing(tmp_path: Path) -> None:
    version = Watched(tmp_path)
    version.take({"length": [1.0]})
    assert version.recorder.lines == {}


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    version = Watched(tmp_path, length=range(1000))

    def take() -> None:
        for n in range(1000):
            value = n * 377 % 1000  # every stretch of these is spread evenly, however the threads take turns
            version.take({"length": [value, value]})

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert version.psi is not None and version.psi < 0.25
