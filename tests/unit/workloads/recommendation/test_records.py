"""What is recommended, to whom, and what becomes of it, as series: over a really exported model."""

from __future__ import annotations

from typing import Any

import pytest

from mizzen import metrics
from mizzen.errors import StoreError
from mizzen.series import OTHER
from mizzen.workloads.contract import ModelIdentity
from mizzen.workloads.recommendation.answers import new_id
from mizzen.workloads.recommendation.records import MAX_OTHER_VERSIONS, REMEMBERED_EVENTS, Events

ITEM = "item 03"
KNOWN = {"user_id": "user 7"}
SESSION = {"context": {"session_items": [ITEM]}}


def users(app: Any) -> dict[str, float]:
    return {known: n for (known,), n in app.recorder.lines(metrics.RECOMMENDATION_USERS).items()}


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        (KNOWN, "user"),
        ({**KNOWN, **SESSION}, "user"),
        ({"history": [ITEM]}, "user"),
        ({"user_id": "a stranger", **SESSION}, "session"),
        (SESSION, "session"),
        ({"user_id": "a stranger"}, "nothing"),
        ({"history": ["unheard of"]}, "nothing"),
        ({"context": {"session_items": ["unheard of"]}}, "nothing"),
    ],
)
def test_a_user_is_counted_by_what_was_known(served: Any, asked: dict[str, Any], known: str) -> None:
    bulk = {"requests": [asked, {**asked, "num_results": 2}]}
    for path, body, num in (
        ("recommendations", asked, 1),
        ("recommendations", bulk, 2),
        ("rankings", {**asked, "items": [ITEM]}, 1),
    ):
        before = users(served)
        assert served.ask(f"/v1/{path}", body).status_code == 200
        assert users(served) == {**before, known: before[known] + num}


def test_a_query_that_is_refused_counts_nobody(served: Any) -> None:
    before = users(served)
    wrong = {**KNOWN, "filters": {"colour": {"in": ["red"]}}}
    assert served.ask("/v1/recommendations", wrong).status_code == 400
    assert served.ask("/v1/recommendations", {"requests": [wrong, KNOWN]}).status_code == 200
    assert users(served) == {**before, "user": before["user"] + 1}


def test_items_that_were_recommended_are_covered_each_once(serve: Any, exported: Any) -> None:
    app = serve(exported)
    value = app.recorder.value
    assert value(metrics.RECOMMENDATION_CATALOGUE) == 24
    assert value(metrics.RECOMMENDATION_COVERED) == 0
    seen: set[str] = set()
    for user in range(6):
        answer = app.ask("/v1/recommendations", {"user_id": f"user {user}", "num_results": 3}).json()
        seen |= {item["item_id"] for item in answer["items"]}
        assert value(metrics.RECOMMENDATION_COVERED) == len(seen)
    assert 3 < len(seen) < 24


def event(number: int, kind: str = "click", **more: Any) -> dict[str, Any]:
    return {"event_id": f"r{number}", "type": kind, "user_id": "u", "item_id": ITEM, **more}


def test_feedback_is_counted_by_the_version_that_recommended_and_repeats_are_not(served: Any) -> None:
    def lines() -> dict[tuple[str, ...], float]:
        found = served.recorder.lines(metrics.RECOMMENDATION_EVENTS)
        return {line: value for line, value in found.items() if value}

    own = served.ask("/v1/recommendations", KNOWN).json()["recommendation_id"]
    events = [
        event(1, "impression", recommendation_id=own),
        event(2, "impression", recommendation_id=new_id(2)),
        event(3, recommendation_id=new_id(2)),
        event(4),
        event(4),
        event(5, recommendation_id="99-not an id"),
    ]
    served.lake.failure = StoreError("away")
    assert served.ask("/v1/feedback", {"events": events}).status_code == 503
    assert lines() == {}
    served.lake.failure = None
    expected = {
        ("3", "impression", "true"): 1,
        ("2", "impression", "true"): 1,
        ("2", "click", "true"): 1,
        ("3", "click", "false"): 1,
    }
    for _ in range(2):  # the second time as a client does that has got no answer
        assert served.ask("/v1/feedback", {"events": events}).status_code == 200
        assert lines() == expected


def test_forged_versions_make_no_series_without_bound(noted: Any) -> None:
    events = Events(noted, ModelIdentity("films", 3, ""))
    events.count([(f"e{n}", "click", 1000 + n) for n in range(500)])
    events.count([("mine", "click", 3)])
    lines = noted.lines(metrics.RECOMMENDATION_EVENTS)
    assert len({version for version, *_ in lines}) == MAX_OTHER_VERSIONS + 2
    assert lines[OTHER, "click", "true"] == 500 - MAX_OTHER_VERSIONS
    assert lines["3", "click", "true"] == 1


def test_what_is_remembered_of_events_has_a_bound(noted: Any) -> None:
    events = Events(noted, ModelIdentity("films", 3, ""))
    for start in range(0, REMEMBERED_EVENTS + 1, 500):
        events.count([(f"e{n}", "click", None) for n in range(start, start + 500)])
    before = noted.lines(metrics.RECOMMENDATION_EVENTS)["3", "click", "false"]
    events.count([("e0", "click", None), (f"e{REMEMBERED_EVENTS}", "click", None)])
    assert noted.lines(metrics.RECOMMENDATION_EVENTS)["3", "click", "false"] == before + 1
