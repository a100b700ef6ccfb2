"""What an API key may do."""

from __future__ import annotations

import pytest

from mizzen.errors import ForbiddenError
from mizzen.serving.access import Grant, action_of, check_scope


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("POST", "/v1/add", "infer"),
        ("POST", "/v2/models/m/infer", "infer"),
        ("POST", "/v1/feedback", "feedback"),
        ("POST", "/v1/feedback/", "feedback"),
        ("POST", "/v1/items/feedback", "infer"),
        ("POST", "/metrics/", "infer"),
        ("PUT", "/v1/add", "infer"),
        ("DELETE", "/v1/add", "infer"),
        ("BREW", "/v1/add", "infer"),
        ("GET", "/v1/models", "read"),
        ("HEAD", "/docs", "read"),
        ("GET", "/openapi.json", "read"),
        ("GET", "/examples", "read"),
        ("GET", "/v1/feedback", "read"),
        ("GET", "/metrics", "metrics"),
        ("GET", "/metrics\n", "metrics"),
        ("POST", "/v1/feedback\n", "feedback"),
        ("POST", "/metrics", "metrics"),
    ],
)
def test_the_action_follows_from_the_route(method: str, path: str, action: str) -> None:
    assert action_of(method, path) == action


def test_a_key_without_scopes_may_do_everything() -> None:
    for action in ("infer", "feedback", "read", "metrics"):
        check_scope(Grant("team"), "chat", action)  # type: ignore[arg-type] # each is one


def test_what_is_in_scope_is_let_through() -> None:
    check_scope(Grant("team", frozenset({"chat", "films"}), frozenset({"infer"})), "films", "infer")


@pytest.mark.parametrize(
    ("grant", "lacks"),
    [
        (
            Grant("team", apps=frozenset({"films"})),
            r"lacks the app 'chat' \(--app chat\);.*apps films; actions all",
        ),
        (
            Grant("team", actions=frozenset({"read", "feedback"})),
            r"lacks the action 'infer' \(--action infer\);.*apps all; actions feedback, read",
        ),
        (
            Grant("team", frozenset({"films"}), frozenset({"read"})),
            r"lacks the app 'chat' \(--app chat\) and the action 'infer' \(--action infer\);",
        ),
    ],
)
def test_what_is_missing_is_named(grant: Grant, lacks: str) -> None:
    with pytest.raises(ForbiddenError, match=lacks):
        check_scope(grant, "chat", "infer")
