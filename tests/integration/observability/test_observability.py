"""A real Prometheus, Alertmanager and collector look at a real Mizzen: what they see is what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Stage


def test_everything_starts(stage: Stage) -> None:
    print(stage.traffic.answered)
    print(stage.prometheus.now("sum by (app, code) (mizzen_requests_total)"))
