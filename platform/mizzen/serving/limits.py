"""Rate limits as token buckets, and what clients are told of them.

A bucket holds a minute's worth and fills evenly. So in any `t` seconds a key gets at most
`limit + limit * t / 60` requests. What an answer costs in tokens is known only afterwards: a request is let
in while the bucket is not empty, and the bucket may then fall below nothing, which later requests wait for.
So tokens overrun by at most what was in flight, or not charged yet, when it ran empty.

While a bucket is at least half full, whoever asks may be given some more requests at once, a lease: they are
taken from the bucket, so whoever lets them in later lets in no more than the limit. What is not used is
given back. A lease of a key with a limit in tokens is so small that even the dearest requests seen so far
would not empty the bucket. Near the limit every request is asked for by itself.

Everything here is a function of the time that it is given; `limiter` shares it between replicas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

MINUTE_S = 60.0
LEASE_MOST = 100
LEASE_SHARE = 50
"""A lease is at most one part of so many of a minute's requests."""
Unit = Literal["requests", "tokens"]
RATE_HEADERS = ("limit", "remaining", "reset")
"""`x-ratelimit-limit-requests` and so on: what is told of each unit."""


@dataclass(frozen=True)
class Limit:
    """What a key may use in a minute; at least one of the two is set."""

    key: str
    """The key's id."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True)
class Room:
    """What is left of one limit."""

    limit: int
    remaining: int
    reset_s: float
    """Until the bucket is full again."""
    wait_s: float
    """Until it lets a request in: 0 if it does now."""


@dataclass(frozen=True)
class Verdict:
    """Whether a request is let in, and what is left afterwards."""

    requests: Room | None
    tokens: Room | None
    refused: Unit | None = None
    """Which limit is reached."""
    lease: int = 0
    """How many more requests may be let in without asking again."""

    @property
    def wait_s(self) -> float:
        """When a request that was refused may be let in."""
        return max(room.wait_s for room in (self.requests, self.tokens) if room is not None)

    def later(self, num_requests: int) -> Verdict:
        """What to tell a request that is let in by a lease after `num_requests` others."""
        if self.requests is None:
            return self
        requests = replace(self.requests, remaining=max(0, self.requests.remaining - num_requests))
        return replace(self, requests=requests)

    def headers(self) -> dict[str, str]:
        """What clients of OpenAI's API know; the tokens of this very request are not counted yet."""
        named = {}
        for unit, room in (("requests", self.requests), ("tokens", self.tokens)):
            if room is not None:
                values = (str(room.limit), str(room.remaining), _duration(room.reset_s))
                for told, value in zip(RATE_HEADERS, values, strict=True):
                    named[f"x-ratelimit-{told}-{unit}"] = value
        return named


class Bucket:
    """One limit of one key."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self.level = float(per_minute)
        self.at_s = now_s

    def refill(self, now_s: float) -> None:
        """Add what has come in since the last call. A clock that goes back adds nothing."""
        came = max(0.0, now_s - self.at_s) * self.per_minute / MINUTE_S
        self.level = min(float(self.per_minute), self.level + came)
        self.at_s = max(self.at_s, now_s)

    def room(self) -> Room:
        """What is left now."""
        rate = self.per_minute / MINUTE_S
        return Room(
            limit=self.per_minute,
            remaining=max(0, math.floor(self.level)),
            reset_s=(self.per_minute - self.level) / rate,
            wait_s=max(0.0, 1.0 - self.level) / rate,
        )


@dataclass
class _Account:
    requests: Bucket | None
    tokens: Bucket | None
    dearest: int = 0
    """Tokens of the dearest request so far; 0 while none is known."""


@dataclass
class Ledger:
    """The buckets of all keys."""

    _accounts: dict[str, _Account] = field(default_factory=dict)

    def take(self, limit: Limit, now_s: float, wanted: int = 0) -> Verdict:
        """Let a request in and count it, or refuse it; a refused one costs nothing.

        `wanted`: how many more would be used soon, if they were leased.
        """
        account = self._account(limit, now_s)
        refused: Unit | None = None
        if account.tokens is not None and account.tokens.level < 1:
            refused = "tokens"
        if account.requests is not None:
            if account.requests.level < 1:
                refused = "requests"
            elif refused is None:
                account.requests.level -= 1
        # Told before the lease is taken off: it is still the key's to use.
        requests = account.requests.room() if account.requests else None
        tokens = account.tokens.room() if account.tokens else None
        return Verdict(requests, tokens, refused, _lease(account, wanted) if refused is None else 0)

    def charge(self, limit: Limit, now_s: float, num_tokens: int = 0, num_unused: int = 0) -> None:
        """Count the tokens of requests that were let in, and take back what of a lease was not used."""
        account = self._account(limit, now_s)
        if account.tokens is not None:
            account.tokens.level -= num_tokens
            account.dearest = max(account.dearest, num_tokens)
        if account.requests is not None:
            account.requests.level = min(account.requests.level + num_unused, account.requests.per_minute)

    def _account(self, limit: Limit, now_s: float) -> _Account:
        account = self._accounts.get(limit.key)
        if account is None:
            per_minute = (limit.requests_per_minute, limit.tokens_per_minute)
            requests, tokens = (Bucket(number, now_s) if number else None for number in per_minute)
            account = self._accounts[limit.key] = _Account(requests, tokens)
        for bucket in (account.requests, account.tokens):
            if bucket is not None:
                bucket.refill(now_s)
        return account


def _lease(account: _Account, wanted: int) -> int:
    buckets = [bucket for bucket in (account.requests, account.tokens) if bucket is not None]
    if any(bucket.level < bucket.per_minute / 2 for bucket in buckets):
        return 0
    lease = min(wanted, LEASE_MOST)
    if account.tokens is not None:
        lease = min(lease, int(account.tokens.level / 2 / account.dearest) if account.dearest else 0)
    if account.requests is not None:
        lease = min(lease, account.requests.per_minute // LEASE_SHARE)
        account.requests.level -= lease
    return lease


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < MINUTE_S:
        return f"{math.ceil(seconds * 10) / 10:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s"
