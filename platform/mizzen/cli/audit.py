"""`mizzen audit`: who did what in the store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from mizzen.cli import output
from mizzen.cli.moments import back


def audit(
    since: Annotated[
        str | None, typer.Option(metavar="7d|DATE", help="How far to look back. Default: to the beginning.")
    ] = None,
    json: output.JsonOption = False,
) -> None:
    """Show who made and revoked keys, moved aliases, published versions, stopped and deleted jobs.

    Example: [bold]mizzen audit --since 7d[/bold]
    """
    from mizzen.settings import current
    from mizzen.store import audit
    from mizzen.store.objects import Objects

    start = back(since, datetime.now(UTC)) if since else None
    found = audit.entries(Objects(current().store_url), start)
    if json:
        output.show_json([entry.model_dump(mode="json") for entry in found])
        return
    output.show_table(
        "",
        ["when", "who", "what", "to", "outcome", "details"],
        [
            [
                f"{entry.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
                entry.by,
                entry.action,
                entry.target,
                f"{entry.outcome} ({entry.error})" if entry.error else entry.outcome,
                ", ".join(f"{name} {value}" for name, value in entry.details.items() if value != ""),
            ]
            for entry in found
        ],
    )
