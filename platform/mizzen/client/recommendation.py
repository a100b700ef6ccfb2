"""The calls of a recommendation application."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, Unpack

from pydantic import Field

from mizzen.client.calls import Answer, Call
from mizzen.client.resource import Resource, later, now
from mizzen.client.sending import AsyncSender, Sender

Id = str | int
Filters = Mapping[str, Mapping[str, Any]]
"""Conditions by attribute: `{"genres": {"in": ["Drama"]}, "year": {"ge": 1990}}`."""


class Asker(TypedDict, total=False):
    """For whom; at least one of them."""

    user_id: Id
    history: Sequence[Id]
    """Items, the oldest first, instead of what is stored for the user."""
    context: Mapping[str, Any]
    """`{"session_items": [...]}`: what is met in this session."""


class Query(Asker, total=False):
    """For whom, how many, and which items may be recommended."""

    num_results: int
    offset: int
    exclude_seen: bool
    exclude_items: Sequence[Id]
    filters: Filters
    promotions: Sequence[Mapping[str, Any]]
    """`{"name": "spring", "share": 0.2, "filters": {...}}`, or `items` in place of filters."""


class Event(TypedDict):
    """What a user did with an item."""

    type: Literal["impression", "click", "purchase", "rating"]
    user_id: Id
    item_id: Id
    recommendation_id: NotRequired[str]
    """From the answer that showed the item."""
    value: NotRequired[float]
    """The rating, or what a purchase was worth."""
    position: NotRequired[int]
    timestamp: NotRequired[str]
    """RFC 3339, with its offset from UTC; without it, the time of receipt counts."""
    context: NotRequired[Mapping[str, Any]]
    event_id: NotRequired[str]
    """Of events with the same id the first counts; a new one is made where there is none."""


class Item(Answer):
    """One item; scores can be compared within one answer only."""

    item_id: str
    score: float | None
    """None for an item that the model does not know, in a ranking."""
    attributes: dict[str, Any] = Field(default_factory=dict)
    promotion: str | None = None
    """The promotion whose slot this is."""


class Items(Answer):
    """The best items first."""

    recommendation_id: str
    """New for each answer: send it with the feedback."""
    model: str
    model_version: int
    items: list[Item]
    unknown_items: list[str] = Field(default_factory=list)

    @property
    def item_ids(self) -> list[str]:
        """The items alone."""
        return [item.item_id for item in self.items]


class Recommendations(Items):
    """Items for somebody, the best first."""

    user_id: str | None = None
    fallback: str | None = None
    """What stood in for the user's history: `session`, or `popularity`."""
    fallback_reason: str | None = None


class Problem(Answer):
    """Why one of several requests or events was refused."""

    message: str
    param: str | None = None
    code: str | None = None


class Refused(Answer):
    """One of several queries that could not be answered."""

    error: Problem


class ManyRecommendations(Answer):
    """An answer or an error for each query, in their order."""

    results: list[Recommendations | Refused]


class EventResult(Answer):
    """What became of one event."""

    event_id: str | None
    status: Literal["accepted", "rejected"]
    error: Problem | None = None


class FeedbackTaken(Answer):
    """What became of the events; what is accepted is durable."""

    accepted: int
    rejected: int
    results: list[EventResult]


def recommend(
    prefix: str, *, timeout_s: float | None = None, **query: Unpack[Query]
) -> Call[Recommendations]:
    """Items for a user, for a history of items, or for a session."""
    return Call("POST", f"{prefix}/v1/recommendations", Recommendations, {**query}, timeout_s)


def recommend_many(
    prefix: str, queries: Sequence[Query], *, timeout_s: float | None = None
) -> Call[ManyRecommendations]:
    """Items for several users in one request; each has an answer or an error of its own."""
    body = {"requests": list(queries)}
    return Call("POST", f"{prefix}/v1/recommendations", ManyRecommendations, body, timeout_s)


def rank(
    prefix: str, items: Sequence[Id], *, timeout_s: float | None = None, **asker: Unpack[Asker]
) -> Call[Recommendations]:
    """The given items in the order in which they suit somebody, unknown ones last."""
    body = {"items": list(items), **asker}
    return Call("POST", f"{prefix}/v1/rankings", Recommendations, body, timeout_s)


def similar_items(
    prefix: str,
    items: Sequence[Id],
    *,
    num_results: int = 10,
    exclude_items: Sequence[Id] = (),
    filters: Filters | None = None,
    timeout_s: float | None = None,
) -> Call[Items]:
    """Items that the model holds for similar to all of `items`."""
    body = {
        "items": list(items),
        "num_results": num_results,
        "exclude_items": list(exclude_items),
        "filters": filters or {},
    }
    return Call("POST", f"{prefix}/v1/similar-items", Items, body, timeout_s)


def feedback(prefix: str, events: Sequence[Event], *, timeout_s: float | None = None) -> Call[FeedbackTaken]:
    """Tell what users did. When this returns, what is accepted is durable.

    An event gets an id here if it has none, so sending again after a lost answer counts nothing twice.
    """
    body = {"events": [{"event_id": uuid.uuid4().hex, **event} for event in events]}
    return Call("POST", f"{prefix}/v1/feedback", FeedbackTaken, body, timeout_s)


class Recommendation(Resource[Sender]):
    """A recommendation application."""

    recommend = now(recommend)
    recommend_many = now(recommend_many)
    rank = now(rank)
    similar_items = now(similar_items)
    feedback = now(feedback)


class AsyncRecommendation(Resource[AsyncSender]):
    """A recommendation application, to be awaited."""

    recommend = later(recommend)
    recommend_many = later(recommend_many)
    rank = later(rank)
    similar_items = later(similar_items)
    feedback = later(feedback)
