"""What counts for a service level, and as what."""

from __future__ import annotations

import pytest

from mizzen import metrics
from mizzen.serving.service_levels import ServiceLevels
from mizzen.serving.spec import Slo


@pytest.fixture
def levels(recorder):
    return ServiceLevels("shop", Slo(availability=0.999, latency_s=0.5, latency=0.9), recorder.of)


def counted(recorder) -> dict[str, float]:
    return {
        f"{slo} {outcome}": recorder.total(metrics.SLO_REQUESTS, slo=slo, outcome=outcome)
        for slo in ("availability", "latency")
        for outcome in ("good", "bad")
        if recorder.total(metrics.SLO_REQUESTS, slo=slo, outcome=outcome)
    }


def test_all_series_are_there_before_the_first_request(levels, recorder):
    assert len(recorder.values(metrics.SLO_REQUESTS, app="shop")) == 4
    assert counted(recorder) == {}
    objectives = {("availability",): 0.999, ("latency",): 0.9}
    assert recorder.shown(metrics.SLO_OBJECTIVE, "slo") == objectives
    assert recorder.values(metrics.SLO_LATENCY, app="shop") == [0.5]


@pytest.mark.parametrize(
    ("code", "first_byte_s", "rejection", "expected"),
    [
        (200, 0.5, None, ["availability good", "latency good"]),
        (200, 0.51, None, ["availability good", "latency bad"]),
        (404, 0.1, None, ["availability good"]),
        (400, 9.0, "invalid", ["availability good"]),
        (401, 0.0, "unauthenticated", ["availability good"]),
        (429, 0.0, "rate_limit", ["availability good"]),
        (429, 0.0, "queue_full", ["availability bad"]),
        (429, 0.0, "deadline", ["availability bad"]),
        (500, 0.1, None, ["availability bad"]),
        (503, None, "unavailable", ["availability bad"]),
        (504, 0.1, None, ["availability bad"]),
        (499, 0.1, None, []),
        (499, None, None, []),
    ],
)
def test_an_answer_counts_once_and_a_client_that_goes_away_does_not(
    levels, recorder, code, first_byte_s, rejection, expected
):
    levels.answered(code, first_byte_s, rejection)
    assert counted(recorder) == dict.fromkeys(expected, 1)


def test_a_replica_that_ends_shows_no_objectives_but_its_counts(levels, recorder):
    levels.answered(200, 0.1, None)
    levels.close()
    assert recorder.values(metrics.SLO_OBJECTIVE) == []
    assert counted(recorder) == {"availability good": 1, "latency good": 1}
