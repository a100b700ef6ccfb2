"""API keys from the store, as a replica keeps them: known by their ids, and looked up again all the time.

Every `REFRESH_S` it asks the store which keys there are, which is one request, and reads those that are new:
records never change. So a new key, and a revocation, take effect within that time and the store's answer.
Expiry needs no store. While the store is away the last known keys go on; that is logged once.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from mizzen.errors import AuthenticationError, IntegrityError, NotFoundError, ServingError, StoreError
from mizzen.serving.access import MAX_GIVEN, Grant
from mizzen.serving.limits import Limit
from mizzen.store.keys import AT_ONCE, TOKEN, KeyRecord, Keys
from mizzen.store.objects import Objects

logger = logging.getLogger(__name__)

REFRESH_S = 5.0


class StoredKeys:
    """The keys of a store, as it is now or was at most `REFRESH_S` before it answered last."""

    def __init__(self, url: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Raises `ServingError` if there is no key that is valid, `StoreError` if it cannot be reached."""
        self._keys = Keys(Objects(url))
        self._now = now
        self._known: Mapping[str, tuple[KeyRecord, Grant]] = {}
        """By id; replaced as a whole, for requests look into it while another thread refreshes."""
        self._damaged: set[str] = set()
        self._away = False
        self._ended = threading.Event()
        self._nobody = _nobody()
        self._read()
        if all(record.expired(now()) for record, _ in self._known.values()):
            raise ServingError(
                f"there is no API key in {self._keys.objects.url}, so nobody could use the endpoints",
                saw=f"{len(self._known)} that are not revoked, all of them expired" if self._known else None,
                remedy="Make one with `mizzen keys create NAME`.",
            )

    def follow(self) -> None:
        """Ask the store again and again from now on, in a thread, until `close`."""
        threading.Thread(target=self._follow, name="api-keys", daemon=True).start()

    def find(self, given: Sequence[bytes]) -> Grant | None:
        """See `access.ApiKeys`: a key costs one hash and one comparison, whether its id is known or not."""
        for token in given[:MAX_GIVEN]:
            match = TOKEN.fullmatch(token)
            record, grant = self._known.get(match["id"].decode() if match else "", (self._nobody, None))
            # What does not look like a key is not hashed: how it looks is no secret, its length may be large.
            if not record.proves(token if match else b"") or grant is None:
                continue
            if record.expired(self._now()):
                raise AuthenticationError(
                    "the API key has expired",
                    saw=record.expires_at.isoformat(timespec="seconds") if record.expires_at else None,
                    remedy="Ask for a new one: `mizzen keys create` makes it.",
                )
            return grant
        return None

    def refresh(self) -> None:
        """Ask the store again. Nothing that is wrong with it is raised."""
        before = set(self._known)
        try:
            self._read()
        except StoreError as cause:
            if not self._away:
                logger.error(
                    "API keys are not looked up until the store answers; those known go on: %s", cause
                )
            self._away = True
            return
        if self._away:
            logger.info("the store answers again")
        self._away = False
        if before != set(self._known):
            logger.info("API keys have changed: %d are accepted", len(self._known))

    def close(self) -> None:
        """Look no more."""
        self._ended.set()

    def _follow(self) -> None:
        while not self._ended.wait(REFRESH_S):
            try:
                self.refresh()
            except Exception:
                # Whatever it is: if this thread ended, keys that are revoked would be let in for ever.
                logger.exception("API keys could not be looked up; they are again in %.0f s", REFRESH_S)

    def _read(self) -> None:
        names = self._keys.names()
        if self._known and not names:
            # Keys are revoked by one more object, never by taking objects away: this is not the store that we
            # knew, but the bare folder under a volume that is not mounted, say.
            raise StoreError("the store has no keys at all any more, though nobody takes them away")
        ids = Keys.ids(names)
        # Withdrawn keys go first: reading the new ones may take longer, or fail.
        self._known = {key_id: known for key_id, known in self._known.items() if key_id in ids}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(self._one, ids - set(self._known) - self._damaged))
        new = {record.id: (record, grant_of(record)) for record in found if record is not None}
        self._known = {**self._known, **new}

    def _one(self, key_id: str) -> KeyRecord | None:
        try:
            return self._keys.read(key_id)
        except IntegrityError as cause:
            logger.error("%s", cause)
            self._damaged.add(key_id)
        except NotFoundError:
            logger.warning("the API key %s went while it was read", key_id)
        return None


def grant_of(record: KeyRecord) -> Grant:
    """What a key may do."""
    limits = (record.requests_per_minute, record.tokens_per_minute)
    limit = Limit(record.id, *limits) if any(limits) else None
    return Grant(record.name, frozenset(record.apps), frozenset(record.actions), limit)


def _nobody() -> KeyRecord:
    """A record that no key fits: an id that nobody has costs what a known one does."""
    now = datetime.now(UTC)
    return KeyRecord(
        id=secrets.token_hex(6),
        name="nobody",
        salt=secrets.token_hex(16),
        hash=secrets.token_hex(32),
        created_at=now,
        created_by="",
    )
