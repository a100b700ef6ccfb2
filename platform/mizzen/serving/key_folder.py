"""API keys in a folder: one a file, the file's name being the key's, as Kubernetes mounts a Secret.

The folder is looked at again while it serves, so keys are added and withdrawn without a restart. Keys are
kept as hashes only, and never logged. They have all rights and no limits: for scopes, expiry and rate limits
there are keys in the store (`key_store`).
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mizzen.errors import ServingError
from mizzen.serving.access import MAX_GIVEN, Grant

logger = logging.getLogger(__name__)

MIN_LENGTH = 16
"""Characters that a key must have at least."""
RECHECK_S = 2.0
"""How old our knowledge of the folder may be when a request comes."""
_Signature = tuple[tuple[str, int, int, int], ...]


class KeyFolder:
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
        self._hashes = _hashes(keys)
        self._checked_s = time.monotonic()

    def find(self, given: Sequence[bytes]) -> Grant | None:
        """See `access.ApiKeys`: every key is compared with every one of ours."""
        if time.monotonic() - self._checked_s >= RECHECK_S:
            self.refresh()
        found = None
        for key in given[:MAX_GIVEN]:
            digest = hashlib.sha256(key).digest()
            for name, known in self._hashes.items():
                if hmac.compare_digest(digest, known):
                    found = name
        return None if found is None else Grant(found)

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
        self._hashes = _hashes(keys)
        if not self._hashes:
            logger.error("%s holds no API key any more: every request is refused", self.folder)
        else:
            logger.info("API keys were read again: %d are accepted", len(self._hashes))


def _warn_of(short: list[str]) -> None:
    logger.error("API keys with fewer than %d characters are not accepted: %s", MIN_LENGTH, short)


def _hashes(keys: Mapping[str, str]) -> dict[str, bytes]:
    long_enough = {name: key for name, key in keys.items() if len(key) >= MIN_LENGTH}
    return {name: hashlib.sha256(key.encode()).digest() for name, key in long_enough.items()}


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
