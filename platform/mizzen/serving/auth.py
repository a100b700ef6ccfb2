"""API keys: which requests are let through, and the folder in which the keys lie.

One key a file, the file's name being the key's, as Kubernetes mounts a Secret. The folder is looked at again
while it serves, so keys are added and withdrawn without a restart. Keys are kept as hashes only, and never
logged. It knows no users and no rights: whoever has a key may ask everything.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from mizzen.errors import AuthenticationError, ServingError
from mizzen.serving.middleware import relative_path

logger = logging.getLogger(__name__)

MIN_LENGTH = 16
"""Characters that a key must have at least."""
RECHECK_S = 2.0
"""How old our knowledge of the folder may be when a request comes."""
OPEN = frozenset({"/healthz", "/readyz"})
"""Paths below the route prefix that need no key: a kubelet or a load balancer has none."""
_Signature = tuple[tuple[str, int, int, int], ...]


class ApiKeys:
    """The keys in a folder, as it is now or was at most `RECHECK_S` ago."""

    def __init__(self, folder: Path) -> None:
        """Raises `ServingError` if there is no key, or none that is long enough to be safe."""
        self.folder = folder
        signature = _signature(folder)
        keys, unreadable = _read(folder)
        self._signature = None if unreadable else signature
        good = [key for key in keys.values() if len(key) >= MIN_LENGTH]
        short = sorted(name for name, key in keys.items() if len(key) < MIN_LENGTH)
        if short and not good:
            raise ServingError(
                f"the API key {short[0]!r} in {folder} is too short",
                saw=f"{len(keys[short[0]])} characters",
                allowed=f"{MIN_LENGTH} or more",
                remedy="Make one with `openssl rand -hex 32`.",
            )
        if not good:
            raise ServingError(
                f"there is no API key in {folder}, so nobody could use the endpoints",
                allowed="one file for each key, the file's name being the key's",
                remedy="Put a key there (`openssl rand -hex 32 > FOLDER/NAME`), or unset MIZZEN_API_KEYS.",
            )
        if short:
            _warn_of(short)
        self._hashes = [_hash(key) for key in good]
        self._checked_s = time.monotonic()

    def accept(self, given: Iterable[bytes]) -> bool:
        """Whether one of the keys `given` is ours; how long it takes tells nothing about ours."""
        if time.monotonic() - self._checked_s >= RECHECK_S:
            self.refresh()
        found = False
        for key in given:
            digest = hashlib.sha256(key).digest()
            for known in self._hashes:
                found |= hmac.compare_digest(digest, known)
        return found

    def refresh(self) -> None:
        """Read the folder again if something changed there. A key that is too short is left out."""
        self._checked_s = time.monotonic()
        signature = _signature(self.folder)
        if signature == self._signature:
            return
        keys, unreadable = _read(self.folder)
        # What cannot be read now (no file descriptor is left, say) may be at the next look.
        self._signature = None if unreadable else signature
        short = sorted(name for name, key in keys.items() if len(key) < MIN_LENGTH)
        if short:
            _warn_of(short)
        self._hashes = [_hash(key) for key in keys.values() if len(key) >= MIN_LENGTH]
        if not self._hashes:
            logger.error("%s holds no API key any more: every request is refused", self.folder)
        else:
            logger.info("API keys were read again: %d are accepted", len(self._hashes))


class Authentication:
    """Lets a request through if it has a key (`Authorization: Bearer KEY` or `X-API-Key: KEY`), else 401.

    It stands before everything that reads the body or waits, and inside of what counts.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if relative_path(scope) not in OPEN and not self.keys.accept(_given(scope["headers"])):
                raise _refusal(scope["headers"])
        elif scope["type"] == "websocket" and not self.keys.accept(_given(scope["headers"])):
            await send({"type": "websocket.close", "code": 1008})
            return
        await self.app(scope, receive, send)


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


def _refusal(headers: Iterable[tuple[bytes, bytes]]) -> AuthenticationError:
    remedy = "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`, with a key of this endpoint."
    if _given(headers):
        return AuthenticationError("the API key is not accepted", remedy=remedy)
    return AuthenticationError("an API key is needed", remedy=remedy)


def _warn_of(short: list[str]) -> None:
    logger.error("API keys with fewer than %d characters are not accepted: %s", MIN_LENGTH, short)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _files(folder: Path) -> list[Path]:
    # Kubernetes keeps the real files in folders that begin with dots, and swaps a link to them.
    try:
        return sorted(path for path in folder.iterdir() if path.name[0] != "." and path.is_file())
    except OSError:
        return []


def _signature(folder: Path) -> _Signature:
    found = []
    for path in _files(folder):
        try:
            state = path.stat()
        except OSError:
            continue  # replaced just now: the next look sees it
        found.append((path.name, state.st_ino, state.st_mtime_ns, state.st_size))
    return tuple(found)


def _read(folder: Path) -> tuple[dict[str, str], bool]:
    """The keys by their names, and whether there was one that could not be read."""
    keys, unreadable = {}, False
    for path in _files(folder):
        try:
            keys[path.name] = path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            logger.error("the API key %r is no text", path.name)
        except OSError as cause:
            logger.error("the API key %r cannot be read: %s", path.name, cause.strerror)
            unreadable = True
    return {name: key for name, key in keys.items() if key}, unreadable
