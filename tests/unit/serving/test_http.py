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
from mizzen.errors import IntegrityError, NotFoundError, OverloadedError, RequestError, ServingError
from mizzen.recording import ServedMetrics
from mizzen.serving.auth import Access
from mizzen.serving.http import Facts, Limits, forget_closed, http_app
from mizzen.serving.key_folder import KeyFolder
from mizzen.serving.limiter import ActorChannel, SharedLimits
from mizzen.serving.spec import Cors
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


def test_the_scripts_of_the_page_may_be_kept_and_nothing_else(app):
    script = ask(app, "GET", "/static-offline-docs/swagger-ui.css")
    assert script.status_code == 200
    assert "cache-control" not in script.headers
    assert ask(app, "GET", "/healthz").headers["cache-control"] == "no-store"


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

    def finished(self, **answered: Any) -> None:
        self.codes.append(answered["code"])
        super().finished(**answered)


@pytest.fixture
def counted(app) -> Counting:
    return Counting()


@pytest.fixture
def closed(counted, tmp_path) -> ASGIApp:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "team").write_text("k" * 20)
    access = Access("shop", KeyFolder(tmp_path / "keys"), SharedLimits(ActorChannel()))
    facts = Facts("Sells.", "failing")
    return http_app(ModelIdentity("shop", 7, "e" * 64), Failing(), counted, LIMITS, facts, access)


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


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_every_operation_documents_every_status_that_the_platform_answers(app, closed):
    shown = operations(ask(app, "GET", "/openapi.json").json())
    assert set(shown["post /v1/sum"]["responses"]) == {
        *("200", "400", "404", "408", "413", "415", "429", "500", "503", "504"),
    }
    assert {"401", "403"} & set(shown["get /v1/fail/{kind}"]["responses"]) == set()
    assert set(shown["get /healthz"]["responses"]) == {"200", "400", "500", "504"}
    with_keys = operations(ask(closed, "GET", "/openapi.json", headers=KEY).json())
    assert {"401", "403", "429"} <= set(with_keys["get /v1/fail/{kind}"]["responses"])
    assert {"401", "403"} & set(with_keys["get /readyz"]["responses"]) == set()


def test_the_error_body_is_declared_once_and_fastapis_own_is_gone(app):
    document = ask(app, "GET", "/openapi.json").json()
    refused = document["paths"]["/v1/sum"]["post"]["responses"]["429"]
    schema = refused["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Error"}
    assert refused["headers"]["Retry-After"]["schema"]["type"] == "integer"
    assert "HTTPValidationError" not in str(document)
    assert "422" not in str(document)


def test_a_body_that_says_it_is_no_json_is_415(app):
    for headers in ({"content-type": "text/plain"}, {}):
        refused = ask(app, "POST", "/v1/sum", content=b'{"values": [1]}', headers=headers)
        assert refused.status_code == 415
        assert "content-type: application/json" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b'{"values": [1]', b"\xff", b"[" * 100_000, b'{"values": [NaN]}', b'{"\\ud800": 1}', b"", b"null"],
)
def test_a_body_that_is_broken_is_400(app, body):
    refused = ask(app, "POST", "/v1/sum", content=body[:1000], headers={"content-type": "application/json"})
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"


def test_a_path_that_is_not_there_says_where_to_look_and_a_slash_more_is_another_path(app):
    for path in ("/v1/summe", "/v1/sum/"):
        lost = ask(app, "POST", path, json={"values": [1]})
        assert lost.status_code == 404
        assert "/docs" in lost.json()["error"]["message"]
    assert ask(app, "DELETE", "/v1/sum").status_code == 405


def test_a_handler_that_is_too_late_is_answered_with_504(counted):
    class Slow(Endpoint):
        def __init__(self) -> None:
            self.router = APIRouter()
            self.router.add_api_route("/v1/wait", self.wait, methods=["GET"])

        async def wait(self) -> None:
            await asyncio.Event().wait()

    limits = Limits(**{**LIMITS.model_dump(), "timeout_s": 0.02})
    slow = http_app(ModelIdentity("shop", 7, "e" * 64), Slow(), counted, limits, Facts("Sells.", "slow"))
    answer = ask(slow, "GET", "/v1/wait")
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (504, "server_error", "deadline_exceeded")
    assert "allowed: 0.02 s" in error["message"]
    assert counted.codes == [504]


def test_a_workload_cannot_take_the_place_of_a_probe(counted):
    class Greedy(Endpoint):
        def __init__(self) -> None:
            self.router = APIRouter()
            self.router.add_api_route("/{anything}", self.anything, methods=["GET"])

        async def anything(self, anything: str) -> str:
            return anything

    with pytest.raises(ServingError, match="takes the place of"):
        http_app(ModelIdentity("shop", 7, "e" * 64), Greedy(), counted, LIMITS, Facts("Sells.", "greedy"))


SHOP = "https://shop.example"


@pytest.fixture
def shared(counted) -> ASGIApp:
    identity, cors = ModelIdentity("shop", 7, "e" * 64), Cors(origins=(SHOP,))
    return http_app(identity, Failing(), counted, LIMITS, Facts("Sells.", "failing"), cors=cors)


def test_pages_of_other_sites_may_not_ask_unless_the_serve_file_says_so(app, shared):
    assert "access-control-allow-origin" not in ask(app, "GET", "/readyz", headers={"origin": SHOP}).headers
    assert (
        ask(shared, "GET", "/readyz", headers={"origin": SHOP}).headers["access-control-allow-origin"] == SHOP
    )
    other = ask(shared, "GET", "/readyz", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_a_browser_may_ask_first_and_reads_errors_too(shared):
    asked = {"origin": SHOP, "access-control-request-method": "POST"}
    preflight = ask(
        shared, "OPTIONS", "/v1/sum", headers={**asked, "access-control-request-headers": "x-api-key"}
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-headers"] == "x-api-key"
    assert "access-control-allow-credentials" not in preflight.headers
    for path in ("/v1/fail/unexpected", "/v1/fail/overloaded"):
        refused = ask(shared, "GET", path, headers={"origin": SHOP})
        assert refused.headers["access-control-allow-origin"] == SHOP
        exposed = refused.headers["access-control-expose-headers"]
        assert {"retry-after", "x-ratelimit-remaining-tokens"} <= set(exposed.split(", "))


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
