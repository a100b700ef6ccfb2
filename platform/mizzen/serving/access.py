"""What an API key may do: actions by route, scopes, and what every source of keys answers.

It reads no keys (`key_folder`, `key_store`) and limits no rates (`limits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mizzen.errors import ForbiddenError
from mizzen.serving.limits import Limit
from mizzen.store.keys import ACTIONS, Action

MAX_GIVEN = 4
"""Keys of one request that are looked at: headers can be repeated, and each key costs a hash."""
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Grant:
    """A key that was accepted, with what it may do."""

    name: str
    apps: frozenset[str] = frozenset()
    """Empty: all."""
    actions: frozenset[Action] = frozenset()
    """Empty: all."""
    limit: Limit | None = None
    """None: as much as the endpoint can do."""


class ApiKeys(Protocol):
    """Keys from somewhere."""

    def find(self, given: Sequence[bytes]) -> Grant | None:
        """What the first good key among `given` may do; None if there is none.

        It does not block, and takes as long for a key that is unknown as for one that is wrong.
        Raises `AuthenticationError` for a key that is right, but whose time is over.
        """
        ...


def action_of(method: str, path: str) -> Action:
    """What a request does, by its route; `path` is below the application's route prefix."""
    # Starlette's patterns end with `$`, which lets one line feed pass: `/metrics%0A` is a route, too.
    path = path.removesuffix("\n")
    if path == "/metrics":
        return "metrics"
    if method in _READS:
        return "read"
    return "feedback" if path.rstrip("/") == "/v1/feedback" else "infer"


def check_scope(grant: Grant, app: str, action: Action) -> None:
    """Raise `ForbiddenError` if the key may not do this here; it names the scope that is missing."""
    missing = []
    if grant.apps and app not in grant.apps:
        missing.append(f"the app {app!r} (--app {app})")
    if grant.actions and action not in grant.actions:
        missing.append(f"the action {action!r} (--action {action})")
    if missing:
        apps = ", ".join(sorted(grant.apps)) or "all"
        actions = ", ".join(one for one in ACTIONS if one in grant.actions) or "all"
        raise ForbiddenError(
            f"the API key {grant.name!r} may not do this: it lacks {' and '.join(missing)}",
            allowed=f"apps {apps}; actions {actions}",
            remedy="Ask for a key with this scope: `mizzen keys create` makes one.",
        )
