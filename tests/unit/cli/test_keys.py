"""`mizzen keys` and `mizzen audit`, on a store of their own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from mizzen.cli import app
from mizzen.cli.moments import ahead, back
from mizzen.errors import InputError
from mizzen.store.keys import TOKEN

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def show(*arguments: str) -> Any:
    shown = run(*arguments, "--json")
    assert shown.exit_code == 0, shown.output
    return json.loads(shown.stdout)


@pytest.fixture(autouse=True)
def own_home(mizzen_home: Any) -> None:
    """A home with a store of this test's own."""


def test_a_key_is_shown_once_alone_on_standard_output() -> None:
    made = run("keys", "create", "shop")
    token = made.stdout.strip()
    assert TOKEN.fullmatch(token.encode())
    assert "not shown again" in made.stderr
    listed = run("keys", "list")
    (facts,) = show("keys", "list")
    secret = token.rpartition("_")[2]
    assert secret not in listed.output + json.dumps(facts) + run("audit").output
    assert not {"hash", "salt"} & set(facts)


def test_a_key_has_the_rights_that_were_asked_for() -> None:
    made = show(
        "keys", "create", "shop", "--app", "one", "--app", "two", "--action", "infer", "--action", "feedback",
        "--expires", "30d", "--requests-per-minute", "60", "--tokens-per-minute", "9000",
    )  # fmt: skip
    assert made["apps"] == ["one", "two"]
    assert made["actions"] == ["infer", "feedback"]
    assert (made["requests_per_minute"], made["tokens_per_minute"]) == (60, 9000)
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)


def test_a_key_that_is_revoked_is_listed_as_such_and_both_are_in_the_audit_log() -> None:
    made = show("keys", "create", "shop")
    assert [one["state"] for one in show("keys", "list")] == ["active"]
    revoked = run("keys", "revoke", made["id"])
    assert f"{made['id']} (shop) is revoked" in revoked.stdout
    (listed,) = show("keys", "list")
    assert listed["state"] == "revoked"
    assert "@" in listed["revoked_by"]
    told = show("audit", "--since", "1h")
    assert [(one["action"], one["target"]) for one in told] == [
        ("key.create", made["id"]),
        ("key.revoke", made["id"]),
    ]
    assert show("audit", "--since", "2099-01-01") == []
    assert "key.revoke" in run("audit").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Shop",), "a key's name is wrong"),
        (("shop", "--action", "fly"), "'infer', 'feedback', 'read' or 'metrics'"),
        (("shop", "--app", "No!"), "apps.0"),
        (("shop", "--expires", "soon"), "2027-01-31"),
        (("shop", "--expires", "2020-01-01"), "expired from the start"),
    ],
)
def test_what_is_wrong_makes_no_key(arguments: tuple[str, ...], said: str) -> None:
    refused = run("keys", "create", *arguments)
    assert isinstance(refused.exception, InputError)
    assert said in str(refused.exception)
    assert show("keys", "list") == []


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30d", NOW + timedelta(days=30)),
        ("12h", NOW + timedelta(hours=12)),
        ("90m", NOW + timedelta(minutes=90)),
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:00:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_a_time_is_a_span_from_now_or_a_date(text: str, moment: datetime) -> None:
    assert ahead(text, NOW) == moment
    if text[-1] in "dhm":
        assert NOW - back(text, NOW) == moment - NOW
    else:
        assert back(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "d", "30", "30 d", "-1d", "tomorrow", "999999d"])
def test_any_other_time_is_refused(text: str) -> None:
    for moment in (ahead, back):
        with pytest.raises(InputError, match="a time is wrong"):
            moment(text, NOW)
