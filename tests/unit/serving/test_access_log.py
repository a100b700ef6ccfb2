"""One line for each request, with what is ours, and nothing of what a client sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp

from mizzen.logs import LogFile
from mizzen.recording import ServedMetrics
from mizzen.serving.access_log import AccessLog
from mizzen.serving.auth import Access
from mizzen.serving.http import Facts, Limits, http_app
from mizzen.serving.key_folder import KeyFolder
from mizzen.serving.limiter import ActorChannel, SharedLimits
from mizzen.workloads.contract import Endpoint, ModelIdentity

LIMITS = Limits(max_ongoing_requests=4, max_queued_requests=0, max_request_bytes=1024)
IDENTITY = ModelIdentity("films", 3, "e" * 64)
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
KEY = "a-key-that-nobody-guesses-0123456789"


class Users(Endpoint):
    """Routes that answer, stream, and fail."""

    def __init__(self) -> None:
        self.router = APIRouter()
        self.router.add_api_route("/v1/users/{user_id}", self.user, methods=["GET"])
        self.router.add_api_route("/v1/users/{user_id}", self.rename, methods=["POST"])
        self.router.add_api_route("/v1/stream", self.stream, methods=["GET"])

    async def rename(self, user_id: str, request: Request) -> int:
        return len(await request.body())

    async def user(self, user_id: str) -> str:
        if user_id == "nobody":
            raise KeyError(user_id)
        return user_id

    async def stream(self) -> StreamingResponse:
        return StreamingResponse(iter([b"abc", b"defg"]))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[LogFile]:
    made = LogFile(tmp_path / "logs" / "replica-films-1.jsonl")
    yield made
    made.close()


def application(file: LogFile | None, access: Access | None = None) -> ASGIApp:
    metrics = ServedMetrics("films", "films", 3)
    log = AccessLog(file, metrics.recorder.fixed) if file is not None else None
    return http_app(IDENTITY, Users(), metrics, LIMITS, Facts("Lists.", "users"), access, log=log)


def ask(app: ASGIApp, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(options.pop("method", "GET"), path, **options)

    return asyncio.run(send())


def lines(file: LogFile) -> list[dict[str, Any]]:
    file.flush()
    return [json.loads(line) for line in file.path.read_text().splitlines()] if file.path.exists() else []


def test_a_line_says_who_answered_what_and_how(file: LogFile) -> None:
    headers = {"x-request-id": "abc-1", "traceparent": CALLER}
    answer = ask(application(file), "/v1/users/alice", headers=headers)
    (line,) = lines(file)
    assert line.pop("time").endswith("Z")
    assert 0 < line.pop("duration_ms") < 10_000
    assert line == {
        "level": "info",
        "logger": "mizzen.access",
        "message": "GET /v1/users/{user_id} 200",
        "app": "films",
        "model": "films",
        "version": "3",
        "request_id": "abc-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "method": "GET",
        "route": "/v1/users/{user_id}",
        "status": 200,
        "bytes": len(answer.content),
    }


def test_errors_streams_and_unknown_paths_have_a_line_each(file: LogFile) -> None:
    app = application(file)
    for path in ("/v1/users/nobody", "/v1/stream", "/no/such/path", "/v1/users/alice"):
        ask(app, path)
    ask(app, "/v1/stream", method="BREW")
    told = [(line["method"], line["route"], line["status"]) for line in lines(file)]
    assert told == [
        ("GET", "/v1/users/{user_id}", 500),
        ("GET", "/v1/stream", 200),
        ("GET", "unknown", 404),
        ("GET", "/v1/users/{user_id}", 200),
        ("other", "/v1/stream", 405),
    ]
    assert lines(file)[1]["bytes"] == 7


def test_nothing_of_what_a_client_sends_is_in_it(file: LogFile) -> None:
    app = application(file)
    odd = {"x-request-id": '"},{"', "user-agent": "agent-x", "traceparent": '"}', "cookie": "c=cookie-x"}
    ask(app, "/v1/users/alice-x?q=query-x", method="POST", content=b'"body-x"', headers=odd)
    ask(app, "/missing-x")
    file.flush()
    text = file.path.read_text()
    assert len(lines(file)) == 2
    assert not any(
        word in text for word in ("alice-x", "query-x", "body-x", "agent-x", "cookie-x", "missing-x")
    )


def test_the_name_of_the_key_is_in_it_but_never_the_key(file: LogFile, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "shop").write_text(KEY)
    app = application(file, Access("films", KeyFolder(keys), SharedLimits(ActorChannel())))
    ask(app, "/v1/users/alice", headers={"x-api-key": KEY})
    ask(app, "/v1/users/alice", headers={"x-api-key": "wrong-" + KEY})
    first, second = lines(file)
    assert (first["status"], first["key"]) == (200, "shop")
    assert second["status"] == 401
    assert "key" not in second
    assert KEY not in file.path.read_text()


def test_probes_and_scrapes_have_no_line(file: LogFile) -> None:
    app = application(file)
    for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"):
        assert ask(app, path).status_code == 200
    assert lines(file) == []


def test_it_can_be_switched_off(file: LogFile) -> None:
    assert ask(application(None), "/v1/users/alice").status_code == 200
    assert lines(file) == []


def test_what_goes_wrong_in_a_request_is_logged_with_its_id(
    file: LogFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mizzen import logs, settings

    monkeypatch.setenv("MIZZEN_HOME", str(tmp_path))
    settings.current.cache_clear()
    own = logs.start("replica-films", app="films")
    try:
        ask(application(own), "/v1/users/nobody", headers={"x-request-id": "abc-1"})
        error, access = lines(own)
    finally:
        logs.stop()
        settings.current.cache_clear()
    assert error["level"] == "error"
    assert "KeyError: 'nobody'" in error["exception"]
    assert error["request_id"] == access["request_id"] == "abc-1"
    assert error["version"] == "3"
