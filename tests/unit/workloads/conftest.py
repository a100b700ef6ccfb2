"""What all workloads' tests hand to endpoints in place of the platform's recorder."""

from __future__ import annotations

import threading
from collections import defaultdict

import pytest

from mizzen.series import Series


class Noted:
    """The contract's `Recorder` in memory. Raises `ValueError` for labels that a series does not have."""

    SERVED = ("app", "model", "version")

    def __init__(self) -> None:
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], list[float]] = defaultdict(list)
        self.exemplars: list[str | None] = []
        """Of what histograms were told, in order."""
        self._lock = threading.Lock()

    def count(self, series: Series, amount: float = 1.0, **labels: str) -> None:
        assert series.kind == "counter" and amount >= 0
        with self._lock:
            line = self._line(series, labels)
            line[:] = [sum(line) + amount]

    def set(self, series: Series, value: float, **labels: str) -> None:
        assert series.kind == "gauge"
        with self._lock:
            self._line(series, labels)[:] = [value]

    def observe(self, series: Series, value: float, exemplar: str | None = None, **labels: str) -> None:
        assert series.kind == "histogram"
        with self._lock:
            self._line(series, labels).append(value)
            self.exemplars.append(exemplar)

    def all(self, series: Series, **labels: str) -> list[float]:
        """What a histogram was told."""
        return self._values.get((series.name, frozenset(labels.items())), [])

    def value(self, series: Series, **labels: str) -> float | None:
        """What a counter or gauge shows; None if it was never written."""
        found = self.all(series, **labels)
        return found[0] if found else None

    def lines(self, series: Series) -> dict[tuple[str, ...], float]:
        """All lines of a counter or gauge by the values of the labels that they were written with."""
        return {
            tuple(dict(labels)[name] for name in series.label_names if name in dict(labels)): values[0]
            for (name, labels), values in self._values.items()
            if name == series.name
        }

    def _line(self, series: Series, labels: dict[str, str]) -> list[float]:
        own = [name for name in series.label_names if name not in self.SERVED]
        if not set(own) <= set(labels) <= {*own, *self.SERVED}:
            raise ValueError(f"{series.name} has the labels {own}, not {list(labels)}")
        for label in series.labels:
            value = labels.get(label.name)
            if value is not None and label.values and value not in label.values:
                raise ValueError(f"{series.name}: {label.name} is never {value!r}")
        return self._values[series.name, frozenset(labels.items())]


@pytest.fixture
def noted() -> Noted:
    """A recorder that remembers."""
    return Noted()


@pytest.fixture(scope="module")
def noted_throughout() -> Noted:
    """One for all tests of a module that share an endpoint: they look at what is added."""
    return Noted()
