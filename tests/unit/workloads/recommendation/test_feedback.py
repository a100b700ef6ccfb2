"""Feedback: each event is checked by itself, kept with what its id says, and acknowledged when it is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mizzen.errors import OverloadedError, StoreError
from mizzen.workloads.recommendation.feedback import FeedbackResponse

PATH = "/v1/feedback"
CLICK = {"event_id": "e1", "type": "click", "user_id": 7, "item_id": "item 03"}


@pytest.fixture
def app(served: Any) -> Iterator[Any]:
    """The endpoint, with an empty lake."""
    served.lake.rows.clear()
    yield served
    served.lake.failure = None


def test_an_event_is_kept_with_the_version_that_recommended_it(app: Any) -> None:
    recommended = app.ask("/v1/recommendations", {"user_id": 7}).json()["recommendation_id"]
    event = {
        **CLICK,
        "recommendation_id": recommended,
        "position": 2,
        "timestamp": "2026-11-22T14:00:00.5+01:00",
        "context": {"device": "phone", "b": True, "n": 1.5},
    }
    answer = app.ask(PATH, {"events": [event]})
    assert answer.status_code == 200
    assert FeedbackResponse.model_validate_json(answer.content).accepted == 1
    (row,) = app.lake.rows
    received, recommended_at = row.pop("received_at"), row.pop("recommended_at")
    assert timedelta(0) <= received - recommended_at < timedelta(minutes=1)
    assert row == {
        "event_id": "e1",
        "type": "click",
        "user_id": "7",
        "item_id": "item 03",
        "timestamp": datetime(2026, 11, 22, 13, 0, 0, 500_000, UTC),
        "value": None,
        "position": 2,
        "recommendation_id": recommended,
        "model_version": 3,
        "context": '{"b": true, "device": "phone", "n": 1.5}',
        "app": "cinema",
        "model": "films",
    }


def test_an_event_without_a_time_has_that_of_its_receipt(app: Any) -> None:
    app.ask(PATH, {"events": [CLICK]})
    (row,) = app.lake.rows
    assert row["timestamp"] == row["received_at"]
    assert datetime.now(UTC) - row["timestamp"] < timedelta(minutes=1)
    assert (row["model_version"], row["recommendation_id"]) == (None, None)


def test_right_events_are_kept_and_wrong_ones_are_told_what_is_wrong(app: Any) -> None:
    events = [
        CLICK,
        {**CLICK, "event_id": "e2", "type": "like"},
        {"event_id": "e3"},
        {**CLICK, "event_id": "e4", "type": "rating", "value": 4},
        {**CLICK, "event_id": "e5", "type": "rating"},
        "no event",
        {**CLICK, "event_id": ""},
        {**CLICK, "event_id": "e6", "type": "purchase", "value": 9.99},
    ]
    answer = app.ask(PATH, {"events": events}).json()
    assert (answer["accepted"], answer["rejected"]) == (3, 5)
    told = [(one["event_id"], one["error"] and one["error"]["message"]) for one in answer["results"]]
    assert [event_id for event_id, error in told if error is None] == ["e1", "e4", "e6"]
    assert [event_id for event_id, error in told if error is not None] == ["e2", "e3", "e5", None, ""]
    assert "'impression', 'click', 'purchase' or 'rating'" in told[1][1]
    assert told[4][1] == "the event: a rating needs a value"
    assert [(row["event_id"], row["value"]) for row in app.lake.rows] == [
        ("e1", None), ("e4", 4.0), ("e6", 9.99)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"event_id": None}, "event_id"),
        ({"event_id": "x" * 129}, "at most 128"),
        ({"type": "view"}, "type"),
        ({"user_id": ""}, "user_id"),
        ({"item_id": 1.5}, "item_id"),
        ({"value": 3}, "a click has no value"),
        ({"type": "rating", "value": "5"}, "value"),
        ({"recommendation_id": "mine"}, "recommendation_id"),
        ({"recommendation_id": "0-" + "0" * 32}, "recommendation_id"),
        ({"position": -1}, "position"),
        ({"timestamp": 1_700_000_000}, "2026-11-22T13:45:00Z"),
        ({"timestamp": "1700000000"}, "2026-11-22T13:45:00Z"),
        ({"timestamp": "2026-11-22T13:45:00"}, "timezone"),
        ({"timestamp": "1969-12-31T00:00:00Z"}, "before 1970"),
        ({"timestamp": "9999-12-31T00:00:00Z"}, "a day ahead"),
        ({"timestamp": "0001-01-01T00:00:00+23:59"}, "timestamp"),
        ({"context": {"deep": {}}}, "context"),
        ({"context": {str(n): n for n in range(21)}}, "at most 20"),
        ({"session": 3}, "session"),
    ],
)
def test_a_wrong_event_alone_is_refused_and_nothing_is_kept(app: Any, change: Any, told: str) -> None:
    answer = app.ask(PATH, {"events": [{**CLICK, **change}]})
    assert answer.status_code == 400
    assert "no event was accepted; events.0" in answer.json()["error"]
    assert told in answer.json()["error"]
    assert app.lake.rows == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "events"),
        ({"events": []}, "at least 1"),
        ({"events": [CLICK] * 501}, "at most 500"),
        ({"events": [CLICK], "more": 1}, "more"),
        ([CLICK], "object"),
        (b'{"events": [{"event_id": "\\ud800"}]}', "JSON"),
    ],
)
def test_a_wrong_body_is_refused_as_a_whole(app: Any, body: Any, told: str) -> None:
    answer = app.ask(PATH, body)
    assert answer.status_code == 400
    assert told in answer.text
    assert app.lake.rows == []


def test_a_repeat_gets_the_same_answer_and_one_request_keeps_an_event_once(app: Any) -> None:
    body = {"events": [CLICK, {**CLICK, "item_id": "item 04"}, {**CLICK, "event_id": "e2"}]}
    first, second = app.ask(PATH, body), app.ask(PATH, body)
    assert first.content == second.content
    assert first.json()["accepted"] == 3
    kept = [(row["event_id"], row["item_id"]) for row in app.lake.rows]
    assert kept == [("e1", "item 03"), ("e2", "item 03")] * 2


@pytest.mark.parametrize(
    ("failure", "status"),
    [(StoreError("cannot write s3://secret/place"), 503), (OverloadedError("too many rows wait"), 429)],
)
def test_what_is_not_kept_is_not_acknowledged(app: Any, failure: Exception, status: int) -> None:
    app.lake.failure = failure
    answer = app.ask(PATH, {"events": [CLICK]})
    assert answer.status_code == status
    assert "secret" not in answer.text
    assert "accepted" not in json.dumps(answer.json())


def test_the_document_shows_what_an_event_is(served: Any) -> None:
    schemas = served.app.openapi()["components"]["schemas"]
    items = schemas["FeedbackRequest"]["properties"]["events"]["items"]
    assert items["$ref"].endswith("/FeedbackEvent")
    assert schemas["FeedbackEvent"]["required"] == ["event_id", "type", "user_id", "item_id"]
