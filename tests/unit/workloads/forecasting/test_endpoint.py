"""The endpoint over real exported models: answers, the calendar, quantiles, and everything refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from mizzen.errors import MizzenError
from mizzen.serving.replies import reply
from mizzen.store.export import OnnxExporter
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.contract import Endpoint, ModelIdentity, Prepared, ServedModel
from mizzen.workloads.forecasting import workload
from mizzen.workloads.forecasting.config import ModelConfig, ServeOptions
from mizzen.workloads.forecasting.frequency import Frequency
from mizzen.workloads.forecasting.requests import interpolate
from mizzen.workloads.forecasting.series import Meta

T = TypeVar("T")
R = TypeVar("R")
PATH = "/v1/timeseries/forecast"
LEVELS = [0.1, 0.25, 0.5, 0.75, 0.9]


class Immediate:
    """Batching of one: notes how many items it ran."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, function: Callable[[list[T]], list[R]]) -> Callable[[T], Awaitable[R]]:
        async def one(item: T) -> R:
            self.count += 1
            return (await asyncio.to_thread(function, [item]))[0]

        return one


def export(folder: Path, data: Prepared) -> Path:
    config = ModelConfig(hidden_size=8, anchors=[1], quantiles=LEVELS)
    torch.manual_seed(0)
    model = workload.build_model(config, data, dropout=0.0).eval()
    folder.mkdir()
    workload.export(model, config, data, folder, "fp32", OnnxExporter(folder.parent))
    return folder


@pytest.fixture(scope="module")
def plain(
    tmp_path_factory: pytest.TempPathFactory, about: Callable[..., Meta], written: Callable[..., Prepared]
) -> Path:
    """A yearly model without calendar and covariates."""
    folder = tmp_path_factory.mktemp("plain")
    data = written(folder / "data", about(frequency=Frequency(0, 12)), [np.arange(20.0)])
    return export(folder / "model", data)


@pytest.fixture(scope="module")
def rich(
    tmp_path_factory: pytest.TempPathFactory, about: Callable[..., Meta], written: Callable[..., Prepared]
) -> Path:
    """A half-hourly model with calendar and covariates."""
    folder = tmp_path_factory.mktemp("rich")
    meta = about(
        frequency=Frequency(1_800, 0),
        calendar=("time_of_day", "day_of_week"),
        past_names=("rain",),
        known_names=("price",),
    )
    return export(folder / "model", written(folder / "data", meta, [np.arange(20.0)]))


def endpoint_of(folder: Path, batching: Any = None, **options: Any) -> Endpoint:
    identity = ModelIdentity("forecasting", 3, "sha256:abc")
    served = ServedModel(identity, folder, OnnxRuntime(num_threads=1), batching or Immediate(), "forecasting")
    return workload.endpoint(served, ServeOptions(**options))


async def answer_error(_: Request, exception: Exception) -> Response:
    """Errors become replies as in Mizzen's own application."""
    answer = reply(exception, "test")
    return Response(answer.body(), answer.status, media_type="application/json")


def post(folder: Path, body: Any, batching: Any = None, **options: Any) -> httpx.Response:
    endpoint = endpoint_of(folder, batching, **options)
    app = FastAPI()
    app.include_router(endpoint.router)
    for kind in (MizzenError, RequestValidationError):
        app.add_exception_handler(kind, answer_error)

    async def send() -> httpx.Response:
        await endpoint.start()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            content = body if isinstance(body, str) else json.dumps(body)
            response = await client.post(PATH, content=content, headers={"content-type": "application/json"})
        await endpoint.close()
        return response

    return asyncio.run(send())


def yearly(**changes: Any) -> dict[str, Any]:
    return {
        "type": "univariate_time_series",
        "name": "gdp",
        "series": [1.0, 2.0, 4.0, 3.0, 5.0],
        "frequency": "Y",
        "start_timestamp": "2019-01-01",
        **changes,
    }


def half_hourly(**changes: Any) -> dict[str, Any]:
    return {
        "name": "load",
        "series": [1.0, 2.0, 4.0],
        "frequency": "30min",
        "start_timestamp": "2024-02-28T22:30:00+01:00",
        "past_covariates": {"rain": [0.0, 1.0, None]},
        "known_covariates": {"price": [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]},
        **changes,
    }


def content_of(response: httpx.Response, index: int = 0) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()["outputs"][index]["content"][0]
    return content


def refusal(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_the_answer_has_kserves_shape_and_names_the_version(plain: Path) -> None:
    body = {"model": "forecasting", "inputs": [yearly()], "options": {"horizon": 2, "quantiles": [0.9, 0.1]}}
    answer = post(plain, body)
    content = content_of(answer)
    whole = answer.json()
    assert (whole["model"], whole["model_version"], whole["model_digest"]) == ("forecasting", 3, "sha256:abc")
    assert whole["status"] == whole["outputs"][0]["status"] == "completed"
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    assert (content["name"], content["type"]) == ("gdp", "univariate_time_series")
    assert (content["frequency"], content["start_timestamp"]) == ("Y", "2024-01-01T00:00:00")
    assert list(content["quantiles"]) == ["0.9", "0.1"]
    assert [len(content["mean_forecast"])] + [len(q) for q in content["quantiles"].values()] == [2, 2, 2]


def test_the_answer_is_what_pytorch_says_in_raw_units(plain: Path) -> None:
    moved = yearly(series=[1e6 + 100 * value for value in yearly()["series"]])
    first = content_of(post(plain, {"inputs": [yearly()]}))
    second = content_of(post(plain, {"inputs": [moved]}))
    for level in map(str, LEVELS):
        expected = 1e6 + 100 * np.array(first["quantiles"][level])
        np.testing.assert_allclose(second["quantiles"][level], expected, rtol=1e-9)
    np.testing.assert_allclose(
        second["mean_forecast"], 1e6 + 100 * np.array(first["mean_forecast"]), rtol=1e-9
    )


def test_several_inputs_are_answered_in_order_as_each_alone(plain: Path) -> None:
    inputs = [yearly(), yearly(name="b", series=[5.0, None, 9.0]), yearly(name="c", series=list(range(50)))]
    batching = Immediate()
    together = post(plain, {"inputs": inputs}, batching)
    assert batching.count == 3
    for i, item in enumerate(inputs):
        assert content_of(together, i) == content_of(post(plain, {"inputs": [item]}))


def test_windows_of_different_lengths_share_a_call(plain: Path) -> None:
    from mizzen.workloads.forecasting.endpoint import ForecastEndpoint
    from mizzen.workloads.forecasting.protocol import TimeSeriesInput
    from mizzen.workloads.forecasting.requests import windows

    endpoint = endpoint_of(plain)
    assert isinstance(endpoint, ForecastEndpoint)
    items = [TimeSeriesInput(**yearly()), TimeSeriesInput(**yearly(series=[3, 1, 4, 1, 5, 9, 2, 6, 5]))]
    each = [windows(item, "", endpoint._meta, ServeOptions())[0] for item in items]
    together = endpoint._run(each)
    for window, (quantiles, mean) in zip(each, together, strict=True):
        alone = endpoint._run([window])[0]
        np.testing.assert_allclose(quantiles, alone[0], rtol=1e-5)
        np.testing.assert_allclose(mean, alone[1], rtol=1e-5)


def test_variates_are_forecast_each_on_its_own(plain: Path) -> None:
    rows = [[1.0, 10.0], [2.0, 20.0], [4.0, None], [3.0, 30.0]]
    item = yearly(type="multivariate_time_series", series=rows)
    several = content_of(post(plain, {"inputs": [item]}))
    second = content_of(post(plain, {"inputs": [yearly(series=[row[1] for row in rows])]}))
    assert several["type"] == "multivariate_time_series"
    assert [step[1] for step in several["mean_forecast"]] == second["mean_forecast"]
    assert [step[1] for step in several["quantiles"]["0.9"]] == second["quantiles"]["0.9"]


def test_quantiles_between_the_models_own_are_interpolated_and_never_cross(plain: Path) -> None:
    asked = [0.1, 0.175, 0.25, 0.4, 0.5, 0.6, 0.9]
    quantiles = content_of(post(plain, {"inputs": [yearly()], "options": {"quantiles": asked}}))["quantiles"]
    values = np.array([quantiles[str(level)] for level in asked])
    assert (np.diff(values, axis=0) >= 0).all()
    np.testing.assert_allclose(values[1], (values[0] + values[2]) / 2)


@given(
    st.lists(st.lists(st.floats(-1e9, 1e9), min_size=5, max_size=5).map(sorted), min_size=1, max_size=4),
    st.lists(st.floats(0.1, 0.9), min_size=1, max_size=12, unique=True),
)
def test_interpolated_quantiles_never_cross(rows: list[list[float]], asked: list[float]) -> None:
    made = interpolate(np.array(rows), LEVELS, tuple(asked))
    rising = made[:, np.argsort(asked)]
    assert (np.diff(rising, axis=1) >= 0).all()


def test_null_is_a_missing_value_and_changes_the_forecast(plain: Path) -> None:
    missing = content_of(post(plain, {"inputs": [yearly(series=[1.0, None, 4.0, 3.0, 5.0])]}))
    whole = content_of(post(plain, {"inputs": [yearly()]}))
    assert missing["mean_forecast"] != whole["mean_forecast"]


def test_the_forecast_starts_one_step_of_the_calendar_after_the_series(rich: Path) -> None:
    assert (
        content_of(post(rich, {"inputs": [half_hourly()]}))["start_timestamp"] == "2024-02-29T00:00:00+01:00"
    )
    utc = half_hourly(start_timestamp="2024-02-28T22:30:00Z")
    assert content_of(post(rich, {"inputs": [utc]}))["start_timestamp"] == "2024-02-29T00:00:00Z"


def test_without_a_start_there_is_no_start_in_the_answer(plain: Path) -> None:
    assert content_of(post(plain, {"inputs": [yearly(start_timestamp=None)]}))["start_timestamp"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"start_timestamp": "2024-03-02T22:30:00"},
        {"past_covariates": {"rain": [0.0, 1.0, 9.0]}},
        {"known_covariates": {"price": [1.0, 1.0, 1.0, 2.0, 2.0, 7.0]}},
    ],
)
def test_calendar_and_covariates_change_the_forecast(rich: Path, changes: dict[str, Any]) -> None:
    before = content_of(post(rich, {"inputs": [half_hourly()]}))
    after = content_of(post(rich, {"inputs": [half_hourly(**changes)]}))
    assert before["mean_forecast"] != after["mean_forecast"]


@pytest.mark.parametrize("spelling", ["Y", "year", "P1Y", "YS", "annual", "12M"])
def test_any_spelling_of_the_frequency_is_understood(plain: Path, spelling: str) -> None:
    assert content_of(post(plain, {"inputs": [yearly(frequency=spelling)]}))["frequency"] == spelling


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        (
            {"frequency": "M"},
            "inputs.0.frequency",
            "allowed: P1Y (every year), on which the model was trained",
        ),
        ({"frequency": "often"}, "inputs.0.frequency", "no such frequency"),
        ({"series": [1.0]}, "inputs.0.series", "allowed: 2 or more"),
        ({"series": [1.0, None, None]}, "inputs.0.series", "allowed: 2 or more"),
        ({"series": [None, None]}, "inputs.0.series", "allowed: 2 or more"),
        ({"series": [[1.0], [2.0]]}, "inputs.0.series", "shape of its type"),
        ({"type": "multivariate_time_series"}, "inputs.0.series", "shape of its type"),
        ({"type": "multivariate_time_series", "series": [[1, 2], [3]]}, "inputs.0.series", "as many values"),
        ({"type": "multivariate_time_series", "series": [[], []]}, "inputs.0.series", "as many values"),
        ({"series": [1e200, 2.0]}, "inputs.0.series", "too large"),
        ({"series": list(range(101))}, "inputs.0.series", "allowed: 100"),
        ({"start_timestamp": "yesterday"}, "inputs.0.start_timestamp", "ISO 8601"),
        ({"start_timestamp": "9998-01-01"}, "inputs.0.start_timestamp", "9999"),
        ({"past_covariates": {"rain": [1.0]}}, "inputs.0.past_covariates", "allowed: none"),
    ],
)
def test_what_is_wrong_with_an_input_is_named(
    plain: Path, changes: dict[str, Any], param: str, said: str
) -> None:
    error = refusal(post(plain, {"inputs": [yearly(**changes)]}, max_length=100))
    assert error["param"] == param
    assert said in error["message"]


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"start_timestamp": None}, "inputs.0.start_timestamp", "does not say when it starts"),
        ({"past_covariates": {}}, "inputs.0.past_covariates", "allowed: rain"),
        ({"past_covariates": {"rain": [1.0]}}, "inputs.0.past_covariates.rain", "allowed: 3"),
        ({"known_covariates": {"price": [1.0] * 3}}, "inputs.0.known_covariates.price", "allowed: 6"),
        ({"known_covariates": {"cost": [1.0] * 6}}, "inputs.0.known_covariates", "allowed: price"),
    ],
)
def test_covariates_that_do_not_fit_are_named(
    rich: Path, changes: dict[str, Any], param: str, said: str
) -> None:
    error = refusal(post(rich, {"inputs": [half_hourly(**changes)]}))
    assert error["param"] == param
    assert said in error["message"]


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        ({"horizon": 4}, "options.horizon", "allowed: 1 to 3 steps"),
        ({"horizon": 0}, "options.horizon", "greater than or equal to 1"),
        ({"horizon": "2"}, "options.horizon", "valid integer"),
        ({"quantiles": [0.05, 0.5]}, "options.quantiles", "allowed: 0.1 to 0.9"),
        ({"quantiles": [0.5, 0.5]}, "options.quantiles", "twice"),
        ({"quantiles": []}, "options.quantiles", "at least 1"),
        ({"level": [80]}, "options.level", "not permitted"),
    ],
)
def test_options_beyond_the_model_are_refused(plain: Path, options: Any, param: str, said: str) -> None:
    error = refusal(post(plain, {"inputs": [yearly()], "options": options}))
    assert error["param"] == param
    assert said in error["message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "true", '"1"', "{}", "1" * 400])
def test_what_is_no_finite_number_is_refused(plain: Path, number: str) -> None:
    body = json.dumps({"inputs": [yearly(series=[1.0, 77.0, 2.0])]}).replace("77.0", number)
    assert refusal(post(plain, body))["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", ["", "{", "[]", "null", "{}", '{"inputs": []}', '{"inputs": [{}]}'])
def test_broken_bodies_are_refused(plain: Path, body: str) -> None:
    assert refusal(post(plain, body))["message"]


def test_too_many_series_are_refused(plain: Path) -> None:
    wide = yearly(type="multivariate_time_series", series=[[1.0, 2.0], [2.0, 3.0]])
    error = refusal(post(plain, {"inputs": [wide, yearly()]}, max_inputs=2))
    assert error["param"] == "inputs"
    assert "saw 3; allowed: 2" in error["message"]


def test_another_models_name_is_not_found(plain: Path) -> None:
    error = refusal(post(plain, {"model": "timesfm", "inputs": [yearly()]}), 404)
    assert "allowed: forecasting" in error["message"]


@pytest.mark.parametrize("which", ["plain", "rich"])
def test_the_example_works_on_its_model(which: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(which)
    (example,) = workload.examples(folder)
    assert example.path == PATH
    content = content_of(post(folder, example.body))
    assert list(content["quantiles"]) == ["0.1", "0.5", "0.9"]
