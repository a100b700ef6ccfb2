"""The audit log: who did what in this store, and when; entries are only ever added.

    audit/2026-11-22/101530.123456-5f0c91d2aa40.json          what somebody set out to do
    audit/2026-11-22/101530.123456-5f0c91d2aa40.outcome.json  what became of it

The intent is written first, and an action whose intent cannot be written is not done: so nothing happens
that the log does not tell of. The other order would lose just the actions of those who can break the log.
The outcome comes afterwards and cannot stop what is done already, so an entry without one says no more than
that it was begun. Entries never hold secrets. Whoever may write to the store could still remove objects:
where that matters, give the bucket an object lock or versioning.
"""

from __future__ import annotations

import getpass
import logging
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from mizzen.errors import IntegrityError, MizzenError, StoreError
from mizzen.store.manifest import Record
from mizzen.store.objects import AbsentError, Objects, TakenError

log = logging.getLogger(__name__)

FOLDER = "audit"
AT_ONCE = 16
"""Entries that are read at the same time."""
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_ENTRY = re.compile(r"(?P<time>\d{6}\.\d{6})-[0-9a-f]{12}\.json")

Action = Literal[
    "key.create", "key.revoke", "alias.move", "version.publish", "version.import", "job.cancel", "job.delete"
]
Details = Mapping[str, str | int]


class Intent(Record):
    """What somebody set out to do. Fields that a later Mizzen has added are passed over."""

    model_config = ConfigDict(extra="ignore")

    at: datetime
    by: str
    """`USER@HOST`, as the machine says."""
    action: str
    target: str
    """What it was done to: a key's id, `MODEL@ALIAS`, a model, a job."""
    details: dict[str, str | int] = Field(default_factory=dict)


class Outcome(Record):
    """What became of an intent."""

    model_config = ConfigDict(extra="ignore")

    done: bool
    error: str | None = None
    """Its kind, if it failed: a message might hold more than an audit log should."""
    details: dict[str, str | int] = Field(default_factory=dict)
    """What was not known before, such as the number of a version."""


class Entry(Record):
    """An intent with its outcome, as it is shown."""

    at: datetime
    by: str
    action: str
    target: str
    outcome: Literal["done", "failed", "begun"]
    """`begun`: it was cut off, goes on, or its outcome could not be written."""
    error: str | None
    details: dict[str, str | int]


def somebody() -> str:
    """This user on this machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


@contextmanager
def recorded(
    objects: Objects, action: Action, target: str, details: Details | None = None, *, by: str | None = None
) -> Iterator[dict[str, str | int]]:
    """Do what stands in its context, and keep that it was done; what is put into the dict is kept too.

    Raises `StoreError` before anything is done if the intent cannot be written.
    """
    at = datetime.now(UTC)
    where = f"{FOLDER}/{at:%Y-%m-%d}/{at:%H%M%S.%f}-{uuid.uuid4().hex[:12]}"
    intent = Intent(at=at, by=by or somebody(), action=action, target=target, details=dict(details or {}))
    try:
        _create(objects, f"{where}.json", intent)
    except StoreError as cause:
        raise StoreError(
            f"the audit log cannot be written, so nothing was done ({action} {target}): {cause.what}",
            saw=cause.saw,
            allowed=cause.allowed,
            remedy=cause.remedy,
        ) from None
    learned: dict[str, str | int] = {}
    try:
        yield learned
    except BaseException as failure:
        _conclude(objects, where, Outcome(done=False, error=type(failure).__name__, details=learned))
        raise
    _conclude(objects, where, Outcome(done=True, details=learned))


def note(objects: Objects, action: Action, target: str, details: Details | None = None) -> None:
    """Keep that something was done already; where that fails, say so and go on.

    For what must not wait for a store, such as stopping a job that costs money.
    """
    try:
        with recorded(objects, action, target, details):
            pass
    except StoreError as cause:
        log.warning("%s %s is missing in the audit log: %s", action, target, cause)


def entries(objects: Objects, since: datetime | None = None) -> list[Entry]:
    """Everything since then, the oldest first. An entry that cannot be understood is named in our log."""
    earliest = since.astimezone(UTC) if since else datetime.min.replace(tzinfo=UTC)
    days = [day for day in objects.folders(FOLDER) if _DAY.fullmatch(day)]
    found: list[tuple[str, bool]] = []
    for day in days:
        if day < f"{earliest:%Y-%m-%d}":
            continue
        names = set(objects.names(f"{FOLDER}/{day}"))
        for name in sorted(names):
            if (
                match := _ENTRY.fullmatch(name)
            ) and f"{day} {match['time']}" >= f"{earliest:%Y-%m-%d %H%M%S.%f}":
                stem = name.removesuffix(".json")
                found.append((f"{FOLDER}/{day}/{stem}", f"{stem}.outcome.json" in names))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        read = pool.map(lambda one: _entry(objects, *one), found)
        return [entry for entry in read if entry is not None]


def _entry(objects: Objects, where: str, has_outcome: bool) -> Entry | None:
    try:
        intent = Intent.model_validate_json(objects.read(f"{where}.json"))
        outcome = Outcome.model_validate_json(objects.read(f"{where}.outcome.json")) if has_outcome else None
    except (AbsentError, ValidationError, IntegrityError):
        log.warning("%s/%s is no entry of the audit log", objects.url, where)
        return None
    return Entry(
        at=intent.at,
        by=intent.by,
        action=intent.action,
        target=intent.target,
        outcome="begun" if outcome is None else "done" if outcome.done else "failed",
        error=outcome.error if outcome else None,
        details={**intent.details, **(outcome.details if outcome else {})},
    )


def _conclude(objects: Objects, where: str, outcome: Outcome) -> None:
    try:
        _create(objects, f"{where}.outcome.json", outcome)
    except MizzenError as cause:
        log.warning("the outcome of an action is missing in the audit log: %s", cause)


def _create(objects: Objects, key: str, record: Record) -> None:
    try:
        objects.create(key, (record.model_dump_json() + "\n").encode())
    except TakenError:
        return  # our own write, whose answer was lost: nobody else has this name
