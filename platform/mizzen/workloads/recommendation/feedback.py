"""What users did with what was recommended: checked event by event, and kept in the lake.

An event is acknowledged when it is durable. Whoever gets no answer sends it again: the id of the event tells
repeats, and of events with one id the first counts. So the lake may hold an event twice; the reader
(`store.lake.rows_once`, key `event_id`) yields it once, and so does training with `columns.event`. An
answer depends on the request alone, so a repeat gets the same one.

It joins nothing: each event has with it what its recommendation id says, and is counted by that (`records`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import (
    AwareDatetime,
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from mizzen.errors import RequestError, StoreError
from mizzen.workloads.contract import Fields, Lake, ServedModel
from mizzen.workloads.recommendation.answers import ID_PATTERN, Problem, origin
from mizzen.workloads.recommendation.records import Events
from mizzen.workloads.recommendation.requests import Id

MAX_EVENTS = 500
MAX_AHEAD = timedelta(days=1)
"""Clocks differ, but not by more."""
_TIME = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", _TIME, nullable=False),
        pa.field("value", pa.float64()),
        pa.field("position", pa.int32()),
        pa.field("recommendation_id", pa.string()),
        pa.field("model_version", pa.int64()),
        pa.field("recommended_at", _TIME),
        pa.field("context", pa.string()),
        pa.field("app", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("received_at", _TIME, nullable=False),
    ]
)
"""`model_version` is the one that recommended, from the id; `context` is JSON; `timestamp` is the client's,
or `received_at` if it gave none."""

Number = (
    Annotated[StrictInt, Field(ge=-(2**53), le=2**53)] | Annotated[StrictFloat, Field(allow_inf_nan=False)]
)


def _iso_text(value: Any) -> Any:
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d[Tt ]", value):
        raise ValueError("a timestamp is a text such as 2026-11-22T13:45:00Z")
    return value


class FeedbackEvent(Fields):
    """What one user did with one item."""

    event_id: Annotated[StrictStr, Field(min_length=1, max_length=128)] = Field(
        description="Made by the client; sending it again changes nothing."
    )
    type: Literal["impression", "click", "purchase", "rating"]
    user_id: Id
    item_id: Id
    recommendation_id: StrictStr | None = Field(
        None, pattern=ID_PATTERN, description="From the answer that showed the item."
    )
    value: Number | None = Field(
        None, description="The rating (needed there), or what a purchase was worth; else left out."
    )
    position: Annotated[StrictInt, Field(ge=0, le=100_000)] | None = Field(
        None, description="Where the item stood in what was shown, from 0."
    )
    timestamp: Annotated[AwareDatetime, BeforeValidator(_iso_text)] | None = Field(
        None,
        description="When it happened, with its offset from UTC; without it, the time of receipt counts.",
    )
    context: (
        dict[
            Annotated[StrictStr, Field(max_length=64)],
            Annotated[StrictStr, Field(max_length=256)] | Number | StrictBool,
        ]
        | None
    ) = Field(None, max_length=20, description="Whatever else is known; it is recorded and not used.")

    @model_validator(mode="after")
    def _value_belongs(self) -> Self:
        if self.type == "rating" and self.value is None:
            raise ValueError("a rating needs a value")
        if self.type in ("impression", "click") and self.value is not None:
            raise ValueError(f"{'an' if self.type == 'impression' else 'a'} {self.type} has no value")
        return self


@dataclass(frozen=True)
class Rejected:
    """An event that cannot be taken, and why."""

    event_id: str | None
    problem: str
    field: str | None


def _each_by_itself(given: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(given)
    except ValidationError as cause:
        first = cause.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or None
        text = first["msg"].removeprefix("Value error, ")
        event_id = given.get("event_id") if isinstance(given, dict) else None
        known = event_id if isinstance(event_id, str) and len(event_id) <= 128 else None
        return Rejected(known, f"{place or 'the event'}: {text[:1].lower()}{text[1:]}", place)


class FeedbackRequest(Fields):
    """Events, in any order; each is checked by itself."""

    events: list[Annotated[FeedbackEvent, WrapValidator(_each_by_itself)]] = Field(
        min_length=1, max_length=MAX_EVENTS
    )


class EventResult(Fields):
    """What became of one event."""

    event_id: str | None = Field(description="Null if it could not be read.")
    status: Literal["accepted", "rejected"]
    error: Problem | None


class FeedbackResponse(Fields):
    """One result for each event, in their order. What is accepted is durable."""

    accepted: int
    rejected: int
    results: list[EventResult]


def table_of(app: str) -> str:
    """The lake's table with the events of an application, by its name in the serve file.

    Each has its own, so that ids of items and events mean the same thing throughout a table.
    """
    return f"feedback-{app}"


class Feedback:
    """Takes events for one served model."""

    def __init__(
        self, model: ServedModel, lake: Lake, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._model, self._lake, self._now = model, lake, now
        self._events = Events(model.recorder, model.identity)

    async def take(self, request: FeedbackRequest) -> FeedbackResponse:
        """Keep the events, and answer when that is durable.

        Raises `RequestError` if none of them can be taken, `StoreError` or `OverloadedError` if none of them
        was kept for sure.
        """
        received_at = self._now()
        checked = [self._checked(event, received_at) for event in request.events]
        results = [_result(event) for event in checked]
        good = {event.event_id: event for event in reversed(checked) if isinstance(event, FeedbackEvent)}
        if not good:
            first = next(event for event in checked if isinstance(event, Rejected))
            raise RequestError(
                f"no event was accepted; events.0: {first.problem}",
                field=f"events.0.{first.field}" if first.field else "events.0",
            )
        rows = [self._row(event, received_at) for event in reversed(good.values())]
        try:
            await self._lake.append(table_of(self._model.app), rows, SCHEMA)
        except StoreError as cause:
            raise StoreError(
                "the events could not be stored; send them again: with the same event_id they count once"
            ) from cause
        self._events.count([(row["event_id"], row["type"], row["model_version"]) for row in rows])
        accepted = sum(one.status == "accepted" for one in results)
        return FeedbackResponse(accepted=accepted, rejected=len(results) - accepted, results=results)

    def _checked(self, event: FeedbackEvent | Rejected, received_at: datetime) -> FeedbackEvent | Rejected:
        if isinstance(event, Rejected) or event.timestamp is None:
            return event
        if not datetime(1970, 1, 1, tzinfo=UTC) <= event.timestamp <= received_at + MAX_AHEAD:
            text = "timestamp: it lies before 1970 or more than a day ahead"
            return Rejected(event.event_id, text, "timestamp")
        return event

    def _row(self, event: FeedbackEvent, received_at: datetime) -> dict[str, Any]:
        recommended = event.recommendation_id and origin(event.recommendation_id)
        return {
            "event_id": event.event_id,
            "type": event.type,
            "user_id": event.user_id,
            "item_id": event.item_id,
            "timestamp": event.timestamp or received_at,
            "value": event.value,
            "position": event.position,
            "recommendation_id": event.recommendation_id,
            "model_version": recommended.version if recommended else None,
            "recommended_at": recommended.recommended_at if recommended else None,
            "context": json.dumps(event.context, ensure_ascii=False, sort_keys=True)
            if event.context
            else None,
            "app": self._model.app,
            "model": self._model.identity.name,
            "received_at": received_at,
        }


def _result(event: FeedbackEvent | Rejected) -> EventResult:
    if isinstance(event, FeedbackEvent):
        return EventResult(event_id=event.event_id, status="accepted", error=None)
    problem = Problem(
        message=event.problem, type="invalid_request_error", param=event.field, code="invalid_value"
    )
    return EventResult(event_id=event.event_id, status="rejected", error=problem)
