"""Every request is counted once, whatever becomes of it; called as ASGI, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from mizzen import metrics
from mizzen.errors import IntegrityError, NotFoundError, OverloadedError
from mizzen.serving.auth import Access
from mizzen.serving.http import Facts, Limits, http_app
from mizzen.serving.key_folder import KeyFolder
from mizzen.serving.limiter import ActorChannel, SharedLimits
from mizzen.serving.service_levels import ServiceLevels
from mizzen.serving.spec import Cors, Slo
from mizzen.workloads.contract import Endpoint, Fields, ModelIdentity

LIMITS = Limits(max_ongoing_requests=1, max_queued_requests=0, max_request_bytes=1024)
KEY = {"authorization": "Bearer " + "k" * 20}
SHOP = "https://shop.example"
FAILURES: dict[str, Exception] = {
    "not-found": NotFoundError("no such item", field="item"),
    "overloaded": OverloadedError("full"),
    "damaged": IntegrityError("the model is damaged"),
    "unexpected": KeyError("secret"),
}


class Numbers(Fields):
    values: list[int]


class Told:
    """What `ServedMetrics` is told of each request."""

    def __init__(self, recorder: Any) -> None:
        self.recorder = recorder.of(app="shop", model="shop", version="7")
        self.codes: list[tuple[str, str, int]] = []
        self.in_flight = 0

    def started(self) -> None:
        self.in_flight += 1

    def finished(self, *, route: str, method: str, code: int, **_: Any) -> None:
        self.in_flight -= 1
        self.codes.append((route, method, code))

    def rejected(self, reason: str) -> None:
        self.recorder.count(metrics.REJECTED, reason=reason)

    def reasons(self) -> list[str]:
        return [line.labels["reason"] for line in self.recorder.lines if line.series == metrics.REJECTED.name]

    def judged(self) -> list[str]:
        """How the requests counted for service levels."""
        return [
            f"{line.labels['slo']} {line.labels['outcome']}"
            for line in self.recorder.lines
            if line.series == metrics.SLO_REQUESTS.name and line.value
        ]


class Bed(Endpoint):
    """Everything that can become of a request to a model."""

    def __init__(self) -> None:
        self.router = APIRouter()
        add = self.router.add_api_route
        add("/v1/sum", self.sum, methods=["POST"])
        add("/v1/fail/{kind}", self.fail, methods=["GET"])
        add("/v1/wait", self.wait, methods=["GET"])
        add("/v1/stream", self.stream, methods=["GET"])
        self.gate = asyncio.Event()

    async def sum(self, numbers: Numbers) -> dict[str, int]:
        return {"total": sum(numbers.values)}

    async def fail(self, kind: str) -> None:
        raise FAILURES[kind]

    async def wait(self) -> None:
        await self.gate.wait()

    async def stream(self, fails: bool = False) -> StreamingResponse:
        async def produce() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            if fails:
                raise ValueError("a secret")
            await self.gate.wait()

        return StreamingResponse(produce(), media_type="text/event-stream")


class Bench:
    """An application with keys, limits and service levels, and what is recorded of it."""

    def __init__(self, tmp_path: Path, recorder: Any, latency_s: float = 60.0) -> None:
        (tmp_path / "keys").mkdir()
        (tmp_path / "keys" / "team").write_text("k" * 20)
        self.told, self.endpoint = Told(recorder), Bed()
        levels = ServiceLevels("shop", Slo(latency_s=latency_s), recorder.of)
        access = Access("shop", KeyFolder(tmp_path / "keys"), SharedLimits(ActorChannel()))
        told: Any = self.told
        self.app = http_app(
            ModelIdentity("shop", 7, "e" * 64),
            self.endpoint,
            told,
            LIMITS,
            Facts("Sells.", "bed"),
            access,
            cors=Cors(origins=(SHOP,)),
            levels=levels,
        )

    def ask(self, method: str, path: str, **options: Any) -> int:
        options["headers"] = {**KEY, **options.get("headers", {})}

        async def send() -> int:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, root_path="/shop")
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return (await client.request(method, f"/shop{path}", **options)).status_code

        return asyncio.run(send())


@pytest.fixture
def bench(tmp_path, recorder) -> Bench:
    return Bench(tmp_path, recorder)


GOOD = ["availability good", "latency good"]
BAD = ["availability bad"]
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "options", "counted", "reasons", "judged"),
    [
        ("POST", "/v1/sum", {"json": {"values": [1]}}, ("/v1/sum", 200), [], GOOD),
        ("POST", "/v1/sum", {"json": {}}, ("/v1/sum", 400), ["invalid"], GOOD[:1]),
        ("POST", "/v1/sum", {"content": b"\xff", "headers": JSON}, ("unknown", 400), ["invalid"], GOOD[:1]),
        ("POST", "/v1/sum", {"content": b"x" * 2000}, ("unknown", 413), ["too_large"], GOOD[:1]),
        ("POST", "/v1/sum", {"content": b"x"}, ("/v1/sum", 415), ["invalid"], GOOD[:1]),
        (
            *("POST", "/v1/sum", {"headers": {"authorization": "Bearer x"}}),
            *(("unknown", 401), ["unauthenticated"], GOOD[:1]),
        ),
        ("GET", "/v1/fail/overloaded", {}, ("/v1/fail/{kind}", 429), ["queue_full"], BAD),
        ("GET", "/v1/fail/damaged", {}, ("/v1/fail/{kind}", 503), ["unavailable"], BAD),
        ("GET", "/v1/fail/unexpected", {}, ("/v1/fail/{kind}", 500), [], BAD),
        ("GET", "/v1/fail/not-found", {}, ("/v1/fail/{kind}", 404), [], GOOD[:1]),
        ("GET", "/v1/wait", {"headers": {"mizzen-timeout-s": "0.05"}}, ("/v1/wait", 504), [], BAD),
        ("GET", "/v1/stream?fails=1", {}, ("/v1/stream", 500), [], BAD),
        ("HEAD", "/v1/sum", {}, ("/v1/sum", 405), [], GOOD[:1]),
        ("GET", "/nowhere", {}, ("unknown", 404), [], []),
        ("GET", "/readyz", {}, ("/readyz", 200), [], []),
        ("GET", "/metrics", {}, ("/metrics", 200), [], []),
        ("GET", "/docs", {}, ("/docs", 200), [], []),
        ("GET", "/examples", {}, ("/examples", 200), [], []),
        (
            *("OPTIONS", "/v1/sum", {"headers": {"origin": SHOP, "access-control-request-method": "POST"}}),
            *(("unknown", 200), [], []),
        ),
    ],
)
def test_every_request_is_counted_once_with_why_it_was_refused_and_what_it_means(
    bench, method, path, options, counted, reasons, judged
):
    bench.ask(method, path, **options)
    route, code = counted
    assert bench.told.codes == [(route, method, code)]
    assert (bench.told.reasons(), bench.told.judged()) == (reasons, judged)
    assert bench.told.in_flight == 0


def test_a_request_beyond_the_queue_and_one_whose_client_goes_away_are_counted_once(bench, call):
    async def scenario() -> int | None:
        headers = [(name.encode(), value.encode()) for name, value in KEY.items()]

        def waiting() -> Any:
            asked = call(path="/v1/wait", headers=headers, method="GET", scope={"query_string": b""})
            return asked.to(bench.app)

        first = asyncio.create_task(waiting())
        for _ in range(10):
            await asyncio.sleep(0)
        second = await waiting()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        status: int | None = second.status
        return status

    assert asyncio.run(scenario()) == 429
    assert bench.told.codes == [("unknown", "GET", 429), ("/v1/wait", "GET", 499)]
    assert (bench.told.reasons(), bench.told.judged()) == (["queue_full"], BAD)
    assert bench.told.in_flight == 0


async def nobody_reads(message: Any) -> None:
    """What a server does whose client is gone while a stream is sent."""
    if message.get("body"):
        raise OSError("the connection is closed")


@pytest.mark.parametrize(
    ("method", "path", "route"), [("POST", "/v1/sum", "unknown"), ("GET", "/v1/stream", "/v1/stream")]
)
def test_a_client_that_goes_while_it_sends_or_is_sent_to_is_no_failure_of_ours(bench, method, path, route):
    messages = [{"type": "http.request", "body": b'{"val', "more_body": method == "POST"}]

    async def receive() -> Any:
        return messages.pop() if messages else {"type": "http.disconnect"}

    headers = [(b"authorization", KEY["authorization"].encode()), (b"content-type", b"application/json")]
    about = {"type": "http", "asgi": {"spec_version": "2.4"}, "query_string": b""}
    scope = {**about, "method": method, "path": path, "headers": headers}
    with contextlib.suppress(ClientDisconnect):
        asyncio.run(bench.app(scope, receive, nobody_reads))
    assert bench.told.codes == [(route, method, 499)]
    assert (bench.told.reasons(), bench.told.judged(), bench.told.in_flight) == ([], [], 0)


def test_an_answer_that_begins_late_is_available_but_not_in_time(tmp_path, recorder):
    bench = Bench(tmp_path, recorder, latency_s=1e-9)
    bench.ask("POST", "/v1/sum", json={"values": [1]})
    bench.ask("POST", "/v1/sum", json={})
    assert bench.told.judged() == ["availability good", "latency bad", "availability good"]


def test_waits_in_the_queue_are_measured_of_those_who_are_let_in(bench, recorder):
    bench.ask("POST", "/v1/sum", json={"values": [1]})
    bench.ask("POST", "/v1/sum", content=b"x" * 2000)
    (wait_s,) = recorder.values(metrics.QUEUE_WAIT, queue="admission")
    assert wait_s == 0
