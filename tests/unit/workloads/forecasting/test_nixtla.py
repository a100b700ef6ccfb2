"""Nixtla's own client, unchanged, against the endpoint over real HTTP, below a path; and what is refused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import uvicorn
from nixtla import NixtlaClient
from nixtla.nixtla_client import ApiError
from starlette.applications import Starlette
from starlette.routing import Mount

from mizzen.recording import ServedMetrics
from mizzen.serving.http import Facts, Limits, http_app
from mizzen.workloads.contract import Endpoint, ModelIdentity, Prepared
from mizzen.workloads.forecasting.series import Meta

Post = Callable[..., httpx.Response]
LIMITS = Limits(max_ongoing_requests=8, max_queued_requests=8, max_request_bytes=2**24)


@pytest.fixture(scope="module")
def daily(
    tmp_path_factory: pytest.TempPathFactory,
    about: Callable[..., Meta],
    written: Callable[..., Prepared],
    exported: Callable[[Path, Prepared], Path],
) -> Path:
    """A daily model with a known and a past covariate."""
    folder = tmp_path_factory.mktemp("daily")
    data = written(folder / "data", about(past_names=("rain",), known_names=("price",)), [np.arange(20.0)])
    return exported(folder / "model", data)


@pytest.fixture(scope="module")
def server(plain: Path, daily: Path, endpoint_of: Callable[..., Endpoint]) -> Iterator[str]:
    """Both models below paths of their own; the address of the server."""

    def app(name: str, folder: Path) -> Mount:
        identity = ModelIdentity("forecasting", 3, "sha256:abc")
        recorder, facts = ServedMetrics(name, "forecasting", 3), Facts("Forecasts.", "forecasting")
        return Mount(f"/{name}", http_app(identity, endpoint_of(folder), recorder, LIMITS, facts))

    apps = Starlette(routes=[app("yearly", plain), app("daily", daily)])
    running = uvicorn.Server(uvicorn.Config(apps, log_level="error", ws="none", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listening:  # who connects early waits
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(server: str) -> NixtlaClient:
    """Its own client for the yearly model; it does not try again."""
    return NixtlaClient(api_key="secret", base_url=f"{server}/yearly", max_retries=1)


def yearly_frame() -> pd.DataFrame:
    """Three series of 20 to 22 years, as users have them."""
    random = np.random.default_rng(0)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "unique_id": f"s{i}",
                    "ds": pd.date_range("1990-01-01", periods=20 + i, freq="YS"),
                    "y": 100 + random.normal(size=20 + i).cumsum(),
                }
            )
            for i in range(3)
        ],
        ignore_index=True,
    )


def inputs_of(frame: pd.DataFrame, frequency: str) -> list[dict[str, Any]]:
    """The same series as inputs of KServe's protocol."""
    return [
        {
            "name": name,
            "series": own["y"].astype(np.float32).astype(float).tolist(),
            "frequency": frequency,
        }
        for name, own in frame.groupby("unique_id")
    ]


def contents(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    return [output["content"][0] for output in response.json()["outputs"]]


def test_the_key_is_asked_for(client: NixtlaClient) -> None:
    assert client.validate_api_key()


def test_a_forecast_is_that_of_the_other_protocol(client: NixtlaClient, post: Post, plain: Path) -> None:
    frame = yearly_frame()
    made = client.forecast(frame, h=3, freq="YS", level=[80, 40.0])
    body = {"inputs": inputs_of(frame, "Y"), "options": {"quantiles": [0.1, 0.3, 0.7, 0.9]}}
    expected = contents(post(plain, body))
    assert made["ds"].tolist()[:3] == [pd.Timestamp(f"{year}-01-01") for year in (2010, 2011, 2012)]
    mean = np.concatenate([content["mean_forecast"] for content in expected])
    np.testing.assert_allclose(made["TimeGPT"], mean, rtol=1e-5)
    columns = {"lo-80": "0.1", "lo-40.0": "0.3", "hi-40.0": "0.7", "hi-80": "0.9"}
    for column, level in columns.items():
        values = np.concatenate([content["quantiles"][level] for content in expected])
        np.testing.assert_allclose(made[f"TimeGPT-{column}"], values, rtol=1e-5)


def test_quantiles_of_the_client_never_cross(client: NixtlaClient) -> None:
    asked = [0.1, 0.2, 0.5, 0.7, 0.9]
    made = client.forecast(yearly_frame(), h=3, freq="YS", quantiles=asked)
    values = made[[f"TimeGPT-q-{round(100 * level)}" for level in asked]].to_numpy()
    assert (np.diff(values, axis=1) > 0).all()


def test_history_and_partitions(client: NixtlaClient) -> None:
    frame = yearly_frame()
    made = client.forecast(frame, h=2, freq="YS", add_history=True, level=[50])
    assert made.groupby("unique_id")["ds"].max().dt.year.tolist() == [2011, 2012, 2013]
    assert (made["TimeGPT-lo-50"] < made["TimeGPT-hi-50"]).all()
    assert len(made) > 3 * 2
    parts = client.forecast(frame, h=2, freq="YS", num_partitions=2)
    np.testing.assert_allclose(parts["TimeGPT"], client.forecast(frame, h=2, freq="YS")["TimeGPT"], rtol=1e-5)


def test_cross_validation_is_the_backtest(client: NixtlaClient, post: Post, plain: Path) -> None:
    frame = yearly_frame()
    made = client.cross_validation(frame, h=2, n_windows=3, step_size=1, freq="YS", level=[80])
    options = {"horizon": 2, "num_windows": 3, "step": 1, "forecasts": True, "quantiles": [0.1, 0.9]}
    body = {"inputs": inputs_of(frame, "Y"), "options": options}
    windows = [
        w for one in contents(post(plain, body, path="/v1/timeseries/backtest")) for w in one["windows"]
    ]
    assert len(made) == 3 * 3 * 2
    np.testing.assert_allclose(made["TimeGPT"], np.ravel([w["mean_forecast"] for w in windows]), rtol=1e-5)
    np.testing.assert_allclose(
        made["TimeGPT-lo-80"], np.ravel([w["quantiles"]["0.1"] for w in windows]), rtol=1e-5
    )
    np.testing.assert_allclose(made["y"], np.ravel([w["observed"] for w in windows]), rtol=1e-5)
    assert (made["cutoff"] < made["ds"]).all()


def test_anomalies_are_those_of_the_other_protocol(client: NixtlaClient, post: Post, plain: Path) -> None:
    frame = yearly_frame()
    frame.loc[15, "y"] = 500.0
    expected = contents(post(plain, {"inputs": inputs_of(frame, "Y")}, path="/v1/timeseries/anomalies"))
    made = client.detect_anomalies(frame, freq="YS", level=80)
    assert made["anomaly"].tolist() == [flag for content in expected for flag in content["anomaly"]]
    assert made.loc[(made["unique_id"] == "s0") & (made["ds"].dt.year == 2005), "anomaly"].item()
    options = {"last": 3, "step": 2}
    body = {"inputs": inputs_of(frame, "Y"), "options": options}
    expected = contents(post(plain, body, path="/v1/timeseries/anomalies"))
    online = client.detect_anomalies_online(frame, freq="YS", level=80, h=2, detection_size=3)
    assert len(online) == 3 * 3
    score = np.concatenate([content["score"] for content in expected])
    np.testing.assert_allclose(online["anomaly_score"], score, rtol=1e-4)
    np.testing.assert_allclose(
        online["TimeGPT-hi-80"], np.concatenate([content["upper"] for content in expected]), rtol=1e-5
    )


def test_covariates_in_a_body_large_enough_to_be_compressed(server: str, post: Post, daily: Path) -> None:
    client = NixtlaClient(api_key="secret", base_url=f"{server}/daily/", max_retries=1)
    random = np.random.default_rng(0)
    length, count = 9_000, 5
    days = pd.date_range("1980-01-01", periods=length + 2, freq="D")
    whole = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(count)], length + 2),
            "ds": np.tile(days.to_numpy(), count),
            "y": random.normal(size=count * (length + 2)).cumsum(),
            "price": random.normal(size=count * (length + 2)),
            "rain": random.normal(size=count * (length + 2)),
        }
    )
    past = whole[whole["ds"] < days[length]]
    ahead = whole[whole["ds"] >= days[length]][["unique_id", "ds", "price"]]
    made = client.forecast(past, h=2, freq="D", X_df=ahead, hist_exog_list=["rain"])
    tail = [own.tail(30) for _, own in past.groupby("unique_id")]
    inputs = [
        {
            "name": f"s{i}",
            "series": own["y"].tolist(),
            "frequency": "D",
            "past_covariates": {"rain": own["rain"].tolist()},
            "known_covariates": {
                "price": own["price"].tolist() + ahead.loc[ahead["unique_id"] == f"s{i}", "price"].tolist()
            },
        }
        for i, own in enumerate(tail)
    ]
    expected = contents(post(daily, {"inputs": inputs, "options": {"horizon": 2}}))
    mean = np.concatenate([content["mean_forecast"] for content in expected])
    np.testing.assert_allclose(made["TimeGPT"], mean, rtol=1e-3, atol=1e-3)  # the client sends float32
    folds = client.cross_validation(
        past[past["ds"] >= days[length - 50]], h=2, freq="D", hist_exog_list=["rain"], n_windows=2
    )
    assert len(folds) == count * 4


@pytest.mark.parametrize(
    ("changes", "status", "param", "said"),
    [
        ({"h": 4}, 400, "h", "allowed: 1 to 3"),
        ({"level": [95]}, 400, "level", "saw 95; allowed: up to 80"),
        ({"model": "timegpt-1-long-horizon"}, 404, "model", "allowed: forecasting"),
        ({"finetune_steps": 10}, 400, "finetune_steps", "should be 0"),
        ({"finetuned_model_id": "mine"}, 400, "finetuned_model_id", "null"),
        ({"freq": "MS"}, 400, "freq", "allowed: P1Y"),
        ({"multivariate": True}, 400, "multivariate", "False"),
        ({"model_parameters": {"horizon": 9}}, 400, "model_parameters", "at most 0 items"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    server: str, changes: dict[str, Any], status: int, param: str, said: str
) -> None:
    body = {"series": {"y": [1.0, 2.0, 3.0], "sizes": [3]}, "freq": "YS", "h": 2, **changes}
    response = httpx.post(f"{server}/yearly/v2/forecast", json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert said in error["message"]


@pytest.mark.parametrize(
    ("series", "param", "said"),
    [
        ({"y": [1.0, 2.0], "sizes": [3]}, "series.sizes", "saw 3; allowed: 2"),
        ({"y": [1.0, 2.0], "sizes": [10**4299] * 10}, "series.sizes.0", "less than or equal to 1000000"),
        ({"y": [1.0, 2.0, 3.0], "sizes": [2, 1]}, "series.sizes", "series '1' is too short"),
        ({"y": [1.0, 2.0], "sizes": [2], "X": [[1.0, 2.0]]}, "series.X", "saw 1 in X"),
        ({"y": [1.0, 2.0], "sizes": [2], "X_future": [[1.0, 2.0]]}, "series.X", "1 that are known ahead"),
    ],
)
def test_series_that_do_not_fit_are_refused(
    server: str, series: dict[str, Any], param: str, said: str
) -> None:
    response = httpx.post(f"{server}/yearly/v2/forecast", json={"series": series, "freq": "YS", "h": 2})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert said in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("series", "param", "said"),
    [
        ({"X": [[1.0, 2.0]], "X_future": [[1.0, 2.0]]}, "series.X", "1 in X, of which 0 are historic"),
        ({"X": [[1.0], [1.0, 2.0]], "X_future": [[1.0, 2.0]]}, "series.X.0", "saw 1 values; allowed: 2"),
        ({"X": [[1.0, 2.0]] * 2, "X_future": [[1.0]]}, "series.X_future.0", "saw 1 values; allowed: 2"),
        ({"X": [[1.0, 2.0]], "X_future": [[1.0, 2.0]] * 2}, "series.X", "2 that are known ahead"),
    ],
)
def test_covariates_that_do_not_fit_are_refused(
    server: str, series: dict[str, Any], param: str, said: str
) -> None:
    body = {"series": {"y": [1.0, 2.0], "sizes": [2], **series}, "freq": "D", "h": 2}
    response = httpx.post(f"{server}/daily/v2/forecast", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert said in response.json()["error"]["message"]


def test_the_clients_user_reads_why(client: NixtlaClient) -> None:
    with pytest.raises(ApiError, match="up to 80, which lies between its quantiles"):
        client.detect_anomalies(yearly_frame(), freq="YS")
    with pytest.raises(ApiError, match="allowed: P1Y"):
        client.forecast(yearly_frame().assign(ds=lambda frame: range(len(frame))), h=1, freq=1, id_col="none")


def test_a_model_that_reads_the_calendar_is_not_for_this_protocol(post: Post, rich: Path) -> None:
    body = {"series": {"y": [1.0, 2.0, 3.0], "sizes": [3]}, "freq": "30m", "h": 2}
    response = post(rich, body, path="/v2/forecast")
    assert response.status_code == 400
    assert "reads the calendar" in response.json()["error"]["message"]
