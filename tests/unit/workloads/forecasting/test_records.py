"""What is asked of the endpoint and what it finds, as series: over a really exported model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mizzen import metrics

VALUES = [10.0, 11.0, 10.5, 11.5, 11.0, 12.0, 11.5, 40.0, 12.0, 12.5]
GOOD = {"name": "sales", "series": VALUES, "frequency": "Y"}
SHORT = {**GOOD, "series": [1.0]}
TWO = {"y": [*VALUES, *VALUES], "sizes": [10, 10]}

Ask = Callable[[str, Any], httpx.Response]


@pytest.fixture
def ask(post: Callable[..., httpx.Response], plain: Path, noted: Any) -> Ask:
    """Sends a body to a route of a fresh endpoint that records into `noted`."""
    return lambda path, body: post(plain, body, path=path, served_with={"recorder": noted})


def outcomes(noted: Any) -> tuple[float, float]:
    return tuple(noted.value(metrics.FORECASTING_SERIES, outcome=one) for one in ("ok", "refused"))


@pytest.mark.parametrize(
    ("path", "body", "horizons"),
    [
        ("/v1/timeseries/forecast", {"inputs": [GOOD, GOOD], "options": {"horizon": 2}}, [2]),
        ("/v1/timeseries/forecast", {"inputs": [GOOD, GOOD]}, [3]),
        ("/v1/timeseries/backtest", {"inputs": [GOOD, GOOD], "options": {"num_windows": 2}}, [3]),
        ("/v1/timeseries/anomalies", {"inputs": [GOOD, GOOD]}, []),
        ("/v2/forecast", {"series": TWO, "freq": "YS", "h": 1}, [1]),
        ("/v2/cross_validation", {"series": TWO, "freq": "YS", "h": 2, "n_windows": 2}, [2]),
        ("/v2/anomaly_detection", {"series": TWO, "freq": "YS", "level": 80}, []),
        (
            "/v2/online_anomaly_detection",
            {"series": TWO, "freq": "YS", "h": 1, "level": 80, "detection_size": 2},
            [],
        ),
    ],
)
def test_every_route_counts_its_series_and_the_horizon_that_was_asked_for(
    ask: Ask, noted: Any, path: str, body: Any, horizons: list[float]
) -> None:
    answer = ask(path, body)
    assert answer.status_code == 200, answer.text
    assert outcomes(noted) == (2, 0)
    assert noted.all(metrics.FORECASTING_HORIZON) == horizons


def test_series_that_are_refused_are_counted_apart_alone_and_together(ask: Ask, noted: Any) -> None:
    assert ask("/v1/timeseries/forecast", {"inputs": [GOOD, SHORT]}).json()["status"] == "partial"
    assert outcomes(noted) == (1, 1)
    assert ask("/v1/timeseries/forecast", {"inputs": [SHORT]}).status_code == 400
    assert outcomes(noted) == (1, 2)
    one = {"y": [*VALUES, 1.0], "sizes": [10, 1]}
    assert ask("/v2/forecast", {"series": one, "freq": "YS", "h": 1}).status_code == 400
    assert outcomes(noted) == (1, 4)
    assert len(noted.all(metrics.FORECASTING_HORIZON)) == 1


def test_points_that_were_judged_and_those_outside_are_counted(ask: Ask, noted: Any) -> None:
    gap = {**GOOD, "series": [*VALUES[:6], None, *VALUES[7:]]}
    answer = ask("/v1/timeseries/anomalies", {"inputs": [gap, GOOD], "options": {"last": 5}}).json()
    contents = [output["content"][0] for output in answer["outputs"]]
    judged = sum(flag is not None for content in contents for flag in content["anomaly"])
    assert judged == 9
    assert noted.value(metrics.FORECASTING_JUDGED) == judged
    found = sum(content["num_anomalies"] for content in contents)
    assert noted.value(metrics.FORECASTING_ANOMALIES) == found > 0
    answer = ask("/v2/anomaly_detection", {"series": TWO, "freq": "YS", "level": 80}).json()
    assert noted.value(metrics.FORECASTING_ANOMALIES) == found + sum(answer["anomaly"])
