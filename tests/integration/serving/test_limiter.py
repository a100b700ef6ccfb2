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

        # As when its process is killed: Ray starts it anew, and until then each replica counts by itself.
        ray.kill(ray.get_actor(NAME, namespace=NAMESPACE), no_restart=False)

        async def until(alone: bool) -> None:
            async with asyncio.timeout(60):
                while any((one._alone_until_s is not None) is not alone for one in replicas):
                    await asyncio.gather(*(one.take(second) for one in replicas))
                    await asyncio.sleep(0.01)

        await until(alone=True)
        await until(alone=False)
        third = Limit("third", requests_per_minute=10)
        assert sum(await asyncio.gather(*(let_in(replica, third, 8) for replica in replicas))) == 10

    asyncio.run(ask())
    assert caplog.text.count("does not answer") == caplog.text.count("answers again") >= 3
