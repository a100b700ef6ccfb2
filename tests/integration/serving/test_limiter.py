"""The shared ledger as Ray runs it: one for all who ask, and what happens when it dies."""

from __future__ import annotations

import asyncio
import logging

import pytest
import ray

from mizzen.serving import limiter
from mizzen.serving.limiter import NAME, NAMESPACE, ActorChannel, SharedLimits
from mizzen.serving.limits import Limit


async def let_in(limits: SharedLimits, limit: Limit, num_requests: int) -> int:
    verdicts = await asyncio.gather(*(limits.take(limit) for _ in range(num_requests)))
    return sum(verdict.refused is None for verdict in verdicts)


@pytest.mark.usefixtures("ray_home")
def test_all_who_ask_share_one_ledger_and_go_on_without_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(limiter, "RETRY_S", 0.5)
    first, second = Limit("first", requests_per_minute=10), Limit("second", requests_per_minute=10)

    async def ask() -> None:
        replicas = [SharedLimits(ActorChannel()) for _ in range(3)]
        shares = await asyncio.gather(*(let_in(replica, first, 8) for replica in replicas))
        assert sum(shares) == 10

        # For good, as with the node that it was on: until somebody has it made anew each counts by itself.
        ray.kill(ray.get_actor(NAME, namespace=NAMESPACE), no_restart=True)
        have_been_alone: set[int] = set()
        async with asyncio.timeout(120):
            while len(have_been_alone) < 3 or any(one._alone_until_s is not None for one in replicas):
                await asyncio.gather(*(one.take(second) for one in replicas))
                have_been_alone |= {n for n, one in enumerate(replicas) if one._alone_until_s is not None}
                await asyncio.sleep(0.01)

        third = Limit("third", requests_per_minute=10)
        assert sum(await asyncio.gather(*(let_in(replica, third, 8) for replica in replicas))) == 10

    asyncio.run(ask())
    assert caplog.text.count("does not answer") == caplog.text.count("answers again") >= 3
