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
from hypothesis import given
from hypothesis import strategies as st

from mizzen.workloads.contract import Endpoint
from mizzen.workloads.forecasting import workload
from mizzen.workloads.forecasting.answers import interpolate
from mizzen.workloads.forecasting.predictor import AT_ONCE, CHUNK, MAX_ROWS
from mizzen.workloads.forecasting.protocol import ForecastRequest, ForecastResponse
from mizzen.workloads.forecasting.scaling import Scale

T = TypeVar("T")
R = TypeVar("R")
PATH = "/v1/timeseries/forecast"
LEVELS = [0.1, 0.25, 0.5, 0.75, 0.9]
MORE: dict[str, dict[str, Any]] = {
    PATH: {"timestamps": True},
    "/v1/timeseries/backtest": {"forecasts": True},
    "/v1/timeseries/anomalies": {"timestamps": True, "step": 2},
}
"""Options that bring out the optional fields of an answer."""


Post = Callable[..., httpx.Response]


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


def assert_close(content: dict[str, Any], other: dict[str, Any]) -> None:
    """The same but for the rounding of float32, which depends on what shares a call of the graph."""
    assert {**content, "mean_forecast": 0, "quantiles": 0} == {**other, "mean_forecast": 0, "quantiles": 0}
    np.testing.assert_allclose(content["mean_forecast"], other["mean_forecast"], rtol=1e-5)
    for level, values in other["quantiles"].items():
        np.testing.assert_allclose(content["quantiles"][level], values, rtol=1e-5)


def refusal(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_the_answer_has_kserves_shape_and_names_the_version(post: Post, plain: Path) -> None:
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


def test_the_answer_is_what_pytorch_says_in_raw_units(post: Post, plain: Path) -> None:
    moved = yearly(series=[1e6 + 100 * value for value in yearly()["series"]])
    first = content_of(post(plain, {"inputs": [yearly()]}))
    second = content_of(post(plain, {"inputs": [moved]}))
    for level in map(str, LEVELS):
        expected = 1e6 + 100 * np.array(first["quantiles"][level])
        np.testing.assert_allclose(second["quantiles"][level], expected, rtol=1e-9)
    np.testing.assert_allclose(
        second["mean_forecast"], 1e6 + 100 * np.array(first["mean_forecast"]), rtol=1e-9
    )


def test_several_inputs_are_answered_in_order_as_each_alone(post: Post, plain: Path, immediate: Any) -> None:
    inputs = [yearly(), yearly(name="b", series=[5.0, None, 9.0]), yearly(name="c", series=list(range(50)))]
    batching = immediate()
    together = post(plain, {"inputs": inputs}, batching)
    assert batching.count == 1, "one item of the batching for one small request"
    for i, item in enumerate(inputs):
        assert_close(content_of(together, i), content_of(post(plain, {"inputs": [item]})))


def test_a_request_of_many_series_is_split_for_the_batching(post: Post, plain: Path, immediate: Any) -> None:
    series = np.random.default_rng(0).normal(size=(CHUNK + 3, 8)).cumsum(axis=1).round(3)
    inputs = [yearly(name=str(i), series=row.tolist()) for i, row in enumerate(series)]
    batching = immediate()
    together = post(plain, {"inputs": inputs}, batching)
    assert batching.count == 2
    for i in (0, CHUNK - 1, CHUNK, CHUNK + 2):
        assert_close(content_of(together, i), content_of(post(plain, {"inputs": [inputs[i]]})))


def test_a_request_of_very_many_series_leaves_room_for_others_between_its_own(
    plain: Path, endpoint_of: Callable[..., Endpoint]
) -> None:
    present, most = 0, 0

    def counting(function: Callable[[list[T]], list[R]]) -> Callable[[T], Awaitable[R]]:
        async def one(item: T) -> R:
            nonlocal present, most
            present += 1
            most = max(most, present)
            await asyncio.sleep(0)
            present -= 1
            return function([item])[0]

        return one

    endpoint: Any = endpoint_of(plain, counting, max_inputs=10_000)
    series = [yearly(name=str(i), series=[1.0, 2.0, float(i)]) for i in range(3 * MAX_ROWS + 1)]
    body = ForecastRequest.model_validate({"inputs": series})
    answer = json.loads(asyncio.run(endpoint.forecast(body)).json)
    assert most == AT_ONCE
    means = [output["content"][0]["mean_forecast"] for output in answer["outputs"]]
    assert len(means) == len(series)
    assert means == sorted(means), "in order: each series rises more than the one before"


def test_variates_are_forecast_each_on_its_own(post: Post, plain: Path) -> None:
    rows = [[1.0, 10.0], [2.0, 20.0], [4.0, None], [3.0, 30.0]]
    item = yearly(type="multivariate_time_series", series=rows)
    several = content_of(post(plain, {"inputs": [item]}))
    second = content_of(post(plain, {"inputs": [yearly(series=[row[1] for row in rows])]}))
    assert several["type"] == "multivariate_time_series"
    np.testing.assert_allclose([step[1] for step in several["mean_forecast"]], second["mean_forecast"], 1e-6)
    quantiles = [step[1] for step in several["quantiles"]["0.9"]]
    np.testing.assert_allclose(quantiles, second["quantiles"]["0.9"], 1e-6)


def test_quantiles_between_the_models_own_are_interpolated_and_never_cross(post: Post, plain: Path) -> None:
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
    expected = np.stack([np.interp(asked, LEVELS, row) for row in rows])
    np.testing.assert_allclose(made, expected, rtol=1e-9, atol=1e-6)


@given(
    scaled=st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5).map(sorted),
    location=st.floats(-1e30, 1e30),
    scale=st.floats(1e-12, 1e30),
    asked=st.lists(st.floats(0.1, 0.9), min_size=1, max_size=12, unique=True),
)
def test_quantiles_in_raw_units_never_cross(
    scaled: list[float], location: float, scale: float, asked: list[float]
) -> None:
    raw = Scale(np.array([location]), np.array([scale])).up(np.array([[scaled]], dtype=np.float32))
    assert (np.diff(raw) >= 0).all()
    rising = interpolate(raw, LEVELS, asked)[..., np.argsort(asked)]
    assert (np.diff(rising) >= 0).all()


@pytest.mark.parametrize("which", ["plain", "rich"])
def test_answers_are_what_the_openapi_document_says(
    which: str, post: Post, endpoint_of: Callable[..., Endpoint], request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(which)
    models = {route.path: route.response_model for route in endpoint_of(folder).router.routes}  # type: ignore[attr-defined]
    for example in workload.examples(folder):
        for options in ({}, MORE.get(example.path, {})):
            body = {**example.body}
            if options:
                body["options"] = {**body["options"], **options}
            response = post(folder, body, path=example.path)
            assert response.status_code == 200, response.text
            models[example.path].model_validate_json(response.content, strict=True)


def test_one_bad_series_does_not_fail_the_others(post: Post, plain: Path) -> None:
    inputs = [
        yearly(),
        yearly(name="short", series=[1.0]),
        yearly(name="b", series=[5.0, 6.0, 9.0]),
        yearly(name="monthly", frequency="M"),
    ]
    answer = post(plain, {"inputs": inputs})
    whole = answer.json()
    ForecastResponse.model_validate_json(answer.content, strict=True)
    assert whole["status"] == "partial"
    assert [output["status"] for output in whole["outputs"]] == ["completed", "error", "completed", "error"]
    assert_close(content_of(answer, 2), content_of(post(plain, {"inputs": [inputs[2]]})))
    short, monthly = whole["outputs"][1], whole["outputs"][3]
    assert (short["content"], short["error"]["param"]) == ([], "inputs.1.series")
    assert "saw 1 observations" in short["error"]["message"]
    assert "allowed: 2 or more" in short["error"]["message"]
    assert "P1Y" in monthly["error"]["message"]
    assert whole["usage"]["prompt_tokens"] == 5 + 3


def test_if_no_series_can_be_answered_the_request_is_refused(post: Post, plain: Path) -> None:
    inputs = [yearly(series=[1.0]), yearly(name="b", frequency="M")]
    error = refusal(post(plain, {"inputs": inputs}))
    assert error["param"] == "inputs.0.series"
    assert "none of the inputs can be answered; the first of 2: series 'gdp' is too short" in error["message"]


def test_known_covariates_need_not_go_beyond_the_steps_asked_for(post: Post, rich: Path) -> None:
    def ask(price: list[float], horizon: int) -> httpx.Response:
        item = half_hourly(known_covariates={"price": price})
        return post(rich, {"inputs": [item], "options": {"horizon": horizon}})

    assert len(content_of(ask([1.0, 1.0, 1.0, 2.0], 1))["mean_forecast"]) == 1
    error = refusal(ask([1.0, 1.0, 1.0, 2.0], 2))
    assert error["param"] == "inputs.0.known_covariates.price"
    assert "'price'" in error["message"]
    assert "saw 4 values; allowed: 5 to 6" in error["message"]
    assert refusal(ask([1.0] * 7, 2))["param"] == "inputs.0.known_covariates.price"


def test_the_times_of_the_steps_are_written_if_asked_for(post: Post, plain: Path) -> None:
    body = {"inputs": [yearly(start_timestamp="2020-02-29")], "options": {"timestamps": True}}
    content = content_of(post(plain, body))
    # A series of last days of February stays on the last day.
    assert content["timestamps"] == ["2025-02-28T00:00:00", "2026-02-28T00:00:00", "2027-02-28T00:00:00"]
    assert content["start_timestamp"] == content["timestamps"][0]
    body["inputs"] = [yearly(start_timestamp=None)]
    assert refusal(post(plain, body))["param"] == "inputs.0.start_timestamp"


def test_the_clock_of_a_time_zone_is_what_the_model_reads(post: Post, rich: Path) -> None:
    zoned = half_hourly(start_timestamp="2024-03-31T01:00:00", timezone="Europe/Berlin")
    body = {"inputs": [zoned], "options": {"timestamps": True}}
    content = content_of(post(rich, body))
    assert content["timestamps"] == [
        "2024-03-31T03:30:00+02:00",
        "2024-03-31T04:00:00+02:00",
        "2024-03-31T04:30:00+02:00",
    ]
    fixed = half_hourly(start_timestamp="2024-03-31T01:00:00+01:00")
    assert content["mean_forecast"] != content_of(post(rich, {"inputs": [fixed]}))["mean_forecast"]
    wrong = half_hourly(start_timestamp="2024-03-31T02:15:00", timezone="Europe/Berlin")
    assert "skips that time" in refusal(post(rich, {"inputs": [wrong]}))["message"]


def test_null_is_a_missing_value_and_changes_the_forecast(post: Post, plain: Path) -> None:
    missing = content_of(post(plain, {"inputs": [yearly(series=[1.0, None, 4.0, 3.0, 5.0])]}))
    whole = content_of(post(plain, {"inputs": [yearly()]}))
    assert missing["mean_forecast"] != whole["mean_forecast"]


def test_the_forecast_starts_one_step_of_the_calendar_after_the_series(post: Post, rich: Path) -> None:
    assert (
        content_of(post(rich, {"inputs": [half_hourly()]}))["start_timestamp"] == "2024-02-29T00:00:00+01:00"
    )
    utc = half_hourly(start_timestamp="2024-02-28T22:30:00Z")
    assert content_of(post(rich, {"inputs": [utc]}))["start_timestamp"] == "2024-02-29T00:00:00Z"


def test_without_a_start_there_is_no_start_in_the_answer(post: Post, plain: Path) -> None:
    assert content_of(post(plain, {"inputs": [yearly(start_timestamp=None)]}))["start_timestamp"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"start_timestamp": "2024-03-02T22:30:00"},
        {"past_covariates": {"rain": [0.0, 1.0, 9.0]}},
        {"known_covariates": {"price": [1.0, 1.0, 1.0, 2.0, 2.0, 7.0]}},
    ],
)
def test_calendar_and_covariates_change_the_forecast(post: Post, rich: Path, changes: dict[str, Any]) -> None:
    before = content_of(post(rich, {"inputs": [half_hourly()]}))
    after = content_of(post(rich, {"inputs": [half_hourly(**changes)]}))
    assert before["mean_forecast"] != after["mean_forecast"]


@pytest.mark.parametrize("spelling", ["Y", "year", "P1Y", "YS", "annual", "12M"])
def test_any_spelling_of_the_frequency_is_understood(post: Post, plain: Path, spelling: str) -> None:
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
    post: Post, plain: Path, changes: dict[str, Any], param: str, said: str
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
    post: Post, rich: Path, changes: dict[str, Any], param: str, said: str
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
def test_options_beyond_the_model_are_refused(
    post: Post, plain: Path, options: Any, param: str, said: str
) -> None:
    error = refusal(post(plain, {"inputs": [yearly()], "options": options}))
    assert error["param"] == param
    assert said in error["message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "true", '"1"', "{}", "1" * 400])
def test_what_is_no_finite_number_is_refused(post: Post, plain: Path, number: str) -> None:
    body = json.dumps({"inputs": [yearly(series=[1.0, 77.0, 2.0])]}).replace("77.0", number)
    assert refusal(post(plain, body))["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", ["", "{", "[]", "null", "{}", '{"inputs": []}', '{"inputs": [{}]}'])
def test_broken_bodies_are_refused(post: Post, plain: Path, body: str) -> None:
    assert refusal(post(plain, body))["message"]


def test_too_many_series_are_refused(post: Post, plain: Path) -> None:
    wide = yearly(type="multivariate_time_series", series=[[1.0, 2.0], [2.0, 3.0]])
    error = refusal(post(plain, {"inputs": [wide, yearly()]}, max_inputs=2))
    assert error["param"] == "inputs"
    assert "saw 3; allowed: 2" in error["message"]


def test_another_models_name_is_not_found(post: Post, plain: Path) -> None:
    error = refusal(post(plain, {"model": "timesfm", "inputs": [yearly()]}), 404)
    assert "allowed: forecasting" in error["message"]


@pytest.mark.parametrize("which", ["plain", "rich"])
def test_the_examples_work_on_their_model(which: str, post: Post, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(which)
    examples = workload.examples(folder)
    assert examples[0].path == PATH
    assert len(examples) == (7 if which == "plain" else 3), "a calendar is not for Nixtla's protocol"
    for example in examples:
        response = post(folder, example.body, path=example.path)
        assert response.status_code == 200, response.text
