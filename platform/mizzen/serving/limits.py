"""Rate limits as token buckets, and what clients are told of them.

A bucket holds a minute's worth and fills evenly. So in any `t` seconds a key gets at most
`limit + limit * t / 60` requests. What an answer costs in tokens is known only afterwards: a request is let
in while the bucket is not empty, and the bucket may then fall below nothing, which later requests wait for.
So tokens overrun by at most what the requests in flight cost when it ran empty.

Everything here is a function of the time that it is given; `limiter` shares it between replicas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

MINUTE_S = 60.0
Unit = Literal["requests", "tokens"]


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

    @property
    def wait_s(self) -> float:
        """When a request that was refused may be let in."""
        return max(room.wait_s for room in (self.requests, self.tokens) if room is not None)

    def headers(self) -> dict[str, str]:
        """What clients of OpenAI's API know; the tokens of this very request are not counted yet."""
        named = {}
        for unit, room in (("requests", self.requests), ("tokens", self.tokens)):
            if room is not None:
                named[f"x-ratelimit-limit-{unit}"] = str(room.limit)
                named[f"x-ratelimit-remaining-{unit}"] = str(room.remaining)
                named[f"x-ratelimit-reset-{unit}"] = _duration(room.reset_s)
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


@dataclass
class Ledger:
    """The buckets of all keys."""

    _accounts: dict[str, _Account] = field(default_factory=dict)

    def take(self, limit: Limit, now_s: float) -> Verdict:
        """Let a request in and count it, or refuse it; a refused one costs nothing."""
        account = self._account(limit, now_s)
        refused: Unit | None = None
        if account.tokens is not None and account.tokens.level < 1:
            refused = "tokens"
        if account.requests is not None:
            if account.requests.level < 1:
                refused = "requests"
            elif refused is None:
                account.requests.level -= 1
        requests = account.requests.room() if account.requests else None
        tokens = account.tokens.room() if account.tokens else None
        return Verdict(requests, tokens, refused)

    def charge(self, limit: Limit, num_tokens: int, now_s: float) -> None:
        """Count what a request that was let in has cost."""
        account = self._account(limit, now_s)
        if account.tokens is not None:
            account.tokens.level -= num_tokens

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


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < MINUTE_S:
        return f"{math.ceil(seconds * 10) / 10:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s"
