"""Whether two answers are the same, as far as versions can give the same one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mizzen.serving.compare import Answer, same


def answer(content: Any, status: int = 200, kind: str = "application/json") -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Answer(status, kind, body)


def agree(one: Any, other: Any, tolerance: float = 0.001) -> bool:
    found = same(answer(one), answer(other), tolerance)
    assert same(answer(other), answer(one), tolerance) == found
    return found


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ({"a": 1000}, {"a": 1000.9}, True),
        ({"a": 1000}, {"a": 1002}, False),
        ({"a": 1e-9}, {"a": -1e-9}, True),
        ({"a": True}, {"a": 1}, True),
        ({"a": True}, {"a": False}, False),
        ({"a": float("nan")}, {"a": float("nan")}, True),
        ({"a": "x"}, {"a": "y"}, False),
        ({"a": None}, {"a": 0}, False),
        ([1, 2], [1, 2, 3], False),
        ([[1.0, 2.0]], [[1.0001, 2.0001]], True),
        ({"a": [1]}, {"a": {"0": 1}}, False),
    ],
)
def test_numbers_may_differ_a_little_and_nothing_else_may(one, other, expected):
    assert agree(one, other) == expected


def test_what_must_differ_is_left_out_at_any_depth_and_an_items_id_is_not():
    one = {"id": "a", "created": 1, "model": {"version": 3}, "items": [{"item_id": "x", "created_at": 7}]}
    other = {"id": "b", "created": 2, "model": {"version": 4}, "items": [{"item_id": "x", "created_at": 8}]}
    assert agree(one, other)
    assert not agree(one, {**other, "items": [{"item_id": "y", "created_at": 8}]})


def test_a_workload_names_more_fields_that_differ():
    one, other = answer({"ticket": "a", "x": 1}), answer({"ticket": "b", "x": 1})
    assert not same(one, other, 0.001)
    assert same(one, other, 0.001, frozenset({"ticket"}))


def test_another_status_is_another_answer():
    assert not same(answer({}), answer({}, status=400), 0.001)


def events(*contents: Any) -> Answer:
    lines = [f"data: {json.dumps(content)}" for content in contents]
    return answer("\n\n".join([*lines, "data: [DONE]", ""]).encode(), kind="text/event-stream; charset=utf-8")


def chunk(text: str, reason: str | None = None, number: str = "a") -> dict[str, Any]:
    return {"id": number, "choices": [{"delta": {"content": text}, "finish_reason": reason}]}


def test_streams_agree_by_what_their_events_say_together():
    one = events(chunk("Hello"), chunk(" you", "stop"))
    assert same(one, events(chunk("Hel", number="b"), chunk("lo y"), chunk("ou", "stop", "b")), 0.001)
    assert not same(one, events(chunk("Hello"), chunk(" they", "stop")), 0.001)
    assert not same(one, events(chunk("Hello"), chunk(" you", "length")), 0.001)


def test_what_is_no_json_agrees_byte_for_byte():
    kind = "application/octet-stream"
    assert same(answer(b"\x00\x01", kind=kind), answer(b"\x00\x01", kind=kind), 0.5)
    assert not same(answer(b"\x00\x01", kind=kind), answer(b"\x00\x02", kind=kind), 0.5)
    assert same(answer(b"{"), answer(b"{"), 0.001)
    assert not same(answer(b"{"), answer(b"{}"), 0.001)
    assert not same(answer(b"[" * 100_000), answer(b"[" * 100_001), 0.001)
