"""The HTTP application around an endpoint, called as ASGI, without Ray."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, HTTPException
from starlette.types import ASGIApp

from mizzen import settings
from mizzen.errors import IntegrityError, NotFoundError, OverloadedError, RequestError
from mizzen.metrics import ServedMetrics
from mizzen.serving.auth import ApiKeys
from mizzen.serving.http import Facts, Limits, forget_closed, http_app
from mizzen.workloads.contract import Endpoint, Example, Fields, ModelIdentity

LIMITS = Limits(max_ongoing_requests=4, max_queued_requests=0, max_request_bytes=1024)
FAILURES: dict[str, Exception] = {
    "request": RequestError("no such user", saw="7", field="user_id"),
    "not-found": NotFoundError("no such item", field="item"),
    "overloaded": OverloadedError("full"),
    "damaged": IntegrityError("the model is damaged", saw="/secret/path"),
    "teapot": HTTPException(418, "short and stout"),
    "unexpected": KeyError("secret"),
}


class Numbers(Fields):
    values: list[int]


class Failing(Endpoint):
    def __init__(self, broken: str | None = None) -> None:
        self.broken = broken
        self.router = APIRouter()
        self.router.add_api_route("/v1/fail/{kind}", self.fail, methods=["GET"])
        self.router.add_api_route("/v1/sum", self.sum, methods=["POST"])

    async def fail(self, kind: str) -> None:
        raise FAILURES[kind]

    async def sum(self, numbers: Numbers) -> dict[str, int]:
        return {"total": sum(numbers.values)}

    def problem(self) -> str | None:
        return self.broken


@pytest.fixture
def app(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ASGIApp]:
    # Series are kept for the whole process, in the folder of the first who emits one.
    monkeypatch.setenv("MIZZEN_HOME", str(tmp_path))
    settings.current.cache_clear()
    identity = ModelIdentity("shop", 7, "e" * 64)
    yield http_app(identity, Failing(), ServedMetrics("shop", "shop", 7), LIMITS, Facts("Sells.", "failing"))
    settings.current.cache_clear()


def test_an_endpoint_that_cannot_answer_any_more_is_not_ready_but_alive(app: ASGIApp) -> None:
    identity, facts = ModelIdentity("shop", 7, "e" * 64), Facts("Sells.", "failing")
    broken = http_app(identity, Failing("the model failed"), ServedMetrics("shop", "shop", 7), LIMITS, facts)
    assert ask(app, "GET", "/readyz").status_code == 200
    answer = ask(broken, "GET", "/readyz")
    assert answer.status_code == 503
    assert "the model failed" in answer.json()["error"]["message"]
    assert ask(broken, "GET", "/healthz").status_code == 200


def ask(app: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path="/shop")
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, f"/shop{path}", **options)

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("kind", "status", "type_", "param", "code"),
    [
        ("request", 400, "invalid_request_error", "user_id", "invalid_request"),
        ("not-found", 404, "invalid_request_error", "item", "not_found"),
        ("overloaded", 429, "rate_limit_error", None, "overloaded"),
        ("damaged", 503, "server_error", None, "unavailable"),
        ("teapot", 418, "invalid_request_error", None, "error"),
        ("unexpected", 500, "server_error", None, "internal_error"),
    ],
)
def test_every_exception_has_its_status_and_one_shape(app, kind, status, type_, param, code):
    response = ask(app, "GET", f"/v1/fail/{kind}")
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"], error["code"]) == (
        status,
        type_,
        param,
        code,
    )
    assert response.headers["mizzen-version"] == "7"
    assert "secret" not in response.text


def test_an_overloaded_model_says_when_to_come_back(app):
    assert ask(app, "GET", "/v1/fail/overloaded").headers["retry-after"] == "1"


def test_what_is_wrong_with_a_body_is_said_with_the_fields_name(app):
    response = ask(app, "POST", "/v1/sum", json={"values": [1, "two"], "extra": 1})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "values.1")
    assert "and 1 more" in error["message"]


def test_documentation_lies_below_the_route_prefix(app):
    assert "/shop/openapi.json" in ask(app, "GET", "/docs").text
    schema = ask(app, "GET", "/openapi.json").json()
    assert schema["servers"] == [{"url": "/shop"}]
    assert {"/v1/sum", "/healthz", "/readyz", "/metrics"} <= set(schema["paths"])
    assert schema["info"]["title"] == "shop, version 7"


def test_requests_that_work_are_listed(app, tmp_path):
    assert ask(app, "GET", "/examples").json() == []
    facts = Facts("Sells.", "failing", examples=lambda: (Example("/v1/sum", {"values": [1, 2]}),))
    recorder = ServedMetrics("shop", "shop", 7)
    shown = http_app(ModelIdentity("shop", 7, "e" * 64), Failing(), recorder, LIMITS, facts)
    (example,) = ask(shown, "GET", "/examples").json()
    assert ask(shown, "POST", example["path"], json=example["body"]).json() == {"total": 3}


class Counting(ServedMetrics):
    """Keeps the status codes that it counts."""

    def __init__(self) -> None:
        super().__init__("closed", "shop", 7)
        self.codes: list[int] = []

    def finished(self, *, route: str, method: str, code: int, duration_s: float) -> None:
        self.codes.append(code)
        super().finished(route=route, method=method, code=code, duration_s=duration_s)


@pytest.fixture
def counted(app) -> Counting:
    return Counting()


@pytest.fixture
def closed(counted, tmp_path) -> ASGIApp:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "team").write_text("k" * 20)
    keys, facts = ApiKeys(tmp_path / "keys"), Facts("Sells.", "failing")
    return http_app(ModelIdentity("shop", 7, "e" * 64), Failing(), counted, LIMITS, facts, keys)


KEY = {"authorization": "Bearer " + "k" * 20}


def test_without_a_key_the_answer_is_401_in_the_one_shape_and_is_counted(closed, counted):
    response = ask(closed, "POST", "/v1/sum", content=b"x" * 2000)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["mizzen-version"] == "7"
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("authentication_error", None, "invalid_api_key")
    assert counted.codes == [401]
    assert ask(closed, "POST", "/v1/sum", json={"values": [3]}, headers=KEY).json() == {"total": 3}
    assert ask(closed, "GET", "/readyz").is_success


def test_the_openapi_document_says_that_a_key_is_needed_and_where_not(app, closed):
    document = ask(closed, "GET", "/openapi.json", headers=KEY).json()
    assert document["security"] == [{"bearer": []}, {"apiKey": []}]
    assert document["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    free = {
        p
        for p, methods in document["paths"].items()
        if all(m.get("security") == [] for m in methods.values())
    }
    assert free == {"/healthz", "/readyz"}
    assert "security" not in ask(app, "GET", "/openapi.json").json()


def test_metrics_are_shown_in_prometheus_format(app):
    assert ask(app, "POST", "/v1/sum", json={"values": [1, 2]}).json() == {"total": 3}
    response = ask(app, "GET", "/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_a_closed_version_is_freed(tmp_path):
    endpoint = Failing()
    identity = ModelIdentity("shop", 8, "e" * 64)
    app = http_app(identity, endpoint, ServedMetrics("shop", "shop", 8), LIMITS, Facts("Sells.", "failing"))
    assert ask(app, "POST", "/v1/sum", json={"values": [1]}).is_success
    remembered = weakref.ref(endpoint)
    del app, endpoint
    forget_closed()
    gc.collect()
    assert remembered() is None
