"""Watches how far a version's inputs have drifted from its training data, feature by feature.

Bins are counted as they come, so that Prometheus can reckon over any time and all replicas; beside them each
replica shows the index of its last values. It does not decide what a feature is: the workload does.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path

from mizzen import metrics
from mizzen.recording import Recorder
from mizzen.store import distribution
from mizzen.store.distribution import Distribution
from mizzen.workloads.contract import Features

WINDOW = 2_000
"""Values of a feature that the index looks at."""
EVERY = 50
"""New values after which it is made anew."""
MIN_VALUES = 100
"""With fewer it would show chance."""


def watching(folder: Path, recorder: Recorder) -> Callable[[Features], None]:
    """What takes the features of the inputs of the version in `folder`. Raises `IntegrityError`."""
    features = {
        name: _Feature(name, trained, recorder) for name, trained in distribution.read(folder).items()
    }

    def watch(found: Features) -> None:
        for name, values in found.items():
            feature = features.get(name)
            if feature is not None:
                feature.add(values)

    return watch


class _Feature:
    """One feature; safe to call from threads."""

    def __init__(self, name: str, trained: Distribution, recorder: Recorder) -> None:
        self._name, self._trained, self._recorder = name, trained, recorder
        self._last: deque[int] = deque()
        self._counts = [0] * len(trained.bins)
        self._num_new = 0
        self._lock = threading.Lock()
        self._cells = [
            recorder.cell(metrics.DRIFT_OBSERVATIONS, feature=name, bin=one) for one in trained.bins
        ]
        for one, share in zip(trained.bins, trained.expected, strict=True):
            recorder.set(metrics.DRIFT_EXPECTED, share, feature=name, bin=one)

    def add(self, values: Iterable[float]) -> None:
        """Count values of one request, or of several."""
        bins = [self._trained.bin_of(value) for value in values]
        if len(bins) == 1:  # the usual case, and on the way of every request
            self._cells[bins[0]].inc()
        else:
            for place, count in Counter(bins).items():
                self._cells[place].inc(count)
        with self._lock:
            for place in bins:
                self._last.append(place)
                self._counts[place] += 1
            while len(self._last) > WINDOW:
                self._counts[self._last.popleft()] -= 1
            self._num_new += len(bins)
            if self._num_new < EVERY or len(self._last) < MIN_VALUES:
                return
            self._num_new = 0
            # Shown while the lock is held: else a thread that was delayed would show an older index last.
            psi = self._trained.psi(self._counts)
            self._recorder.set(metrics.DRIFT_PSI, psi, feature=self._name)
