"""API keys in the store: made, listed and revoked by people, and read by endpoints.

    keys/3f9a0c71b2de.json           a key's rights and its salted hash; never changed
    keys/3f9a0c71b2de.revoked.json   that it is not valid any more

Both are created only if they are not there, so any store will do that has conditional creates, and two
admins at once cannot undo each other's work. The key itself, `mz_<id>_<secret>`, is shown once and kept
nowhere.

Why a fast hash: slow ones (argon2, scrypt) make up for secrets that people choose, which can be guessed.
Here the secret is 256 random bits; nobody can try even a sliver of them, at any speed. A slow hash would
only let strangers make us work. The salt keeps equal hashes from telling anything, and BLAKE2b is keyed
to this use (RFC 7693). Whether an endpoint lets a key in is decided in `serving`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError

from mizzen.errors import InputError, IntegrityError, NotFoundError
from mizzen.store import audit
from mizzen.store.manifest import NAME_PATTERN, Record
from mizzen.store.objects import AbsentError, Objects, TakenError

FOLDER = "keys"
ID_PATTERN = r"^[0-9a-f]{12}$"
TOKEN = re.compile(rb"mz_(?P<id>[0-9a-f]{12})_[0-9a-f]{64}")
"""What a key looks like: 48 random bits that name it, and 256 that prove it."""
AT_ONCE = 16
"""Records that are read at the same time."""
_PERSON = b"mizzen-api-key"

Action = Literal["infer", "feedback", "read", "metrics"]
ACTIONS: tuple[Action, ...] = ("infer", "feedback", "read", "metrics")
"""What a key can be allowed to do: ask the model, send feedback, read what the endpoint says of itself
(models, examples, documentation), read `/metrics`."""
State = Literal["active", "expired", "revoked"]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]+$")]
R = TypeVar("R", bound=Record)


class Rights(Record):
    """What a key may do."""

    apps: tuple[Annotated[str, Field(pattern=NAME_PATTERN)], ...] = ()
    """Applications by their names in the serve file; empty: all of them."""
    actions: tuple[Action, ...] = ()
    """Empty: all."""
    expires_at: AwareDatetime | None = None
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)


class KeyRecord(Rights):
    """A key as the store has it. Fields that a later Mizzen has added are passed over."""

    model_config = ConfigDict(extra="ignore")

    id: str = Field(pattern=ID_PATTERN)
    name: str = Field(pattern=NAME_PATTERN)
    salt: Hex
    hash: Hex
    created_at: AwareDatetime
    created_by: str

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and now >= self.expires_at

    def proves(self, token: bytes) -> bool:
        """Whether `token` is this key; how long it takes does not tell how much of it is right."""
        return hmac.compare_digest(digest(token, bytes.fromhex(self.salt)), bytes.fromhex(self.hash))


class Revocation(Record):
    """That a key is not valid any more."""

    model_config = ConfigDict(extra="ignore")

    revoked_at: AwareDatetime
    revoked_by: str


@dataclass(frozen=True)
class NewKey:
    """A key that was just made."""

    token: str
    """The key itself, for whoever is to have it; it is written nowhere."""
    record: KeyRecord


@dataclass(frozen=True)
class ListedKey:
    """A key with its state."""

    record: KeyRecord
    revocation: Revocation | None

    def state(self, now: datetime) -> State:
        """Whether it is accepted."""
        if self.revocation is not None:
            return "revoked"
        return "expired" if self.record.expired(now) else "active"


def digest(token: bytes, salt: bytes) -> bytes:
    """The salted hash of a key."""
    return hashlib.blake2b(token, salt=salt, person=_PERSON, digest_size=32).digest()


class Keys:
    """The API keys of a store. Every method raises `StoreError` if the store cannot be reached."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    def create(self, name: str, rights: Rights) -> NewKey:
        """Make a key. Raises `InputError` if its name or its expiry is wrong; nothing is made then."""
        if not re.fullmatch(NAME_PATTERN, name):
            allowed = "1 to 47 lower-case letters, digits and dashes, no dash first or last"
            raise InputError("a key's name is wrong", saw=repr(name), allowed=allowed)
        now = datetime.now(UTC)
        if rights.expires_at is not None and rights.expires_at <= now:
            raise InputError(
                "the key would be expired from the start",
                saw=rights.expires_at.isoformat(),
                allowed=f"a time after {now.isoformat(timespec='seconds')}",
            )
        key_id, salt = secrets.token_hex(6), secrets.token_bytes(16)
        token = f"mz_{key_id}_{secrets.token_hex(32)}"
        record = KeyRecord(
            **rights.model_dump(),
            id=key_id,
            name=name,
            salt=salt.hex(),
            hash=digest(token.encode(), salt).hex(),
            created_at=now,
            created_by=audit.somebody(),
        )
        with audit.recorded(self.objects, "key.create", key_id, _facts(record)):
            self._create(record)
        return NewKey(token, record)

    def all(self) -> list[ListedKey]:
        """All keys, revoked ones too, the oldest first. Raises `IntegrityError` for a damaged one."""
        names = self.objects.names(FOLDER)
        ids = [name.removesuffix(".json") for name in names if _is_record(name)]
        revoked = self.revoked(names)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(lambda key: ListedKey(self.read(key), self._revocation(key, revoked)), ids)
            return sorted(found, key=lambda one: one.record.created_at)

    def revoke(self, key_id: str) -> ListedKey:
        """Have a key refused from now on; doing it again changes nothing. Raises `NotFoundError`."""
        record = self.read(key_id)
        wanted = Revocation(revoked_at=datetime.now(UTC), revoked_by=audit.somebody())
        with audit.recorded(self.objects, "key.revoke", key_id, {"name": record.name}):
            try:
                self.objects.create(_revoked_key(key_id), (wanted.model_dump_json() + "\n").encode())
            except TakenError:
                wanted = _parsed(Revocation, self.objects, _revoked_key(key_id))
        return ListedKey(record, wanted)

    def read(self, key_id: str) -> KeyRecord:
        """One key. Raises `NotFoundError`, and `IntegrityError` for one that is damaged."""
        if re.fullmatch(ID_PATTERN, key_id):
            try:
                record = _parsed(KeyRecord, self.objects, f"{FOLDER}/{key_id}.json")
            except AbsentError:
                pass
            else:
                if record.id == key_id:
                    return record
                raise IntegrityError(
                    f"{self.objects.url}/{FOLDER}/{key_id}.json is the record of another key",
                    saw=record.id,
                    remedy="Remove this object from the store.",
                )
        raise NotFoundError(
            f"{self.objects.url} has no API key with this id",
            allowed="12 hexadecimal digits: those between mz_ and the next _ in a key",
            remedy="`mizzen keys list` names them.",
        )

    def names(self) -> list[str]:
        """The objects that make up all keys: one request to the store; see `ids` and `revoked`."""
        return self.objects.names(FOLDER)

    @staticmethod
    def ids(names: list[str]) -> set[str]:
        """Ids of the keys among `names` that are not revoked."""
        return {name.removesuffix(".json") for name in names if _is_record(name)} - Keys.revoked(names)

    @staticmethod
    def revoked(names: list[str]) -> set[str]:
        """Ids of the keys among `names` that are revoked."""
        return {name.removesuffix(".revoked.json") for name in names if name.endswith(".revoked.json")}

    def _create(self, record: KeyRecord) -> None:
        key = f"{FOLDER}/{record.id}.json"
        try:
            self.objects.create(key, (record.model_dump_json(indent=1) + "\n").encode())
        except TakenError:
            # Either 48 random bits came twice, or our own write went through and its answer was lost.
            if self.read(record.id) != record:
                raise

    def _revocation(self, key_id: str, revoked: set[str]) -> Revocation | None:
        return _parsed(Revocation, self.objects, _revoked_key(key_id)) if key_id in revoked else None


def _facts(record: KeyRecord) -> dict[str, str | int]:
    limits = {
        "requests_per_minute": record.requests_per_minute,
        "tokens_per_minute": record.tokens_per_minute,
    }
    return {
        "name": record.name,
        "apps": ",".join(record.apps) or "all",
        "actions": ",".join(record.actions) or "all",
        "expires_at": record.expires_at.isoformat() if record.expires_at else "never",
        **{name: value for name, value in limits.items() if value is not None},
    }


def _is_record(name: str) -> bool:
    return re.fullmatch(ID_PATTERN, name.removesuffix(".json")) is not None and name.endswith(".json")


def _revoked_key(key_id: str) -> str:
    return f"{FOLDER}/{key_id}.revoked.json"


def _parsed(kind: type[R], objects: Objects, key: str) -> R:
    try:
        return kind.model_validate_json(objects.read(key))
    except ValidationError as cause:
        raise IntegrityError(
            f"{objects.url}/{key} is not what it should be ({cause.error_count()} fields are wrong)",
            remedy="Remove this object from the store; a key in it is not accepted.",
        ) from None
