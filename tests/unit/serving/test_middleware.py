"""What every request passes, without a server: the applications are called as ASGI."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mizzen.serving.middleware import Answers, Front, relative_path, request_id
from mizzen.workloads.contract import ModelIdentity

IDENTITY = ModelIdentity("adder", 3, "d" * 64)


class Recorder:
    """Keeps what would become metrics."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.finishes: list[dict[str, Any]] = []

    def started(self) -> None:
        self.in_flight += 1

    def finished(self, **labels: Any) -> None:
        self.in_flight -= 1
        del labels["duration_s"], labels["trace_id"]
        self.finishes.append(labels)

    def rejected(self, reason: str) -> None:
        self.finishes[-1]["rejected"] = reason


def front(app: ASGIApp) -> tuple[Front, Recorder]:
    recorder = Recorder()
    return Front(app, IDENTITY, recorder), recorder  # type: ignore[arg-type] # the same methods


def get(app: ASGIApp, path: str = "/x", **options: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(options.pop("method", "GET"), path, **options)

    return asyncio.run(ask())


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("a secret")


async def breaking(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise ValueError("a secret")


def test_an_answer_names_the_model_and_the_request():
    app, recorder = front(fine)
    response = get(app, headers={"x-request-id": "abc"})
    assert response.headers["mizzen-model"] == "adder"
    assert response.headers["mizzen-version"] == "3"
    assert response.headers["mizzen-digest"] == "d" * 64
    assert response.headers["mizzen-request-id"] == "abc"
    assert recorder.finishes == [{"route": "unknown", "method": "GET", "code": 200}]
    assert recorder.in_flight == 0


def test_what_escapes_is_answered_with_500_and_no_detail(caplog):
    app, recorder = front(failing)
    response = get(app)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert response.headers["mizzen-model"] == "adder"
    assert recorder.finishes[0]["code"] == 500
    assert "a secret" in caplog.text


def test_an_answer_that_breaks_off_halfway_is_counted_as_a_failure():
    app, recorder = front(breaking)
    with pytest.raises(ValueError, match="secret"):
        asyncio.run(call(app, []))
    assert recorder.finishes[0]["code"] == 500
    assert recorder.in_flight == 0


def test_a_client_that_goes_away_is_counted_as_499():
    async def scenario() -> Recorder:
        async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.Event().wait()

        app, recorder = front(waiting)
        task = asyncio.create_task(call(app, []))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return recorder

    recorder = asyncio.run(scenario())
    assert recorder.finishes == [{"route": "unknown", "method": "GET", "code": 499}]


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ([(b"mizzen-request-id", b"a-1"), (b"x-request-id", b"b")], "a-1"),
        ([(b"x-request-id", b"b.2")], "b.2"),
        ([(b"x-request-id", b"b"), (b"mizzen-request-id", b"a-1")], "a-1"),
        ([(b"mizzen-request-id", b"no spaces, please")], None),
        ([(b"mizzen-request-id", b"x" * 200)], None),
        ([], None),
    ],
)
def test_a_usable_request_id_is_kept_and_any_other_replaced(headers, kept):
    found = request_id(headers)
    assert found == kept if kept else len(found) == 32


async def call(app: ASGIApp, bodies: list[bytes], path: str = "/x", headers: Any = ()) -> list[Message]:
    sent: list[Message] = []
    pieces = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    pieces.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return pieces.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": list(headers)}
    await app(scope, receive, send)
    return sent


def test_an_answer_tells_browsers_to_be_careful():
    app, _ = front(fine)
    headers = get(app).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_the_documentation_page_may_run_its_own_scripts_and_an_error_carries_the_headers_too():
    app, _ = front(fine)
    policy = get(app, "/docs").headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    broken, _ = front(failing)
    assert get(broken).headers["x-content-type-options"] == "nosniff"


def test_what_an_endpoint_says_of_caching_stays_and_the_pages_scripts_may_be_kept():
    async def kept(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"cache-control", b"max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    app, _ = front(kept)
    assert get(app).headers.get_list("cache-control") == ["max-age=60"]
    other, _ = front(fine)
    assert "cache-control" not in get(other, "/static-offline-docs/swagger-ui.css").headers


def test_an_error_within_cors_is_answered_where_cors_can_still_add_to_it():
    seen: list[int] = []

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.append(message["status"])
            await send(message)

        await Answers(failing)(scope, receive, noted)

    app, recorder = front(outer)
    assert get(app).status_code == 500
    assert seen == [500]
    assert recorder.finishes[0]["code"] == 500


@pytest.mark.parametrize(
    ("path", "root", "relative"),
    [("/a/readyz", "/a", "/readyz"), ("/readyz", "", "/readyz"), ("/b/readyz", "/a", "/b/readyz")],
)
def test_paths_are_seen_below_the_route_prefix(path, root, relative):
    assert relative_path({"path": path, "root_path": root}) == relative
