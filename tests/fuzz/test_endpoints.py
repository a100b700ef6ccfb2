"""The OpenAPI document of every application, fuzzed: what is right and what is wrong is answered as it says.

No 5xx, no status, type or body that is not documented, and no answer that does not come. `schemathesis` makes
requests from the document; others are requests that work, with one thing in them changed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

APPS: dict[str, dict[str, Any]] = {
    "chat": {"options": {"max_context": 200, "default_max_tokens": 8}},
    "support": {
        "model": "chat@production",
        "options": {
            "max_context": 256,
            "default_max_tokens": 8,
            # The tiny model's context has no room for passages: it is asked where none is found.
            "knowledge": {"model": "kb@production", "min_score": 0.95, "below_min_score": "answer"},
        },
    },
    "films": {},
    "sales": {},
    "kb": {},
    "digits": {},
}
"""What the serve file says of each; without a model it is the one of the same name."""
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
JUDGED_ONE_BY_ONE = {"/v1/feedback"}
"""What is wrong in a part of a request is said of this part, and the others are accepted."""
TIMEOUT_S = 60.0
"""Generous: the machine may be busy with other tests. A request that hangs has a deadline of 30 s."""
KEY = {"authorization": "Bearer " + "k" * 32}
Json = Any


def fuzzing(num_examples: int) -> settings:
    """The same examples in each run."""
    return settings(
        max_examples=num_examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Application:
    """An application, and its document as schemathesis reads it."""

    def __init__(self, app: Any, name: str, headers: dict[str, str]) -> None:
        self.name, self.headers = name, headers
        self.schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
        self.operations = [result.ok() for result in self.schema.get_all_operations()]

    def ask(self, case: Any, checks: list[Any]) -> int:
        """Send a request, check the answer, and say its status."""
        answer = case.call_and_validate(headers=self.headers, timeout=TIMEOUT_S, checks=checks)
        status: int = answer.status_code
        return status

    def fuzz(self, operation: Any, mode: GenerationMode, num_examples: int) -> None:
        """Requests that the document allows, or does not allow."""
        if mode is GenerationMode.NEGATIVE and not (len(operation.body) or len(operation.query)):
            return  # a path that is wrong is another path
        strict = mode is GenerationMode.NEGATIVE and operation.path not in JUDGED_ONE_BY_ONE
        checks = [*CHECKS, negative_data_rejection] if strict else CHECKS

        @fuzzing(num_examples)
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = self.name  # nobody guesses it, and nothing else would be looked at
            self.ask(case, checks)

        ask()

    def vary(self, path: str, body: Json, more: dict[str, Any], num_examples: int) -> None:
        """Requests like `body`."""

        @fuzzing(num_examples)
        @given(other=changed(body))
        def ask(other: Json) -> None:
            self.ask(self.case(path, other, **more), CHECKS)

        ask()

    def operation(self, path: str, method: str = "POST") -> Any:
        return self.schema[path][method]

    def case(self, path: str, body: Json, method: str = "POST", **more: Any) -> Any:
        """A request with `body`."""
        return self.operation(path, method).Case(body=body, media_type="application/json", **more)

    def examples(self) -> Iterator[tuple[str, Json, dict[str, Any]]]:
        """Requests that work: path, body, and what stands in the path."""
        for example in self.operation("/examples", "GET").Case().call(headers=self.headers).json():
            yield example["path"], example["body"], {}
        infer = "/v2/models/{name}/infer"
        if any(operation.path == infer for operation in self.operations):
            where = {"path_parameters": {"name": self.name}}
            shown = self.operation("/v2/models/{name}", "GET").Case(**where).call(headers=self.headers).json()
            yield infer, {"id": "1", "inputs": [_tensor(spec) for spec in shown["inputs"]]}, where


def _tensor(spec: dict[str, Any]) -> dict[str, Any]:
    shape = [2 if size == -1 else size for size in spec["shape"]]
    if spec["name"] == "known":
        shape[1] = 5  # the length of the past and of the horizon together
    return {
        "name": spec["name"],
        "datatype": spec["datatype"],
        "shape": shape,
        "data": [1] * math.prod(shape),
    }


def places(body: Json, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in `body`; of a long list only to its ends."""
    yield path
    if isinstance(body, dict):
        for key in body:
            yield from places(body[key], (*path, key))
    elif isinstance(body, list):
        for index in sorted({0, 1, len(body) - 1} & set(range(len(body)))):
            yield from places(body[index], (*path, index))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["", "\x00", "9" * 400, "NaN", "1e999", "2024-02-30", "\U0001f600", "a" * 5000, -0.0]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, body: Json) -> Json:
    """`body` with one to three things changed: another value, nothing, or the same many times."""
    result = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(result))))
        if not path:
            return draw(json_values) if draw(st.integers(0, 9)) == 0 else result
        holder = result
        for part in path[:-1]:
            holder = holder[part]
        change = draw(st.sampled_from(["value", "gone", "many", "more"]))
        if change == "gone":
            del holder[path[-1]]
        elif change == "many":
            holder[path[-1]] = [holder[path[-1]]] * draw(st.sampled_from([0, 2, 70, 300]))
        elif change == "more" and isinstance(holder, dict):
            holder[draw(st.text(max_size=8))] = draw(json_values)
        else:
            holder[path[-1]] = draw(json_values)
    return result


@pytest.fixture(scope="module", params=APPS)
def application(request: pytest.FixtureRequest, shop: Any) -> Application:
    """Without keys."""
    name: str = request.param
    return Application(shop.serve(name, with_keys=False, timeout_s=30, **APPS[name]), name, {})


def test_every_answer_is_as_the_document_says(application: Application, effort: Callable[[int], int]) -> None:
    assert len(application.operations) > 4
    for operation in application.operations:
        for mode in GenerationMode:
            application.fuzz(operation, mode, effort(12))


def test_requests_that_work_still_do_or_are_refused_when_a_thing_in_them_is_changed(
    application: Application, effort: Callable[[int], int]
) -> None:
    for path, body, more in application.examples():
        assert application.ask(application.case(path, body, **more), CHECKS) == 200

        application.vary(path, body, more, effort(25))


@pytest.mark.parametrize("name", APPS)
def test_with_keys_the_document_holds_too_and_without_one_nothing_is_told(
    name: str, shop: Any, effort: Callable[[int], int]
) -> None:
    app = shop.serve(name, with_keys=True, timeout_s=30, **APPS[name])
    application = Application(app, name, KEY)
    for operation in application.operations:
        application.fuzz(operation, GenerationMode.POSITIVE, effort(3))
        free = operation.definition.raw.get("security") == []
        for headers in ({}, {"authorization": "Bearer " + "x" * 32}, {"x-api-key": "é" * 40}):
            stranger = operation.Case(headers=headers, path_parameters=_anything(operation))
            answer = stranger.call(timeout=TIMEOUT_S)
            assert (answer.status_code == 401) is not free, (operation.label, answer.status_code)


def _anything(operation: Any) -> dict[str, str]:
    return {parameter.name: "x" for parameter in operation.path_parameters}
