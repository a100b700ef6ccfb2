"""One ledger of rate limits for all replicas on all nodes: a named Ray actor, and a replica's way to it.

A replica has one call at a time on its way; requests that come meanwhile share the next one. So the actor
sees at most one call a replica and round trip, however many requests there are, and decides one after the
other: replicas together never let more in than one would.

While the actor is away (its node has died, say; Ray starts it anew) each replica keeps the limits by itself,
so N replicas may let in N times as much; an actor that is new starts with full buckets. Refusing everybody
would turn a failure of the bookkeeper into one of the service. Two Ray clusters that serve the same keys,
as for the minute of an upgrade, count each for itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import RayError

from mizzen.serving.limits import Ledger, Limit, Verdict

logger = logging.getLogger(__name__)

NAME = "mizzen-limiter"
NAMESPACE = "mizzen"
TIMEOUT_S = 1.0
"""How long a request waits for the actor before the replica decides by itself."""
START_TIMEOUT_S = 30.0
"""The same for a replica's first call: the actor's process may have to start."""
RETRY_S = 5.0
"""How long a replica decides by itself before it asks the actor again."""
Charge = tuple[Limit, int]


class Channel(Protocol):
    """The way to the shared ledger."""

    async def settle(self, takes: Sequence[Limit], charges: Sequence[Charge]) -> list[Verdict]:
        """Charge, then take in order. Raises `RayError`, `TimeoutError`."""
        ...


class Limiter:
    """The actor: a ledger, and the clock by which it is kept."""

    def __init__(self) -> None:
        self._ledger = Ledger()

    def settle(self, takes: Sequence[Limit], charges: Sequence[Charge]) -> list[Verdict]:
        """See `Channel`."""
        return settle(self._ledger, takes, charges, time.monotonic())


class ActorChannel:
    """Finds the actor, or has Ray start it."""

    def __init__(self) -> None:
        self._actor: Any = None
        """Ray's handle; None until it is found."""
        self._timeout_s = START_TIMEOUT_S

    async def settle(self, takes: Sequence[Limit], charges: Sequence[Charge]) -> list[Verdict]:
        """See `Channel`."""
        timeout_s, self._timeout_s = self._timeout_s, TIMEOUT_S
        try:
            if self._actor is None:
                self._actor = await asyncio.to_thread(_actor)
            answer = asyncio.wrap_future(self._actor.settle.remote(list(takes), list(charges)).future())
            verdicts: list[Verdict] = await asyncio.wait_for(answer, timeout_s)
        except (RayError, TimeoutError):
            self._actor = None  # it may be another one when we ask again
            raise
        return verdicts


class SharedLimits:
    """Rate limits as a replica sees them."""

    def __init__(self, channel: Channel, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._channel = channel
        self._clock = clock
        self._waiting: list[tuple[Limit, asyncio.Future[Verdict]]] = []
        self._charges: list[Charge] = []
        self._exchange: asyncio.Task[None] | None = None
        self._own = Ledger()
        self._alone_until_s: float | None = None

    async def take(self, limit: Limit) -> Verdict:
        """Whether a request of this key is let in."""
        decided: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append((limit, decided))
        self._begin()
        return await decided

    def charge(self, limit: Limit, num_tokens: int) -> None:
        """Count what a request of this key has cost. Nobody waits for that."""
        self._charges.append((limit, num_tokens))
        self._begin()

    def _begin(self) -> None:
        if self._exchange is None:
            self._exchange = asyncio.create_task(self._exchange_all())

    async def _exchange_all(self) -> None:
        waiting: list[tuple[Limit, asyncio.Future[Verdict]]] = []
        try:
            while self._waiting or self._charges:
                waiting, self._waiting = self._waiting, []
                charges, self._charges = self._charges, []
                verdicts = await self._settle([limit for limit, _ in waiting], charges)
                for (_, decided), verdict in zip(waiting, verdicts, strict=True):
                    if not decided.done():  # its client may have gone
                        decided.set_result(verdict)
        finally:
            self._exchange = None
            for _, decided in waiting:
                decided.cancel()  # no effect but after a failure that nobody has foreseen

    async def _settle(self, takes: list[Limit], charges: list[Charge]) -> list[Verdict]:
        if self._alone_until_s is None or self._clock() >= self._alone_until_s:
            try:
                verdicts = await self._channel.settle(takes, charges)
            except (RayError, TimeoutError) as cause:
                if self._alone_until_s is None:
                    logger.error(
                        "the rate limiter does not answer (%s): each replica keeps the limits by itself"
                        " until it does",
                        type(cause).__name__,
                    )
                self._alone_until_s = self._clock() + RETRY_S
            else:
                if self._alone_until_s is not None:
                    logger.info("the rate limiter answers again")
                    self._alone_until_s, self._own = None, Ledger()
                return verdicts
        return settle(self._own, takes, charges, self._clock())


def settle(ledger: Ledger, takes: Sequence[Limit], charges: Sequence[Charge], now_s: float) -> list[Verdict]:
    """Charge, then take in order."""
    for limit, num_tokens in charges:
        ledger.charge(limit, num_tokens, now_s)
    return [ledger.take(limit, now_s) for limit in takes]


def _actor() -> Any:
    kind = ray.remote(Limiter)
    # Not of the replica that happens to ask first: it stays when that goes, and Ray starts it anew elsewhere
    # when its node dies. It computes next to nothing.
    return kind.options(
        name=NAME, namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0, max_restarts=-1
    ).remote()
