"""`mizzen keys`: API keys in the store, for endpoints that run with `MIZZEN_API_KEYS=store`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mizzen.cli import output
from mizzen.cli.moments import ahead

if TYPE_CHECKING:
    from mizzen.store.keys import Keys, ListedKey

app = typer.Typer(help="Make, list and revoke the API keys that endpoints ask for.", no_args_is_help=True)


def _keys() -> Keys:
    from mizzen.settings import current
    from mizzen.store.keys import Keys
    from mizzen.store.objects import Objects

    return Keys(Objects(current().store_url))


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what it is for.")],
    apps: Annotated[
        list[str] | None,
        typer.Option("--app", help="An application that it may use; may be repeated. Default: all."),
    ] = None,
    actions: Annotated[
        list[str] | None,
        typer.Option(
            "--action",
            help="What it may do: infer, feedback, read, metrics; may be repeated. Default: all.",
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="30d|DATE", help="When it ends. Default: never.")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Over all replicas. Default: no limit.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Over all replicas. Default: no limit.")
    ] = None,
    json: output.JsonOption = False,
) -> None:
    """Make a key and show it, once: only its hash is kept. Endpoints accept it within seconds.

    Example: [bold]mizzen keys create shop --app recommendation --action infer --expires 90d > shop.key[/bold]
    """
    from mizzen.errors import InputError
    from mizzen.files import validate
    from mizzen.store.keys import Rights

    rights = {
        "apps": apps or [],
        "actions": actions or [],
        "expires_at": ahead(expires, datetime.now(UTC)) if expires else None,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
    }
    made = _keys().create(name, validate(Rights, rights, InputError, "the key"))
    if json:
        output.show_json({"key": made.token, **_facts(made.record)})
        return
    print(made.token)
    output.say(f"the key {made.record.name!r} has the id {made.record.id}; it is not shown again")


@app.command("list")
def list_(json: output.JsonOption = False) -> None:
    """List the keys with what they may do, revoked and expired ones too; never the keys themselves.

    Example: [bold]mizzen keys list[/bold]
    """
    now = datetime.now(UTC)
    found = _keys().all()
    if json:
        output.show_json([_listed(one, now) for one in found])
        return
    output.show_table(
        "",
        [
            "id",
            "name",
            "state",
            "apps",
            "actions",
            "requests/min#",
            "tokens/min#",
            "expires",
            "created",
            "by",
        ],
        [
            [
                one.record.id,
                one.record.name,
                one.state(now),
                ", ".join(one.record.apps) or "all",
                ", ".join(one.record.actions) or "all",
                one.record.requests_per_minute,
                one.record.tokens_per_minute,
                _time(one.record.expires_at),
                _time(one.record.created_at),
                one.record.created_by,
            ]
            for one in found
        ],
    )


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `mizzen keys list` names it.")],
) -> None:
    """Have a key refused, for good: everywhere within seconds.

    Example: [bold]mizzen keys revoke 3f9a0c71b2de[/bold]
    """
    revoked = _keys().revoke(key_id)
    when = revoked.revocation.revoked_at if revoked.revocation else None
    output.out.print(f"{revoked.record.id} ({revoked.record.name}) is revoked since {_time(when)}")


def _facts(record: Any) -> dict[str, Any]:
    facts: dict[str, Any] = record.model_dump(mode="json", exclude={"salt", "hash"})
    return facts


def _listed(one: ListedKey, now: datetime) -> dict[str, Any]:
    revocation = one.revocation.model_dump(mode="json") if one.revocation else {}
    return {**_facts(one.record), "state": one.state(now), **revocation}


def _time(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if moment else ""
