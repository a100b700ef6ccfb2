"""Copies of requests, called as ASGI, without a model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from mizzen import metrics
from mizzen.serving.deadline import DEADLINE
from mizzen.serving.shadow import Copies, Shadow, Target
from mizzen.serving.spec import Shadow as Options
from mizzen.serving.switch import ROLE
from mizzen.workloads.contract import METER, Meter


class Version:
    """Answers with the sum of what it is sent, plus a constant; knows its scopes."""

    def __init__(self, constant: float = 0.0, status: int = 200) -> None:
        self.constant, self.status = constant, status
        self.scopes: list[dict[str, Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(dict(scope))
        scope["route"] = "met"
        message = await receive()
        await self.gate.wait()
        total = sum(json.loads(message["body"])) + self.constant
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send(
            {"type": "http.response.body", "body": json.dumps({"id": id(self), "total": total}).encode()}
        )


def nothing_left_out(scope: Scope) -> frozenset[str] | None:
    assert scope["route"] == "met"
    return frozenset()


class Stage:
    """A version with a shadow."""

    def __init__(self, shadow: ASGIApp, recorder: Any, **options: Any) -> None:
        self.first = Version()
        self.shadow = Shadow()
        asked = Options(**{"model": "m@2", "share": 1.0, **options})
        self.target = self.shadow.target = Target(shadow, asked, 5.0, recorder)
        self.recorder = recorder
        self.app = Copies(self.first, self.shadow, nothing_left_out)

    async def settled(self) -> None:
        while self.target.tasks:
            await asyncio.gather(*self.target.tasks, return_exceptions=True)

    def outcomes(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for line in self.recorder.lines:
            assert line.series == metrics.SHADOW_REQUESTS.name
            found[line.labels["outcome"]] = found.get(line.labels["outcome"], 0) + line.value
        return found


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(20):
            return await scenario()

    return asyncio.run(bounded())


@pytest.mark.parametrize(("constant", "outcome"), [(0.0, "same"), (0.0001, "same"), (1.0, "different")])
def test_a_copy_is_compared_and_the_client_has_the_answer_of_the_first_version(
    call, recorder, constant, outcome
):
    async def scenario() -> None:
        stage = Stage(Version(constant), recorder)
        answered = await call([b"[1, 2]"]).to(stage.app)
        assert json.loads(answered.body)["total"] == 3
        await stage.settled()
        assert stage.outcomes() == {outcome: 1}

    run(scenario)


def test_a_shadow_that_hangs_or_fails_delays_nobody(call, recorder):
    async def scenario() -> None:
        hanging = Version()
        hanging.gate.clear()
        stage = Stage(hanging, recorder, max_ongoing_requests=2)
        for _ in range(5):
            assert (await call([b"[1]"]).to(stage.app)).status == 200
        await asyncio.sleep(0)
        assert len(hanging.scopes) == 2
        assert stage.outcomes() == {"skipped": 3}
        await stage.target.close()
        assert stage.outcomes() == {"skipped": 5}

        async def broken(scope: Scope, receive: Receive, send: Send) -> None:
            raise ValueError("a secret")

        for shadow in (broken, Version(status=500)):
            recorder.lines.clear()
            stage = Stage(shadow, recorder)
            assert (await call([b"[1]"]).to(stage.app)).status == 200
            await stage.settled()
            assert stage.outcomes() == {"failed": 1}

    run(scenario)


def test_a_shadow_that_always_fails_fills_no_log(call, recorder, caplog):
    async def scenario() -> None:
        stage = Stage(Version(status=503), recorder)
        for _ in range(3):
            await call([b"[1]"]).to(stage.app)
            await stage.settled()
        assert stage.outcomes() == {"failed": 3}

    run(scenario)
    assert [record.getMessage() for record in caplog.records] == [
        "the shadow failed on a copy (status 503); more of them are counted, not told"
    ]


def test_a_copy_that_takes_too_long_has_failed(call, recorder):
    async def scenario() -> None:
        hanging = Version()
        hanging.gate.clear()
        stage = Stage(hanging, recorder)
        stage.target.timeout_s = 0.01
        await call([b"[1]"]).to(stage.app)
        await stage.settled()
        assert stage.outcomes() == {"failed": 1}

    run(scenario)


def test_a_copy_has_neither_deadline_nor_meter_nor_route(call, recorder):
    async def scenario() -> None:
        shadow = Version()
        stage = Stage(shadow, recorder)
        before = {DEADLINE: asyncio.timeout(5), METER: Meter(), "route": "of the first"}
        await call([b"[1]"], scope=before).to(stage.app)
        await stage.settled()
        (seen,) = shadow.scopes
        assert seen.keys() == {"type", "method", "path", "headers"}

    run(scenario)


def test_what_may_change_something_what_met_the_canary_and_what_was_not_answered_is_not_copied(
    call, recorder
):
    async def scenario() -> None:
        shadow = Version()
        stage = Stage(shadow, recorder)
        writes = Copies(stage.first, stage.shadow, lambda scope: None)
        assert (await call([b"[1]"]).to(writes)).status == 200
        assert (await call([b"[1]"], scope={ROLE: "canary"}).to(stage.app)).status == 200
        with pytest.raises(ValueError, match="Expecting"):
            await call([b"nonsense"]).to(stage.app)
        stage.shadow.target = None
        assert (await call([b"[1]"]).to(stage.app)).status == 200
        await stage.settled()
        assert shadow.scopes == []
        assert stage.outcomes() == {}

    run(scenario)


def test_a_share_of_the_requests_is_copied(call, recorder):
    async def scenario() -> None:
        stage = Stage(Version(), recorder, share=0.25, max_ongoing_requests=1000)
        for _ in range(400):
            await call([b"[1]"]).to(stage.app)
        await stage.settled()
        assert 60 < stage.outcomes()["same"] < 140

    run(scenario)


def test_what_is_too_large_is_left_out(call, recorder):
    async def scenario() -> None:
        shadow = Version()
        stage = Stage(shadow, recorder)
        body = b"[" + b" " * (4 * 2**20) + b"1]"
        assert (await call([body]).to(stage.app)).status == 200
        assert stage.outcomes() == {"skipped": 1}
        assert shadow.scopes == []

    run(scenario)
