"""How a replica shares rate limits, with a handwritten ledger at the other end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Sequence

import pytest
from ray.exceptions import ActorDiedError

from mizzen.serving import limiter
from mizzen.serving.limiter import LEASE_S, RETRY_S, Ask, Charge, SharedLimits, settle
from mizzen.serving.limits import Ledger, Limit, Verdict

LIMIT = Limit("k", requests_per_minute=10, tokens_per_minute=100)


class Elsewhere:
    """A ledger behind a way that can break."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.calls: list[tuple[int, int]] = []
        self.failure: Exception | None = None

    async def settle(self, asks: Sequence[Ask], charges: Sequence[Charge]) -> list[Verdict]:
        self.calls.append((len(asks), len(charges)))
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return settle(self.ledger, asks, charges, 0.0)


async def answered(limits: SharedLimits, num_requests: int) -> int:
    verdicts = await asyncio.gather(*(limits.take(LIMIT) for _ in range(num_requests)))
    return sum(verdict.refused is None for verdict in verdicts)


def test_requests_that_come_together_share_a_call() -> None:
    async def ask() -> None:
        elsewhere = Elsewhere()
        limits = SharedLimits(elsewhere)
        assert await answered(limits, 100) == 10
        assert elsewhere.calls == [(100, 0)]
        limits.charge(LIMIT, 5)
        limits.charge(LIMIT, 5)
        assert await answered(limits, 1) == 0
        assert len(elsewhere.calls) <= 3
        assert sum(charges for _, charges in elsewhere.calls) == 2

    asyncio.run(ask())


def test_replicas_share_one_ledger() -> None:
    async def ask() -> None:
        elsewhere = Elsewhere()
        assert sum(await asyncio.gather(*(answered(SharedLimits(elsewhere), 7) for _ in range(3)))) == 10

    asyncio.run(ask())


@pytest.mark.parametrize("failure", [ActorDiedError(), TimeoutError(), KeyError("nobody has foreseen it")])
def test_while_the_ledger_is_away_a_replica_keeps_the_limits_by_itself(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now_s = [0.0]

    async def ask() -> None:
        elsewhere = Elsewhere()
        limits = SharedLimits(elsewhere, clock=lambda: now_s[0])
        elsewhere.failure = failure
        assert await answered(limits, 20) == 10
        assert await answered(limits, 20) == 0
        assert len(elsewhere.calls) == 1  # not asked again so soon: each would wait for nothing
        now_s[0] += RETRY_S
        assert await answered(limits, 1) == 0
        assert len(elsewhere.calls) == 2
        elsewhere.failure = None
        now_s[0] += RETRY_S
        assert await answered(limits, 20) == 10
        assert len(elsewhere.calls) == 3

    asyncio.run(ask())
    assert caplog.text.count("does not answer") == 1
    assert caplog.text.count("answers again") == 1


def test_a_ledger_that_comes_and_goes_does_not_fill_the_replicas_own() -> None:
    now_s = [0.0]

    async def ask() -> None:
        elsewhere = Elsewhere()
        limits = SharedLimits(elsewhere, clock=lambda: now_s[0])
        alone = 0
        for _ in range(5):
            elsewhere.failure = TimeoutError()
            alone += await answered(limits, 20)
            elsewhere.failure = None
            now_s[0] += RETRY_S
            await answered(limits, 1)
        assert 10 <= alone <= 10 + 10 * now_s[0] / 60

    asyncio.run(ask())


def test_a_client_that_goes_away_while_it_waits_stops_nobody_else() -> None:
    async def ask() -> None:
        limits = SharedLimits(Elsewhere())
        gone = asyncio.create_task(limits.take(LIMIT))
        stays = asyncio.create_task(limits.take(LIMIT))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays).refused is None
        assert await answered(limits, 20) == 8

    asyncio.run(ask())


class Found:
    """Ray's handle of an actor that lets everybody in."""

    class settle:
        @staticmethod
        def remote(asks: Sequence[Ask], charges: Sequence[Charge]) -> Found.settle:
            return Found.settle()

        def future(self) -> concurrent.futures.Future[list[Verdict]]:
            answer: concurrent.futures.Future[list[Verdict]] = concurrent.futures.Future()
            answer.set_result([])
            return answer


def test_nobody_waits_for_a_search_that_takes_too_long_and_there_is_only_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches: list[threading.Event] = []

    def search() -> type[Found]:
        searches.append(go_on)
        assert go_on.wait(10)
        return Found

    go_on = threading.Event()
    monkeypatch.setattr(limiter, "_actor", search)
    monkeypatch.setattr(limiter, "START_TIMEOUT_S", 0.01)
    monkeypatch.setattr(limiter, "TIMEOUT_S", 0.01)

    async def ask() -> None:
        channel = limiter.ActorChannel()
        try:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await channel.settle([], [])
        finally:
            go_on.set()
        monkeypatch.setattr(limiter, "TIMEOUT_S", 10.0)
        channel._timeout_s = 10.0
        assert await channel.settle([], []) == []
        assert len(searches) == 1

    asyncio.run(ask())


def test_a_charge_is_sent_soon_even_if_nobody_asks_any_more() -> None:
    async def ask() -> None:
        elsewhere = Elsewhere()
        limits = SharedLimits(elsewhere)
        taken = asyncio.create_task(limits.take(LIMIT))
        await asyncio.sleep(0)
        limits.charge(LIMIT, 40)  # while a call is on its way
        await taken
        async with asyncio.timeout(10):
            while not sum(charges for _, charges in elsewhere.calls):
                await asyncio.sleep(0)
        assert (await SharedLimits(elsewhere).take(LIMIT)).tokens.remaining == 60  # type: ignore[union-attr]

    asyncio.run(ask())


PLENTY = Limit("p", requests_per_minute=10_000)


def test_a_busy_key_asks_seldom_while_much_is_left_and_gets_no_more_for_it() -> None:
    now_s = [0.0]

    async def ask() -> None:
        elsewhere = Elsewhere()
        replicas = [SharedLimits(elsewhere, clock=lambda: now_s[0]) for _ in range(2)]
        let_in = 0
        for number in range(12_000):
            verdict = await replicas[number % 2].take(PLENTY)
            let_in += verdict.refused is None
            if number == 500:
                assert len(elsewhere.calls) < 40
                assert verdict.requests is not None
                assert 9_000 < verdict.requests.remaining < 9_999
        assert let_in == 10_000

    asyncio.run(ask())


def test_a_key_that_is_seldom_used_gets_no_lease() -> None:
    now_s = [0.0]

    async def ask() -> None:
        elsewhere = Elsewhere()
        limits = SharedLimits(elsewhere, clock=lambda: now_s[0])
        for _ in range(5):
            await limits.take(PLENTY)
            now_s[0] += 3 * LEASE_S
        assert elsewhere.calls == [(1, 0)] * 5

    asyncio.run(ask())


def test_what_is_left_of_a_lease_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "LEASE_S", 0.01)

    async def ask() -> None:
        elsewhere = Elsewhere()
        limits = SharedLimits(elsewhere)
        for _ in range(3):
            await limits.take(PLENTY)
        bucket = elsewhere.ledger._accounts[PLENTY.key].requests
        assert bucket is not None
        async with asyncio.timeout(10):
            while bucket.level < 10_000 - 3:
                await asyncio.sleep(0.001)
        assert bucket.level == 10_000 - 3

    asyncio.run(ask())
