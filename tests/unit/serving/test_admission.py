"""How many requests are let in, how many wait, and what the others are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from mizzen.errors import DeadlineError, OverloadedError
from mizzen.serving.admission import Admission
from mizzen.serving.deadline import Deadline


async def no_body(scope: Scope, receive: Receive) -> Receive:
    return receive


class Gated:
    """Answers nobody before its gate opens; counts who got in."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inside += 1
        if scope["path"] != "/readyz":
            await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_requests_beyond_the_queue_are_refused_and_probes_never_are(call):
    async def scenario() -> None:
        slow = Gated()
        app = Admission(slow, 2, 1, no_body)
        tasks = [asyncio.create_task(call().to(app)) for _ in range(3)]
        await settle()
        assert slow.inside == 2
        with pytest.raises(OverloadedError, match="allowed: 3") as refused:
            await call().to(app)
        assert refused.value.reason == "queue_full"
        await call(path="/readyz").to(app)
        slow.gate.set()
        await asyncio.gather(*tasks)
        await call().to(app)
        assert slow.inside == 5
        assert app.present == 0

    asyncio.run(scenario())


def test_the_time_to_come_back_follows_from_what_requests_took(call):
    async def scenario() -> OverloadedError:
        slow = Gated()
        app = Admission(slow, 1, 3, no_body)
        first = asyncio.create_task(call().to(app))
        await asyncio.sleep(0.2)
        slow.gate.set()
        await first
        slow.gate.clear()
        waiting = [asyncio.create_task(call().to(app)) for _ in range(4)]
        await settle()
        with pytest.raises(OverloadedError) as refused:
            await call().to(app)
        slow.gate.set()
        await asyncio.gather(*waiting)
        return refused.value

    # Three wait, and each took 0.2 s so far: after four of those all have had their turn.
    assert asyncio.run(scenario()).retry_after_s == pytest.approx(0.8, abs=0.2)


def test_a_request_whose_turn_would_come_too_late_is_refused_at_once(call):
    async def scenario() -> Any:
        slow = Gated()
        admission = Admission(slow, 1, 100, no_body)
        app = Deadline(admission, 60, 60)
        first = asyncio.create_task(call().to(app))
        await asyncio.sleep(0.2)
        slow.gate.set()
        await first
        slow.gate.clear()
        waiting = [asyncio.create_task(call().to(app)) for _ in range(3)]
        await settle()
        hasty = call(headers=[(b"mizzen-timeout-s", b"0.3")])
        begun_s = asyncio.get_running_loop().time()
        with pytest.raises(OverloadedError, match="after its deadline") as refused:
            await hasty.to(app)
        assert refused.value.reason == "deadline"
        took_s = asyncio.get_running_loop().time() - begun_s
        slow.gate.set()
        await asyncio.gather(*waiting)
        return took_s

    assert asyncio.run(scenario()) < 0.2


def test_a_request_that_is_too_late_while_it_waits_is_never_worked_on(call):
    async def scenario() -> tuple[int, int]:
        slow = Gated()
        admission = Admission(slow, 1, 10, no_body)
        app = Deadline(admission, 60, 60)
        first = asyncio.create_task(call().to(app))
        await settle()
        with pytest.raises(DeadlineError):
            await call(headers=[(b"mizzen-timeout-s", b"0.02")]).to(app)
        slow.gate.set()
        await first
        return slow.inside, admission.present

    assert asyncio.run(scenario()) == (1, 0)


def test_a_slow_body_does_not_hold_a_place_that_somebody_else_could_use(call):
    async def scenario() -> bool:
        never = asyncio.Event()

        async def slow_body(scope: Scope, receive: Receive) -> Receive:
            if scope["path"] == "/slow":
                await never.wait()
            return receive

        ready = Gated()
        ready.gate.set()
        app = Admission(ready, 1, 10, slow_body)
        slow = asyncio.create_task(call(path="/slow").to(app))
        await settle()
        answered = await call().to(app)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        return answered.status == 200 and app.present == 0

    assert asyncio.run(scenario())


def test_who_waits_for_a_place_is_measured_and_who_does_not_has_waited_for_nothing(call):
    async def scenario() -> list[float]:
        waits_s: list[float] = []
        slow = Gated()
        admission = Admission(slow, 1, 10, no_body, waits_s.append)
        both = [asyncio.create_task(call().to(admission)) for _ in range(2)]
        await settle()
        slow.gate.set()
        await asyncio.gather(*both)
        return waits_s

    first_s, second_s = asyncio.run(scenario())
    assert first_s == 0
    assert 0 < second_s < 10
