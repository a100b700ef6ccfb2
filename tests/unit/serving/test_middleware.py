"""What every request passes, without a server: the applications are called as ASGI."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mizzen.errors import OverloadedError
from mizzen.serving.middleware import Admission, BodyLimit, Front, relative_path, request_id
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
        del labels["duration_s"]
        self.finishes.append(labels)


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
        ([(b"X-Request-Id", b"b.2")], "b.2"),
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


def test_a_body_at_the_limit_passes_and_one_byte_more_is_413():
    app, _ = front(BodyLimit(fine, 10))
    assert get(app, method="POST", content=b"0123456789").text == "10"
    refused = get(app, method="POST", content=b"0123456789x")
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")


def test_a_body_without_a_declared_length_is_limited_too():
    app, _ = front(BodyLimit(fine, 10))
    sent = asyncio.run(call(app, [b"012345", b"678901"]))
    assert [message["status"] for message in sent if "status" in message] == [413]


def test_requests_beyond_the_queue_are_refused_and_probes_never_are():
    async def scenario() -> None:
        gate = asyncio.Event()
        inside = 0

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal inside
            inside += 1
            if scope["path"] != "/readyz":
                await gate.wait()

        app = Admission(slow, max_ongoing=2, max_queued=1)
        tasks = [asyncio.create_task(call(app, [])) for _ in range(3)]
        for _ in range(3):
            await asyncio.sleep(0)
        assert inside == 2
        with pytest.raises(OverloadedError, match="allowed: 3"):
            await call(app, [])
        await call(app, [], path="/readyz")
        gate.set()
        await asyncio.gather(*tasks)
        await call(app, [])
        assert inside == 5
        assert app.present == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "root", "relative"),
    [("/a/readyz", "/a", "/readyz"), ("/readyz", "", "/readyz"), ("/b/readyz", "/a", "/b/readyz")],
)
def test_paths_are_seen_below_the_route_prefix(path, root, relative):
    assert relative_path({"path": path, "root_path": root}) == relative
