"""Which lines are wanted, and how people see them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mizzen.log_lines import Wanted, shown


def line(**fields: Any) -> str:
    known = {"time": "2026-11-22T16:00:00.000Z", "level": "info", "logger": "mizzen.x", "message": "said"}
    return json.dumps({**known, **fields}, separators=(",", ":"))


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (Wanted(), line()),
        (Wanted(about="films"), line(app="films")),
        (Wanted(about="films-1"), line(run="films-1")),
        (Wanted(about="films"), line(train_job="films")),
        (Wanted(level="warning"), line(level="error")),
        (Wanted(request="abc"), line(request_id="abc")),
        (Wanted(request="0af7"), line(trace_id="0af7")),
        (Wanted(since="2026-11-22T16:00:00.000Z"), line()),
    ],
)
def test_a_line_that_is_asked_for_is_taken(wanted: Wanted, taken: str) -> None:
    assert wanted.takes(taken)


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        (Wanted(), "no JSON"),
        (Wanted(), "[1]"),
        (Wanted(about="films"), line(app="sales", message="films")),
        (Wanted(level="warning"), line()),
        (Wanted(request="abc"), line(message="abc")),
        (Wanted(since="2026-11-22T16:00:00.001Z"), line()),
    ],
)
def test_any_other_line_is_not(wanted: Wanted, other: str) -> None:
    assert not wanted.takes(other)


def test_people_see_time_level_whose_what_and_ids() -> None:
    told = shown(line(level="warning", app="films", request_id="abc", exception="Traceback\nValueError: x"))
    assert told == (
        "2026-11-22T16:00:00.000Z  warning  films             said  (request abc)\n"
        "    Traceback\n"
        "    ValueError: x"
    )


def test_people_see_how_long_a_request_took() -> None:
    took = {"duration_ms": 1.5, "bytes": 7, "key": "shop"}
    access = line(logger="mizzen.access", app="films", message="GET /x 200", request_id="a", **took)
    assert shown(access).endswith("films             GET /x 200  (took 1.5 ms, bytes 7, key shop, request a)")


def test_what_a_line_tells_neither_forges_another_nor_speaks_to_the_terminal() -> None:
    odd = shown(line(message="one\ntwo\x1b[31m\rthree\tend", app="a\x9b", exception="E: \x1b]0;title\x07"))
    assert odd.splitlines() == [
        "2026-11-22T16:00:00.000Z  info     a\\x9b                one",
        "    two\\x1b[31m",
        "    three\tend",
        "    E: \\x1b]0;title\\x07",
    ]
