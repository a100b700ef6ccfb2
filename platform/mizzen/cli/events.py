"""What happened to a run and when, for `mizzen runs show` and `mizzen jobs show`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

from mizzen.cli import output

if TYPE_CHECKING:
    from mizzen.store.runs import Event


def show(events: Sequence[Event]) -> None:
    """A table on stdout, the oldest first; nothing if nothing has happened."""
    if events:
        rows = [
            [f"{event.time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC", event.kind, event.text]
            for event in events
        ]
        output.show_table("\nwhat happened", ["when", "what", ""], rows)


def for_scripts(events: Sequence[Event]) -> list[dict[str, Any]]:
    """As JSON."""
    return [event.model_dump(mode="json") for event in events]
