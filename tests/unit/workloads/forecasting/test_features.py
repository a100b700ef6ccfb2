"""Features of contexts: the same in training as in requests of every route."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mizzen.store import distribution
from mizzen.workloads.contract import Prepared
from mizzen.workloads.forecasting import features, workload
from mizzen.workloads.forecasting.config import ModelConfig

NAN = math.nan


def of(*contexts: list[float]) -> dict[str, list[float]]:
    return dict(features.of([np.array(context) for context in contexts]))


def test_a_context_says_its_length_level_variation_trend_and_gaps() -> None:
    found = of([10.0, 20.0, 30.0, 20.0, 20.0])
    assert found == {
        "context_length": [5],
        "log10_level": [pytest.approx(math.log10(20))],
        "variation": [pytest.approx(30 / 4 / 20)],
        "trend": [pytest.approx(10 / 30)],
        "missing_ratio": [0],
    }


def test_gaps_are_counted_and_change_nothing_else_much() -> None:
    found = of([NAN, 10.0, NAN, 30.0])
    assert found["missing_ratio"] == [0.5] and found["trend"] == [1]
    assert found["log10_level"] == [pytest.approx(math.log10(20))]
    assert found["variation"] == [pytest.approx(20 / 3 / 20)]


def test_series_of_any_length_together_are_as_each_alone() -> None:
    series = [[1.0, 2.0, 4.0], [5.0], [-3.0, NAN, -1.0, -2.0, -8.0], [7.0, 7.0]]
    together = of(*series)
    for i, one in enumerate(series):
        for name, (value,) in of(one).items():
            assert together[name][i] == pytest.approx(value)


def test_a_series_of_zeros_has_no_level_and_no_trend() -> None:
    found = of([0.0, 0.0])
    assert not math.isfinite(found["log10_level"][0]) and math.isnan(found["variation"][0])
    assert found["trend"] == [0]


@pytest.mark.parametrize(("num_series", "length"), [(300, 30), (1, 900)])
def test_training_has_enough_contexts_whether_of_many_series_or_of_one(
    prepared: Callable[..., Prepared], num_series: int, length: int
) -> None:
    random = np.random.default_rng(0)
    series = [50 + random.normal(size=length).cumsum() for _ in range(num_series)]
    found = workload.input_features(ModelConfig(), prepared(series))
    assert {len(values) for values in found.values()} <= set(range(500, features.MAX_VALUES + 1))
    assert set(found["context_length"]) == {8}


def test_the_ends_of_the_same_series_are_no_drift_and_other_series_are(
    prepared: Callable[..., Prepared],
) -> None:
    random = np.random.default_rng(0)
    series = [random.normal(50, 1, size=30) + 10 * random.normal() for _ in range(500)]
    trained = workload.input_features(ModelConfig(), prepared(series))
    for factor, moved in ((1.0, set()), (3.0, {"log10_level"})):
        sent = features.of([factor * values[-8:] for values in series])
        for name, values in sent.items():
            found = distribution.of(trained[name])
            assert found is not None
            counts = [0] * len(found.bins)
            for value in values:
                counts[found.bin_of(value)] += 1
            assert found.psi(counts) > 0.25 if name in moved else found.psi(counts) < 0.1, name


def test_short_series_are_looked_at_whole(prepared: Callable[..., Prepared]) -> None:
    found = workload.input_features(
        ModelConfig(), prepared([np.arange(5.0), np.full(4, NAN), np.arange(20.0)])
    )
    assert found["context_length"][0] == 5 and set(found["context_length"][1:]) == {8}


VALUES = [10.0, 11.0, 10.5, 11.5, 11.0, 12.0, 11.5, 40.0, 12.0, 12.5]
ONE = {"name": "sales", "series": VALUES, "frequency": "Y"}
SERIES = {"y": VALUES, "sizes": [10]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/timeseries/forecast", {"inputs": [ONE]}),
        ("/v1/timeseries/backtest", {"inputs": [ONE], "options": {"num_windows": 2}}),
        ("/v1/timeseries/anomalies", {"inputs": [ONE]}),
        ("/v2/forecast", {"series": SERIES, "freq": "YS", "h": 1}),
        ("/v2/cross_validation", {"series": SERIES, "freq": "YS", "h": 2, "n_windows": 2}),
        ("/v2/anomaly_detection", {"series": SERIES, "freq": "YS", "level": 80}),
    ],
)
def test_every_route_hands_over_each_series_once(
    post: Callable[..., Any], plain: Path, path: str, body: Any
) -> None:
    taken: list[Any] = []
    answer = post(plain, body, path=path, served_with={"watch_inputs": taken.append})
    assert answer.status_code == 200, answer.text
    assert taken == [of(VALUES[-8:])]


def test_each_variate_is_a_series_of_its_own(post: Callable[..., Any], plain: Path) -> None:
    item = {
        **ONE,
        "type": "multivariate_time_series",
        "series": [[value, 2 * value] for value in VALUES],
    }
    taken: list[Any] = []
    post(plain, {"inputs": [item, ONE]}, served_with={"watch_inputs": taken.append})
    assert taken == [of(VALUES[-8:], [2 * value for value in VALUES[-8:]], VALUES[-8:])]
