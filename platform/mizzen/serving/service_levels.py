"""Counts requests by the service levels of their application: which were good, and which were not.

The counts have no model and no version: a level is what clients of the application see, whichever version
answers. What is made of them (shares over time, budgets, alerts) are Prometheus's rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mizzen import metrics
from mizzen.recording import Recorder
from mizzen.serving.replies import CLIENT_GONE
from mizzen.serving.spec import Slo

NO_ROOM = frozenset({"queue_full", "deadline"})
"""Reasons to refuse a request that are ours and not the client's."""


class ServiceLevels:
    """The levels of one application in this replica. All of its series are there before the first request."""

    def __init__(self, app: str, slo: Slo, record: Callable[..., Recorder] = Recorder) -> None:
        self._latency_s = slo.latency_s
        recorder = self._recorder = record(app=app)
        recorder.set(metrics.SLO_OBJECTIVE, slo.availability, slo="availability")
        recorder.set(metrics.SLO_OBJECTIVE, slo.latency, slo="latency")
        recorder.set(metrics.SLO_LATENCY, slo.latency_s)
        self._available = self._cell("availability", "good")
        self._unavailable = self._cell("availability", "bad")
        self._in_time = self._cell("latency", "good")
        self._late = self._cell("latency", "bad")

    def _cell(self, slo: str, outcome: str) -> Any:
        self._recorder.count(metrics.SLO_REQUESTS, 0.0, slo=slo, outcome=outcome)  # rate() misses a first
        return self._recorder.cell(metrics.SLO_REQUESTS, slo=slo, outcome=outcome)

    def answered(self, code: int, first_byte_s: float | None, rejection: str | None) -> None:
        """Count a request to the model that came to an end.

        `first_byte_s`: from its arrival to the first byte of the answer. `rejection`: why it was refused.
        """
        if code == CLIENT_GONE:
            return
        if code >= 500 or rejection in NO_ROOM:
            self._unavailable.inc()
            return
        self._available.inc()
        if code < 400 and first_byte_s is not None:
            (self._in_time if first_byte_s <= self._latency_s else self._late).inc()

    def close(self) -> None:
        """Show the objectives no more."""
        self._recorder.forget()
