"""A replica's versions and how they change, called as ASGI: without models, and without Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from mizzen import metrics
from mizzen.errors import ServingError
from mizzen.serving.pins import Pin, PinnedCanary, PinnedShadow
from mizzen.serving.roles import Role, Roles
from mizzen.serving.service_levels import ServiceLevels
from mizzen.serving.spec import App, Canary, Shadow, Slo


def pin(version: int) -> Pin:
    return Pin(name="m", version=version, digest=f"{version:064}")


def canary(version: int, weight: float = 0.5) -> PinnedCanary:
    return PinnedCanary(pin=pin(version), canary=Canary(model="m@candidate", weight=weight))


def shadow(version: int, share: float = 1.0) -> PinnedShadow:
    return PinnedShadow(pin=pin(version), shadow=Shadow(model="m@next", share=share))


class Version:
    """Answers with its number once its gate is open; counts what it has."""

    def __init__(self, of: Pin, role: Role, workload: str = "adder") -> None:
        self.pin, self.role, self.workload = of, role, workload
        self.references: list[str] = []
        self.in_flight, self.closed = 0, False
        self.gate = asyncio.Event()
        self.gate.set()
        self.status = 200

    def show_as(self, reference: str) -> None:
        self.references.append(reference)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert not self.closed
        self.in_flight += 1
        await self.gate.wait()
        self.in_flight -= 1
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"seen": self.pin.version}).encode()})

    async def close(self) -> None:
        assert self.in_flight == 0
        self.closed = True


class Stage:
    """A replica's roles over versions that are made as they are asked for."""

    def __init__(self, recorder: Any, call: Any) -> None:
        app, self.recorder, self.call = App(name="shop", model="m@production"), recorder, call
        self.broken: set[int] = set()
        self.made: list[Version] = []
        self.workload = "adder"
        self.roles: Roles[Version] = Roles(
            app, self.load, ServiceLevels("shop", Slo(), recorder.of), recorder.of
        )

    async def load(self, wanted: Pin, role: Role) -> Version:
        if wanted.version in self.broken:
            raise ServingError("broken on purpose")
        self.made.append(Version(wanted, role, self.workload))
        return self.made[-1]

    async def first(self, version: int) -> bool:
        return await self.roles.replace(pin(version), "m@production")

    async def met(self, num: int = 200) -> dict[int, int]:
        """Which versions answer, and how many of `num` clients each."""
        found: dict[int, int] = {}
        for n in range(num):
            headers = [(b"mizzen-session", b"s%d" % n)]
            answer = await self.call(headers=headers).to(self.roles.switch)
            seen = json.loads(answer.body)["seen"]
            found[seen] = found.get(seen, 0) + 1
        return found

    def shares(self) -> dict[tuple[str, ...], float]:
        return dict(self.recorder.shown(metrics.TRAFFIC_WEIGHT, "role", "version"))

    async def closed(self) -> list[int]:
        """Versions that have been taken down, once there is nothing left to do."""
        for _ in range(10):
            await asyncio.sleep(0)
        return [one.pin.version for one in self.made if one.closed]


@pytest.fixture
def run(recorder: Any, call: Any) -> Iterator[Callable[..., Any]]:
    def play(scenario: Callable[[Stage], Awaitable[Any]]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(20):
                return await scenario(Stage(recorder, call))

        return asyncio.run(bounded())

    yield play


def test_a_canary_answers_its_share_and_goes_without_a_trace(run):
    async def scenario(stage: Stage) -> None:
        await stage.first(1)
        assert stage.shares() == {("primary", "1"): 1.0}
        assert await stage.roles.share_with(canary(2, 0.25))
        met = await stage.met()
        assert 25 < met[2] < 80
        assert met[1] + met[2] == 200
        assert stage.shares() == {("primary", "1"): 0.75, ("canary", "2"): 0.25}
        assert stage.made[1].references == ["m@candidate"]
        assert await stage.roles.share_with(None)
        assert await stage.met(20) == {1: 20}
        assert await stage.closed() == [2]
        assert stage.shares() == {("primary", "1"): 1.0}

    run(scenario)


def test_a_change_of_weight_loads_nothing(run):
    async def scenario(stage: Stage) -> None:
        await stage.first(1)
        for weight, expected in ((0.5, {1, 2}), (0.0, {1}), (1.0, {2})):
            assert await stage.roles.share_with(canary(2, weight))
            assert set(await stage.met(50)) == expected
            assert stage.shares()["canary", "2"] == weight
        assert len(stage.made) == 2
        assert await stage.closed() == []

    run(scenario)


def test_a_canary_that_cannot_be_loaded_leaves_all_requests_with_the_first_and_shows_no_weight(run, caplog):
    async def scenario(stage: Stage) -> None:
        await stage.first(1)
        stage.broken = {2}
        assert not await stage.roles.share_with(canary(2))
        assert await stage.met(20) == {1: 20}
        assert stage.shares() == {("primary", "1"): 1.0, ("canary", "2"): 0.0}
        assert stage.recorder.total(metrics.RELOAD_FAILURES, version="2") == 1
        assert "there is no such canary" in caplog.text
        stage.broken = set()
        assert await stage.roles.share_with(canary(2))
        assert set(await stage.met(50)) == {1, 2}
        stage.broken = {3}
        assert not await stage.roles.share_with(canary(3))
        assert stage.roles.switch.canary is stage.made[1]
        assert stage.shares()["canary", "2"] == 0.5
        assert stage.shares()["canary", "3"] == 0.0

    run(scenario)


def test_a_canary_that_is_promoted_takes_over_at_once_and_is_not_loaded_again(run):
    async def scenario(stage: Stage) -> None:
        await stage.first(1)
        await stage.roles.share_with(canary(2))
        assert await stage.first(2)
        assert await stage.met(20) == {2: 20}
        assert [one.pin.version for one in stage.made] == [1, 2]
        assert stage.made[1].references == ["m@candidate", "m@production"]
        assert await stage.closed() == [1]
        assert stage.shares() == {("primary", "2"): 1.0}
        # Rolled back: the canary is wanted still, so it is one again.
        assert await stage.first(1)
        assert set(await stage.met(50)) == {1, 2}

    run(scenario)


def test_a_canary_of_another_workload_is_refused(run, caplog):
    async def scenario(stage: Stage) -> None:
        await stage.first(1)
        stage.workload = "chat"
        assert not await stage.roles.share_with(canary(2))
        assert await stage.met(20) == {1: 20}
        assert await stage.closed() == [2]
        assert "must be of the application's workload" in caplog.text

    run(scenario)


def test_a_version_that_goes_answers_what_it_has_first(run):
    async def scenario(stage: Stage) -> None:
        await stage.first(1)
        await stage.roles.share_with(canary(2, 1.0))
        stage.made[1].gate.clear()
        waiting = asyncio.create_task(stage.met(1))
        for _ in range(3):
            await asyncio.sleep(0)
        await stage.roles.share_with(None)
        assert await stage.met(5) == {1: 5}
        assert await stage.closed() == []
        stage.made[1].gate.set()
        assert await waiting == {2: 1}
        assert await stage.closed() == [2]

    run(scenario)


def test_a_failure_of_the_canary_is_the_clients_answer(run):
    async def scenario(stage: Stage) -> None:
        await stage.first(1)
        await stage.roles.share_with(canary(2, 1.0))
        stage.made[1].status = 500
        assert (await stage.call(headers=[]).to(stage.roles.switch)).status == 500
        assert (await stage.call(path="/readyz").to(stage.roles.switch)).status == 200

    run(scenario)


def test_a_version_that_cannot_be_loaded_leaves_first_and_canary_in_place(run):
    async def scenario(stage: Stage) -> None:
        await stage.first(1)
        await stage.roles.share_with(canary(2))
        stage.broken = {3}
        assert not await stage.first(3)
        assert set(await stage.met(50)) == {1, 2}
        assert stage.recorder.total(metrics.RELOAD_FAILURES, version="3") == 1

    run(scenario)


def test_a_shadow_is_loaded_as_one_and_goes_without_a_trace(run):
    async def scenario(stage: Stage) -> None:
        await stage.first(1)
        assert await stage.roles.copy_to(shadow(5, 0.3))
        assert stage.made[1].role == "shadow"
        assert stage.made[1].references == []
        assert stage.shares() == {("primary", "1"): 1.0, ("shadow", "5"): 0.3}
        assert stage.recorder.values(metrics.SHADOW_REQUESTS, version="5") == [0, 0, 0, 0]
        assert await stage.met(20) == {1: 20}
        assert await stage.roles.copy_to(shadow(5, 0.4))
        assert len(stage.made) == 2
        assert stage.shares()["shadow", "5"] == 0.4
        stage.broken = {6}
        assert not await stage.roles.copy_to(shadow(6))
        assert stage.roles.shadow.target is not None
        assert await stage.roles.copy_to(None)
        assert stage.roles.shadow.target is None
        assert await stage.closed() == [5]
        assert stage.shares() == {("primary", "1"): 1.0}

    run(scenario)


def test_a_request_that_meets_no_version_is_counted(run):
    async def scenario(stage: Stage) -> None:
        assert (await stage.call().to(stage.roles.switch)).status == 503
        assert (await stage.call(path="/healthz").to(stage.roles.switch)).status == 200
        none = {"model": "m", "version": "none"}
        assert stage.recorder.total(metrics.REQUESTS, **none, code="503") == 1
        assert stage.recorder.total(metrics.REQUESTS, **none, code="200") == 1
        assert stage.recorder.total(metrics.REJECTED, **none, reason="unavailable") == 1
        assert stage.recorder.total(metrics.SLO_REQUESTS, slo="availability", outcome="bad") == 1

    run(scenario)


def test_at_the_end_everything_is_closed_and_nothing_is_shown(run):
    async def scenario(stage: Stage) -> None:
        await stage.first(1)
        await stage.roles.share_with(canary(2))
        await stage.roles.copy_to(shadow(5))
        messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            return None

        await stage.roles.switch({"type": "lifespan"}, receive, send)
        assert sorted(await stage.closed()) == [1, 2, 5]
        assert stage.shares() == {}
        assert stage.recorder.values(metrics.SLO_OBJECTIVE) == []

    run(scenario)
