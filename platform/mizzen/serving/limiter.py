"""One ledger of rate limits for all replicas on all nodes: a named Ray actor, and a replica's way to it.

The actor decides one after the other, so replicas together never let more requests in than one would. A
replica has one call at a time on its way; what comes meanwhile shares the next one. While much is left, a
busy key gets a lease with the answer, and the replica asks nobody until that is used up or a second is over.

While the actor is away (its node has died, say; Ray starts it anew) each replica keeps the limits by itself,
so N replicas may let in N times as much; an actor that is new starts with full buckets. Refusing everybody
would turn a failure of the bookkeeper into one of the service. Two Ray clusters that serve the same keys,
as for the minutes of an upgrade, count each for itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray

from mizzen.serving.limits import LEASE_MOST, Ledger, Limit, Verdict

logger = logging.getLogger(__name__)

NAME = "mizzen-limiter"
NAMESPACE = "mizzen"
TIMEOUT_S = 1.0
"""How long a request waits for the actor before the replica decides by itself."""
START_TIMEOUT_S = 30.0
"""The same for a replica's first call: the actor's process may have to start."""
CHARGE_WITHIN_S = 0.05
"""What an answer has cost travels with the next question, and by itself if none comes so soon."""
LEASE_S = 1.0
"""How long a lease is used; the rest of it goes back then."""
RETRY_S = 5.0
"""How long a replica decides by itself before it asks the actor again."""


@dataclass(frozen=True)
class Ask:
    """A request that wants to be let in."""

    limit: Limit
    wanted: int = 0
    """How many more are likely to come soon."""


@dataclass(frozen=True)
class Charge:
    """What has become of requests that were let in."""

    limit: Limit
    num_tokens: int = 0
    num_unused: int = 0


class Channel(Protocol):
    """The way to the shared ledger."""

    async def settle(self, asks: Sequence[Ask], charges: Sequence[Charge]) -> list[Verdict]:
        """See `settle`. Raises `RayError`, `TimeoutError`."""
        ...


def settle(ledger: Ledger, asks: Sequence[Ask], charges: Sequence[Charge], now_s: float) -> list[Verdict]:
    """Charge, then decide in order."""
    for charge in charges:
        ledger.charge(charge.limit, now_s, charge.num_tokens, charge.num_unused)
    return [ledger.take(ask.limit, now_s, ask.wanted) for ask in asks]


class Limiter:
    """The actor: a ledger, and the clock by which it is kept."""

    def __init__(self) -> None:
        self._ledger = Ledger()

    def settle(self, asks: Sequence[Ask], charges: Sequence[Charge]) -> list[Verdict]:
        """See `settle`."""
        return settle(self._ledger, asks, charges, time.monotonic())


class ActorChannel:
    """Finds the actor, or has Ray start it."""

    def __init__(self) -> None:
        self._actor: Any = None
        """Ray's handle; None until it is found."""
        self._search: asyncio.Future[Any] | None = None
        """Goes on in its thread when nobody waits for it any more: without Ray's head it may take minutes."""
        self._timeout_s = START_TIMEOUT_S

    async def settle(self, asks: Sequence[Ask], charges: Sequence[Charge]) -> list[Verdict]:
        """See `Channel`."""
        timeout_s, self._timeout_s = self._timeout_s, TIMEOUT_S
        try:
            async with asyncio.timeout(timeout_s):
                if self._actor is None:
                    self._actor = await self._find()
                return await asyncio.wrap_future(
                    self._actor.settle.remote(list(asks), list(charges)).future()
                )
        except Exception:
            self._actor = None  # it may be another one when we ask again
            raise

    async def _find(self) -> Any:
        if self._search is None:
            self._search = asyncio.ensure_future(asyncio.to_thread(_actor))
            self._search.add_done_callback(lambda search: search.cancelled() or search.exception())
        search = self._search
        try:
            return await asyncio.shield(search)
        finally:
            if search.done():
                self._search = None


@dataclass
class _Lease:
    """Requests of one key that this replica may let in by itself."""

    verdict: Verdict | None = None
    left: int = 0
    until_s: float = 0.0
    since_s: float = 0.0
    """When the count of what comes in began anew."""
    came: int = 0
    came_before: int = 0
    """In the `LEASE_S` before."""

    def count(self, now_s: float) -> None:
        """A request has come."""
        if now_s - self.since_s >= LEASE_S:
            self.came_before = self.came if now_s - self.since_s < 2 * LEASE_S else 0
            self.came, self.since_s = 0, now_s
        self.came += 1

    @property
    def wanted(self) -> int:
        """How many more are likely to come within a lease's time: none for a key that is seldom used."""
        likely = max(self.came, self.came_before)
        return min(likely, LEASE_MOST) if likely > 1 else 0


class SharedLimits:
    """Rate limits as a replica sees them."""

    def __init__(self, channel: Channel, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._channel = channel
        self._clock = clock
        self._leases: dict[Limit, _Lease] = {}
        self._waiting: list[tuple[Limit, asyncio.Future[Verdict]]] = []
        self._charges: list[Charge] = []
        self._exchange: asyncio.Task[None] | None = None
        self._own = Ledger()
        """Kept when the other answers again: or one that comes and goes would fill the buckets each time."""
        self._alone_until_s: float | None = None

    async def take(self, limit: Limit) -> Verdict:
        """Whether a request of this key is let in."""
        lease, now_s = self._leases.setdefault(limit, _Lease()), self._clock()
        lease.count(now_s)
        if lease.left and lease.verdict is not None and now_s < lease.until_s:
            lease.left -= 1
            return lease.verdict.later(lease.verdict.lease - lease.left)
        decided: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append((limit, decided))
        self._begin()
        return await decided

    def charge(self, limit: Limit, num_tokens: int) -> None:
        """Count what a request of this key has cost. Nobody waits for that."""
        self._send_soon(Charge(limit, num_tokens))

    def _send_soon(self, charge: Charge) -> None:
        if not self._charges:
            asyncio.get_running_loop().call_later(CHARGE_WITHIN_S, self._begin)
        self._charges.append(charge)

    def _begin(self) -> None:
        if self._exchange is None and (self._waiting or self._charges):
            self._exchange = asyncio.create_task(self._exchange_all())

    async def _exchange_all(self) -> None:
        waiting: list[tuple[Limit, asyncio.Future[Verdict]]] = []
        try:
            while True:
                waiting, self._waiting = self._waiting, []
                charges, self._charges = self._charges, []
                last = {limit: number for number, (limit, _) in enumerate(waiting)}
                asks = [
                    Ask(limit, self._leases[limit].wanted if last[limit] == number else 0)
                    for number, (limit, _) in enumerate(waiting)
                ]
                verdicts = await self._settle(asks, charges)
                for (limit, decided), verdict in zip(waiting, verdicts, strict=True):
                    self._keep(limit, verdict)
                    if not decided.done():  # its client may have gone
                        decided.set_result(verdict)
                if not self._waiting:
                    return
        finally:
            self._exchange = None
            for _, decided in waiting:
                decided.cancel()  # no effect but when the loop ends
            if self._charges:
                asyncio.get_running_loop().call_later(CHARGE_WITHIN_S, self._begin)

    def _keep(self, limit: Limit, verdict: Verdict) -> None:
        if not verdict.lease:
            return
        lease = self._leases[limit]
        unused, lease.left = lease.left, verdict.lease
        lease.verdict, lease.until_s = verdict, self._clock() + LEASE_S
        if unused:
            self._send_soon(Charge(limit, num_unused=unused))
        asyncio.get_running_loop().call_later(LEASE_S, self._give_back, limit, verdict)

    def _give_back(self, limit: Limit, verdict: Verdict) -> None:
        lease = self._leases[limit]
        if lease.verdict is verdict and lease.left:
            self._send_soon(Charge(limit, num_unused=lease.left))
            lease.left = 0

    async def _settle(self, asks: list[Ask], charges: list[Charge]) -> list[Verdict]:
        if self._alone_until_s is None or self._clock() >= self._alone_until_s:
            try:
                verdicts = await self._channel.settle(asks, charges)
            except Exception as cause:
                # Whatever it is: a failure of the bookkeeper is none of the service.
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
                    self._alone_until_s = None
                return verdicts
        return settle(self._own, asks, charges, self._clock())


def _actor() -> Any:
    kind = ray.remote(Limiter)
    # Not of the replica that happens to ask first: it stays when that goes, and Ray starts it anew elsewhere
    # when its node dies. It computes next to nothing.
    return kind.options(
        name=NAME, namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0, max_restarts=-1
    ).remote()
