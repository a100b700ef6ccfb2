"""Aliases of a model: append-only sequences of moves, the last one in force.

Each move is one object that is created only if its number is free, so this works on stores that have no
compare-and-swap, and the history is kept. It does not ask whether the version may have the alias.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from pydantic import Field, ValidationError

from mizzen.errors import ConflictError, IntegrityError
from mizzen.store.manifest import Record
from mizzen.store.objects import Objects, TakenError, numbered

ATTEMPTS = 100


class AliasMove(Record):
    """One move of an alias."""

    version: int = Field(ge=1)
    previous: int | None
    """The version that had the alias before, None for the first move."""
    moved_at: datetime
    by: str
    reason: str
    claim: str
    """Random; tells a writer whose answer was lost that this move is its own."""


def folder(name: str, alias: str) -> str:
    """Where the moves of an alias lie."""
    return f"models/{name}/aliases/{alias}"


def history(objects: Objects, name: str, alias: str) -> list[AliasMove]:
    """All moves, oldest first; empty if the alias was never set."""
    where = folder(name, alias)
    return [_read(objects, f"{where}/{numbered(number)}") for number in objects.numbers(where)]


def current(objects: Objects, name: str, alias: str) -> AliasMove | None:
    """The move in force, or None."""
    where = folder(name, alias)
    numbers = objects.numbers(where)
    return _read(objects, f"{where}/{numbered(numbers[-1])}") if numbers else None


def next_key(objects: Objects, name: str, alias: str) -> str:
    """Where the next move will lie: while nothing is there, the alias points where it did."""
    where = folder(name, alias)
    return f"{where}/{numbered((objects.numbers(where) or [0])[-1] + 1)}"


def move(objects: Objects, name: str, alias: str, version: int, *, by: str, reason: str) -> AliasMove:
    """Point the alias at `version`; where others move it at the same time, all moves are kept in order.

    A move to the version that has the alias already is not recorded again. Raises `ConflictError`.
    """
    where = folder(name, alias)
    for _ in range(ATTEMPTS):
        numbers = objects.numbers(where)
        last = _read(objects, f"{where}/{numbered(numbers[-1])}") if numbers else None
        if last is not None and last.version == version:
            return last
        wanted = AliasMove(
            version=version,
            previous=last.version if last else None,
            moved_at=datetime.now(UTC),
            by=by,
            reason=reason,
            claim=uuid.uuid4().hex,
        )
        key = f"{where}/{numbered(numbers[-1] + 1 if numbers else 1)}"
        try:
            objects.create(key, (wanted.model_dump_json(indent=2) + "\n").encode())
        except TakenError:
            if _read(objects, key).claim != wanted.claim:
                continue
        return wanted
    raise ConflictError(
        f"the alias {name}@{alias} is being moved by others all the time",
        saw=f"{ATTEMPTS} attempts",
        remedy="Find out who moves it, then try again.",
    )


def _read(objects: Objects, key: str) -> AliasMove:
    try:
        return AliasMove.model_validate_json(objects.read(key))
    except ValidationError as cause:
        raise IntegrityError(
            f"{objects.url}/{key} is not a move of an alias ({cause.error_count()} fields are wrong)",
            remedy="Run `mizzen models verify`; restore this object from a backup.",
        ) from None
