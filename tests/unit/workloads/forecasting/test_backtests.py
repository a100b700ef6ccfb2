"""Backtests: the figures are those of the trainer, the limits are told, and a bad series fails alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.contract import Prepared
from mizzen.workloads.forecasting import workload
from mizzen.workloads.forecasting.config import ModelConfig
from mizzen.workloads.forecasting.series import Meta, Store
from mizzen.workloads.forecasting.windows import HeldOutWindows, collate

Post = Callable[..., httpx.Response]
PATH = "/v1/timeseries/backtest"
CONFIG = ModelConfig(hidden_size=8, anchors=[1], quantiles=[0.1, 0.25, 0.5, 0.75, 0.9])


@pytest.fixture(scope="module")
def seasonal(
    tmp_path_factory: pytest.TempPathFactory,
    about: Callable[..., Meta],
    written: Callable[..., Prepared],
    exported: Callable[[Path, Prepared], Path],
) -> tuple[Path, Prepared]:
    """A daily model with a season of 4 and gaps in its data, exported, and that data."""
    folder = tmp_path_factory.mktemp("seasonal")
    random = np.random.default_rng(0)
    targets = [random.normal(size=size).cumsum() + np.arange(size) % 4 for size in (14, 20, 31)]
    targets[1][[3, 11, 18]] = np.nan
    meta = about(seasonality=(4,), test_windows=3, stride=2, past_names=("rain",), known_names=("price",))
    data = written(folder / "data", meta, targets)
    return exported(folder / "model", data), data


def inputs_of(data: Prepared) -> list[dict[str, Any]]:
    """All prepared series as inputs of a request."""
    store = Store(data)
    return [
        {
            "name": f"s{i}",
            "series": [None if np.isnan(value) else value for value in store.target(i, 0, length).tolist()],
            "frequency": "D",
            "past_covariates": {"rain": store.past(i, 0, length)[:, 0].tolist()},
            "known_covariates": {"price": store.known(i, 0, length)[:, 0].tolist()},
        }
        for i, length in enumerate(store.lengths.tolist())
    ]


def ask(post: Post, model: Path, inputs: list[dict[str, Any]], **options: Any) -> Any:
    response = post(model, {"inputs": inputs, "options": options}, path=PATH)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_figures_are_those_of_the_trainer(post: Post, seasonal: tuple[Path, Prepared]) -> None:
    model, data = seasonal
    answer = ask(post, model, inputs_of(data), num_windows=3, step=2)
    windows = HeldOutWindows(Store(data), "test", CONFIG.quantiles)
    batch = collate([windows[i] for i in range(len(windows))])
    predict = workload.open(model, OnnxRuntime(num_threads=1))
    outputs = predict({name: value.numpy() for name, value in workload.inputs(batch).items()})
    rows = workload.measure({name: torch.from_numpy(value) for name, value in outputs.items()}, batch)
    expected = workload.summarise({name: float(value.mean()) for name, value in rows.items()})
    overall = answer["overall"]
    assert overall["num_windows"] == len(windows) == 9
    assert overall["figures"] == pytest.approx(
        {"mase": expected["mase"], "smape": expected["smape"], "weighted_quantile_loss": expected["wql"]},
        rel=1e-5,
    )
    naive = workload.baselines(CONFIG, data, "test")["seasonal_naive_4"]
    assert overall["seasonal_naive"] == pytest.approx(
        {"mase": naive["mase"], "smape": naive["smape"], "weighted_quantile_loss": naive["wql"]}, rel=1e-9
    )
    ratio = overall["figures"]["mase"] / overall["seasonal_naive"]["mase"]
    assert overall["ratio"]["mase"] == pytest.approx(ratio)


def test_each_window_is_what_the_forecast_would_have_been(
    post: Post, seasonal: tuple[Path, Prepared]
) -> None:
    model, data = seasonal
    item = inputs_of(data)[2]
    item["start_timestamp"] = "2024-01-01"
    asked = {"horizon": 2, "num_windows": 2, "step": 1, "forecasts": True, "quantiles": [0.2, 0.5]}
    (window, _) = ask(post, model, [item], **asked)["outputs"][0]["content"][0]["windows"]
    assert (window["origin"], window["start_timestamp"]) == (28, "2024-01-29T00:00:00")
    assert window["observed"] == item["series"][28:30]
    before = {
        **item,
        "series": item["series"][:28],
        "past_covariates": {"rain": item["past_covariates"]["rain"][:28]},
        "known_covariates": {"price": item["known_covariates"]["price"][:31]},
    }
    body = {"inputs": [before], "options": {"horizon": 2, "quantiles": [0.2, 0.5]}}
    content = post(model, body).json()["outputs"][0]["content"][0]
    np.testing.assert_allclose(window["mean_forecast"], content["mean_forecast"], rtol=1e-5)
    for level in ("0.2", "0.5"):
        np.testing.assert_allclose(window["quantiles"][level], content["quantiles"][level], rtol=1e-5)


def test_variates_are_judged_together(post: Post, plain: Path) -> None:
    rows = [[float(i), float(i * i % 7)] for i in range(12)]
    item = {"type": "multivariate_time_series", "name": "two", "series": rows, "frequency": "Y"}
    both = ask(post, plain, [item], num_windows=2, forecasts=True)
    each = [
        ask(
            post,
            plain,
            [{"name": str(v), "series": [row[v] for row in rows], "frequency": "Y"}],
            num_windows=2,
        )
        for v in (0, 1)
    ]
    assert both["overall"]["num_windows"] == 4
    smape = [answer["overall"]["figures"]["smape"] for answer in each]
    assert both["overall"]["figures"]["smape"] == pytest.approx(sum(smape) / 2, rel=1e-5)
    windows = both["outputs"][0]["content"][0]["windows"]
    assert [window["origin"] for window in windows] == [6, 9]
    assert windows[0]["observed"] == rows[6:9]


def test_a_figure_that_cannot_be_had_is_null(post: Post, plain: Path) -> None:
    item = {"name": "still", "series": [5.0] * 10, "frequency": "Y"}
    overall = ask(post, plain, [item])["overall"]
    assert overall["figures"]["mase"] is None
    assert overall["ratio"] == {"mase": None, "smape": None, "weighted_quantile_loss": None}


def test_a_series_too_short_fails_alone_and_the_length_needed_is_told(post: Post, plain: Path) -> None:
    good = {"name": "good", "series": list(range(12)), "frequency": "Y"}
    short = {"name": "short", "series": list(range(10)), "frequency": "Y"}
    holes = {"name": "holes", "series": [None] * 4 + list(range(8)), "frequency": "Y"}
    answer = ask(post, plain, [good, short, holes], num_windows=3, step=3)
    assert answer["status"] == "partial"
    assert [output["status"] for output in answer["outputs"]] == ["completed", "error", "error"]
    assert "saw 10 steps; allowed: 11 or more: 2 before" in answer["outputs"][1]["error"]["message"]
    assert "before the origin 3; saw 0" in answer["outputs"][2]["error"]["message"]
    assert answer["overall"]["num_windows"] == 3


@pytest.mark.parametrize(
    ("options", "limits", "param", "said"),
    [
        ({"num_windows": 3, "step": 1}, {"max_windows": 5}, "options.num_windows", "saw 6; allowed: 5"),
        ({"horizon": 4}, {}, "options.horizon", "allowed: 1 to 3"),
        ({"num_windows": 0}, {}, "options.num_windows", "greater than or equal to 1"),
        ({"quantiles": [0.99]}, {}, "options.quantiles", "allowed: 0.1 to 0.9"),
    ],
)
def test_limits_are_told(post: Post, plain: Path, options: Any, limits: Any, param: str, said: str) -> None:
    inputs = [{"name": name, "series": list(range(12)), "frequency": "Y"} for name in "ab"]
    response = post(plain, {"inputs": inputs, "options": options}, path=PATH, **limits)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert said in response.json()["error"]["message"]
