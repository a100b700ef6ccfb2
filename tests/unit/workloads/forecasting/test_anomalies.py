"""Anomaly flags: each point against the forecast from the points before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizzen.errors import RequestError
from mizzen.workloads.forecasting.anomalies import interval

Post = Callable[..., httpx.Response]
PATH = "/v1/timeseries/anomalies"
SERIES = [10.0, 11.0, 10.5, 11.5, 11.0, 12.0, 11.5, 40.0, 12.0, 12.5]


def series(values: list[float | None], **changes: Any) -> dict[str, Any]:
    return {"name": "sales", "series": values, "frequency": "Y", "start_timestamp": "2000-01-01", **changes}


def content_of(post: Post, model: Path, item: dict[str, Any], **options: Any) -> Any:
    response = post(model, {"inputs": [item], "options": options}, path=PATH)
    assert response.status_code == 200, response.text
    return response.json()["outputs"][0]["content"][0]


def test_a_spike_is_flagged_and_the_points_before_it_are_not_judged_by_it(post: Post, plain: Path) -> None:
    content = content_of(post, plain, series(SERIES), last=5)
    assert (content["first"], content["start_timestamp"]) == (5, "2005-01-01T00:00:00")
    assert content["anomaly"][2] is True
    assert content["num_anomalies"] == sum(content["anomaly"])
    calm = content_of(post, plain, series([*SERIES[:7], 12.0, 12.0, 12.5]), last=5)
    for name in ("lower", "upper", "median"):
        assert calm[name][:3] == content[name][:3]
        assert calm[name][3] != content[name][3]


def test_the_interval_is_that_of_the_forecast(post: Post, plain: Path) -> None:
    content = content_of(post, plain, series(SERIES), last=3, level=0.5)
    for i in range(3):
        body = {"inputs": [series(SERIES[: 7 + i])], "options": {"quantiles": [0.25, 0.5, 0.75]}}
        quantiles = post(plain, body).json()["outputs"][0]["content"][0]["quantiles"]
        expected = [quantiles[level][0] for level in ("0.25", "0.5", "0.75")]
        made = [content[name][i] for name in ("lower", "median", "upper")]
        np.testing.assert_allclose(made, expected, rtol=1e-5)
        distance = SERIES[7 + i] - made[1]
        reach = made[2] - made[1] if distance > 0 else made[0] - made[1]
        assert content["score"][i] == pytest.approx(distance / reach)
        assert content["anomaly"][i] is (content["score"][i] > 1)


def test_a_larger_step_takes_several_points_from_one_forecast(post: Post, plain: Path) -> None:
    content = content_of(post, plain, series(SERIES), last=5, step=3)
    for first, last in ((5, 8), (8, 10)):
        body = {"inputs": [series(SERIES[:first])], "options": {"quantiles": [0.9]}}
        upper = post(plain, body).json()["outputs"][0]["content"][0]["quantiles"]["0.9"]
        np.testing.assert_allclose(content["upper"][first - 5 : last - 5], upper[: last - first], rtol=1e-5)


def test_by_default_all_points_with_enough_before_them_are_judged(post: Post, plain: Path) -> None:
    content = content_of(post, plain, series(SERIES), timestamps=True)
    assert content["first"] == 2
    assert content["level"] == 0.8
    assert len(content["score"]) == len(content["timestamps"]) == 8
    assert content["timestamps"][-1] == "2009-01-01T00:00:00"


def test_missing_points_and_points_without_enough_before_them_are_null(post: Post, plain: Path) -> None:
    values = [None, 1.0, None, 2.0, 3.0, None, 4.0]
    content = content_of(post, plain, series(values))
    assert [flag is None for flag in content["anomaly"]] == [True, True, False, True, False]
    assert content["lower"][:2] == [None, None]
    assert content["lower"][3] is not None, "the interval is known, the point is not"
    nothing = content_of(post, plain, series([None] * 5))
    assert (nothing["anomaly"], nothing["num_anomalies"]) == ([None] * 3, 0)


@pytest.mark.parametrize("path", [PATH, "/v1/timeseries/backtest"])
def test_a_leap_after_almost_no_movement_is_no_warning(post: Post, plain: Path, path: str) -> None:
    leap = series([0.0, 1e-323, 0.0, 1e-323, 0.0, 1e30, 1e30, 1e30])
    response = post(plain, {"inputs": [leap]}, path=path)
    assert response.status_code == 200
    assert "Infinity" not in response.text
    if path == PATH:
        content = response.json()["outputs"][0]["content"][0]
        assert (content["anomaly"][3], content["score"][3]) == (True, 1e9)


def test_variates_are_flagged_each_on_its_own(post: Post, plain: Path) -> None:
    rows = [[value, 1.0 + i % 2] for i, value in enumerate(SERIES)]
    both = content_of(post, plain, series(rows, type="multivariate_time_series"), last=4)
    alone = content_of(post, plain, series(SERIES), last=4)
    assert [step[0] for step in both["anomaly"]] == alone["anomaly"]
    np.testing.assert_allclose([step[0] for step in both["lower"]], alone["lower"], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "limits", "param", "said"),
    [
        ({"level": 0.99}, {}, "options.level", "saw 0.99; allowed: up to 0.8"),
        ({"level": 0}, {}, "options.level", "greater than 0"),
        ({"last": 9}, {}, "inputs.0.series", "saw 10 steps; allowed: 11 or more"),
        ({"step": 4}, {}, "options.step", "allowed: 1 to 3"),
        ({}, {"max_windows": 7}, "options.last", "saw 8; allowed: 7"),
    ],
)
def test_limits_are_told(post: Post, plain: Path, options: Any, limits: Any, param: str, said: str) -> None:
    response = post(plain, {"inputs": [series(SERIES)], "options": options}, path=PATH, **limits)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert said in response.json()["error"]["message"]


def test_a_model_without_an_interval_cannot_flag() -> None:
    with pytest.raises(RequestError, match="knows no interval"):
        interval(None, [0.5], "options.level")


@given(
    level=st.floats(0.001, 0.8),
    levels=st.sampled_from([[0.1, 0.5, 0.9], [0.05, 0.5, 0.9], [0.1, 0.5, 0.975]]),
)
def test_the_bounds_of_an_interval_are_the_models_to_give(level: float, levels: list[float]) -> None:
    _, low, high = interval(level, levels, "level")
    assert levels[0] <= low < 0.5 < high <= levels[-1]
    assert high - low == pytest.approx(level, abs=1e-9)
