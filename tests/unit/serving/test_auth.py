"""Who is let through to an application."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mizzen import settings
from mizzen.errors import AuthenticationError, ForbiddenError, ServingError
from mizzen.serving.access import Grant
from mizzen.serving.auth import Access, Authentication, access, check
from mizzen.serving.limiter import Ask, Charge, SharedLimits, settle
from mizzen.serving.limits import Ledger, Limit, Verdict
from mizzen.store.keys import Keys, Rights
from mizzen.store.objects import Objects
from mizzen.workloads.contract import METER, count_tokens

KEY = "k" * 16
LIMITED = "l" * 16


@dataclass
class Table:
    """Keys in a dict."""

    grants: dict[bytes, Grant]

    def find(self, given: Sequence[bytes]) -> Grant | None:
        return next((self.grants[key] for key in given if key in self.grants), None)


@dataclass
class Here:
    """A ledger in this process."""

    ledger: Ledger = field(default_factory=Ledger)
    num_calls: int = 0

    async def settle(self, asks: Sequence[Ask], charges: Sequence[Charge]) -> list[Verdict]:
        self.num_calls += 1
        return settle(self.ledger, asks, charges, 0.0)


@pytest.fixture
def here() -> Here:
    return Here()


@pytest.fixture
def door(here: Here) -> Access:
    limit = Limit("x", requests_per_minute=3, tokens_per_minute=100)
    grants = {
        KEY.encode(): Grant("team"),
        LIMITED.encode(): Grant("limited", limit=limit),
        b"reader-reader-reader": Grant("reader", actions=frozenset({"read"})),
        b"elsewhere-elsewhere": Grant("elsewhere", apps=frozenset({"other"})),
    }
    return Access("shop", Table(grants), SharedLimits(here))


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    count_tokens(scope, 60)
    headers = [(b"metered", str(METER in scope).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


async def ask(app: ASGIApp, path: str, headers: dict[str, str], method: str = "POST") -> httpx.Response:
    transport = httpx.ASGITransport(app, root_path="/shop")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, f"/shop{path}", headers=headers)


def get(app: ASGIApp, path: str, headers: dict[str, str]) -> httpx.Response:
    return asyncio.run(ask(app, path, headers, "GET"))


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY} "},
        {"X-API-Key": KEY},
        {"Authorization": "Basic dXNlcjpwYXNz", "X-API-Key": KEY},
    ],
)
def test_a_key_is_taken_from_either_header(door: Access, headers: dict[str, str]) -> None:
    assert get(Authentication(hello, door), "/v1/x", headers).text == "hello"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "an API key is needed"),
        ({"Authorization": KEY}, "an API key is needed"),
        ({"Authorization": f"Basic {KEY}"}, "an API key is needed"),
        ({"Authorization": "Bearer"}, "not accepted"),
        ({"Authorization": "Bearer wrong"}, "not accepted"),
        ({"X-API-Key": f"Bearer {KEY}"}, "not accepted"),
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/x", "/docs", "/openapi.json", "/metrics", "/examples", "/readyz/", f"/v1/x?api_key={KEY}"]
)
def test_anything_else_is_refused(door: Access, headers: dict[str, str], said: str, path: str) -> None:
    with pytest.raises(AuthenticationError, match=said):
        get(Authentication(hello, door), path, headers)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"])
def test_probes_need_no_key(door: Access, path: str) -> None:
    assert get(Authentication(hello, door), path, {}).is_success


def test_a_key_is_held_to_its_scope(door: Access) -> None:
    app = Authentication(hello, door)
    assert get(app, "/examples", {"x-api-key": "reader-reader-reader"}).is_success
    with pytest.raises(ForbiddenError, match="--action infer"):
        asyncio.run(ask(app, "/v1/x", {"x-api-key": "reader-reader-reader"}))
    with pytest.raises(ForbiddenError, match="--app shop"):
        get(app, "/examples", {"x-api-key": "elsewhere-elsewhere"})


@pytest.mark.parametrize(
    ("key", "let_in"),
    [(KEY, True), (LIMITED, True), ("wrong", False), ("reader-reader-reader", False), (None, False)],
)
def test_a_websocket_needs_a_key_that_may_infer(door: Access, key: str | None, let_in: bool) -> None:
    sent: list[Message] = []
    reached: list[Any] = []

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    headers = [(b"X-Api-Key", key.encode())] if key else []
    scope = {"type": "websocket", "path": "/x", "headers": headers}
    asyncio.run(Authentication(inside, door)(scope, receive, send))
    assert (len(reached), sent) == ((1, []) if let_in else (0, [{"type": "websocket.close", "code": 1008}]))


# --- rate limits ----------------------------------------------------------------------------------


def test_a_key_without_limits_asks_nobody(door: Access, here: Here) -> None:
    answer = get(Authentication(hello, door), "/v1/x", {"x-api-key": KEY})
    assert answer.headers["metered"] == "False"
    assert not any(name.startswith("x-ratelimit") for name in answer.headers)
    assert here.num_calls == 0


def test_a_key_with_limits_is_told_what_is_left_and_then_refused(door: Access) -> None:
    async def ask_thrice() -> list[httpx.Response]:
        app = Authentication(hello, door)
        return [await ask(app, "/v1/x", {"x-api-key": LIMITED}) for _ in range(3)]

    first, second, third = asyncio.run(ask_thrice())
    assert first.headers["x-ratelimit-remaining-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-tokens"] == "100"
    assert first.headers["metered"] == "True"
    assert second.headers["x-ratelimit-remaining-tokens"] == "40"
    assert (third.status_code, third.headers["x-ratelimit-remaining-tokens"]) == (429, "0")
    assert third.headers["retry-after"] == "13"  # 21 tokens at 100 a minute
    error = third.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "100 tokens a minute" in error["message"]


def test_what_a_broken_answer_has_cost_is_charged_too(door: Access, here: Here) -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        count_tokens(scope, 130)
        raise ConnectionError("gone")

    async def ask_twice() -> httpx.Response:
        with pytest.raises(ConnectionError):
            await ask(Authentication(breaks, door), "/v1/x", {"x-api-key": LIMITED})
        return await ask(Authentication(hello, door), "/v1/x", {"x-api-key": LIMITED})

    assert asyncio.run(ask_twice()).status_code == 429


# --- where keys come from -------------------------------------------------------------------------


def read(tmp_path: Path, keys: str) -> settings.Settings:
    return settings.read({"MIZZEN_HOME": str(tmp_path), "MIZZEN_API_KEYS": keys})


def test_a_replica_that_nobody_has_told_of_keys_refuses_to_start(tmp_path: Path) -> None:
    here = read(tmp_path, "")
    with pytest.raises(ServingError, match=r"no API keys.*MIZZEN_API_KEYS=store"):
        access("shop", here, here.store_url)


def test_only_the_word_for_it_makes_a_replica_ask_for_no_key(tmp_path: Path) -> None:
    here = read(tmp_path, "none")
    assert access("shop", here, here.store_url) is None


def test_keys_come_from_a_folder_or_from_the_store(tmp_path: Path) -> None:
    (tmp_path / "team").write_text(KEY)
    here = read(tmp_path, str(tmp_path))
    found = access("shop", here, here.store_url)
    assert found is not None
    assert found.keys.find([KEY.encode()]) == Grant("team")
    here = read(tmp_path / "home", "store")
    token = Keys(Objects(here.store_url)).create("team", Rights()).token
    found = access("shop", here, here.store_url)
    assert found is not None
    assert found.keys.find([token.encode()]) == Grant("team")


@pytest.mark.parametrize("value", ["", "none"])
def test_nothing_is_served_to_others_without_keys(tmp_path: Path, value: str) -> None:
    here = read(tmp_path, value)
    assert check(here, here.store_url, only_here=True) == "none"
    with pytest.raises(ServingError, match=r"everybody who reaches.*mizzen keys create NAME"):
        check(here, here.store_url, only_here=False)


@pytest.mark.parametrize("only_here", [True, False])
def test_keys_that_are_asked_for_must_be_there(tmp_path: Path, only_here: bool) -> None:
    for value in ("store", str(tmp_path / "keys")):
        here = read(tmp_path, value)
        with pytest.raises(ServingError, match="there is no API key in"):
            check(here, here.store_url, only_here=only_here)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "team").write_text(KEY)
    assert check(here, here.store_url, only_here=only_here) == str(tmp_path / "keys")
