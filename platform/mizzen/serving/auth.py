"""Who is let through to an application: API keys, their scopes and their rate limits, in that order.

Keys come in headers only: what stands in a URL ends up in logs. Where keys are, `key_folder` and `key_store`
know; what they may do, `access`; how much, `limits` and `limiter`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mizzen.errors import AuthenticationError, ForbiddenError, ServingError
from mizzen.serving.access import ApiKeys, action_of, check_scope
from mizzen.serving.key_folder import KeyFolder
from mizzen.serving.key_store import StoredKeys
from mizzen.serving.limiter import ActorChannel, SharedLimits
from mizzen.serving.limits import Limit, Verdict
from mizzen.serving.middleware import KEY_NAME, relative_path, send_reply
from mizzen.serving.replies import Reply
from mizzen.settings import Settings
from mizzen.store.keys import Action
from mizzen.workloads.contract import METER, Meter

OPEN = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""Paths below the route prefix that need no key: a kubelet or a load balancer has none."""


@dataclass(frozen=True)
class Access:
    """What decides over the requests of one application in this replica."""

    app: str
    """The application's name in the serve file: scopes are given by it."""
    keys: ApiKeys
    limits: SharedLimits


def access(app: str, settings: Settings, store_url: str) -> Access | None:
    """What `MIZZEN_API_KEYS` asks for; None if it says `none`. It blocks, for it may ask the store.

    Raises `ServingError` if nobody has said anything, or if there is no key.
    """
    keys = _keys(settings.api_keys, store_url)
    if keys is None:
        return None
    if isinstance(keys, StoredKeys):
        keys.follow()
    return Access(app, keys, SharedLimits(ActorChannel()))


def check(settings: Settings, store_url: str, *, only_here: bool) -> str:
    """What `MIZZEN_API_KEYS` has to be where replicas run, if all is well with the keys.

    `only_here`: only this machine reaches the endpoints, so keys may be left out.
    Raises `ServingError` if others reach them and no key is asked for, or if there is no key.
    """
    where = settings.api_keys
    if only_here and where is None:
        where = "none"
    if where == "none" and not only_here:
        where = None  # nobody opens a server to the network by a word in its environment
    keys = _keys(where, store_url)
    return str(where) if keys is not None else "none"


def _keys(where: Path | str | None, store_url: str) -> KeyFolder | StoredKeys | None:
    if where is None:
        raise ServingError(
            "there are no API keys, and everybody who reaches the endpoints could use them",
            allowed="MIZZEN_API_KEYS=store (keys that `mizzen keys` makes), or a folder with one key a file",
            remedy="Make a key with `mizzen keys create NAME` and set MIZZEN_API_KEYS=store.",
        )
    if where == "none":
        return None
    return KeyFolder(where) if isinstance(where, Path) else StoredKeys(store_url)


class Authentication:
    """Lets a request through if its key (`Authorization: Bearer KEY` or `X-API-Key: KEY`) may do it.

    Else 401, 403 or 429. It stands before everything that reads the body or waits, and inside of what counts.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        path = relative_path(scope) if scope["type"] == "http" else ""
        if scope["type"] != "http" or path in OPEN:
            await self.app(scope, receive, send)
            return
        limit = self._limit(scope, action_of(scope["method"], path))
        if limit is None:
            await self.app(scope, receive, send)
        else:
            await self._limited(limit, scope, receive, send)

    def _limit(self, scope: Scope, action: Action) -> Limit | None:
        """What bounds this request; raises if it may not be asked at all."""
        given = _given(scope["headers"])
        grant = self.access.keys.find(given)
        if grant is None:
            raise _refusal(given)
        scope[KEY_NAME] = grant.name
        check_scope(grant, self.access.app, action)
        return grant.limit

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            limit = self._limit(scope, "infer")
            refused = limit is not None and (await self.access.limits.take(limit)).refused is not None
        except (AuthenticationError, ForbiddenError):
            refused = True
        if refused:
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, send)

    async def _limited(self, limit: Limit, scope: Scope, receive: Receive, send: Send) -> None:
        verdict = await self.access.limits.take(limit)
        told = [(name.encode(), value.encode()) for name, value in verdict.headers().items()]

        async def send_told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *told]}
            await send(message)

        if verdict.refused is not None:
            await send_reply(_too_much(limit, verdict), scope, send_told)
            return
        if limit.tokens_per_minute is None:
            await self.app(scope, receive, send_told)
            return
        meter = scope[METER] = Meter()
        try:
            await self.app(scope, receive, send_told)
        finally:
            if meter.num_tokens:
                self.access.limits.charge(limit, meter.num_tokens)


def _given(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    found = []
    for name, value in headers:
        match name.lower():
            case b"x-api-key":
                found.append(value.strip())
            case b"authorization":
                scheme, _, key = value.strip().partition(b" ")
                if scheme.lower() == b"bearer":
                    found.append(key.strip())
    return found


def _refusal(given: list[bytes]) -> AuthenticationError:
    remedy = "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`, with a key of this endpoint."
    if given:
        return AuthenticationError("the API key is not accepted", remedy=remedy)
    return AuthenticationError("an API key is needed", remedy=remedy)


def _too_much(limit: Limit, verdict: Verdict) -> Reply:
    tokens = verdict.refused == "tokens"
    allowed = limit.tokens_per_minute if tokens else limit.requests_per_minute
    wait_s = max(1, -int(-verdict.wait_s // 1))
    return Reply(
        429,
        f"the rate limit of this API key is reached; allowed: {allowed} {verdict.refused} a minute."
        " Try again after the time in Retry-After.",
        code="rate_limit_exceeded",
        headers={"retry-after": str(wait_s)},
        reason="rate_limit",
    )
