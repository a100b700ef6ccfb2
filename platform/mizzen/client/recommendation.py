"""The calls of a recommendation application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from mizzen.client.calls import Answer, Call, given
from mizzen.client.resource import Resource, later, now
from mizzen.client.sending import AsyncSender, Sender

Filters = Mapping[str, Mapping[str, Any]]
"""Conditions by attribute: `{"genres": {"in": ["Drama"]}, "year": {"ge": 1990}}`."""


class RecommendedItem(Answer):
    """One item; scores can be compared within one answer only."""

    item_id: str
    score: float
    attributes: dict[str, Any] = Field(default_factory=dict)


class Recommendations(Answer):
    """The best items first."""

    recommendation_id: str
    """New for each answer: send it with the feedback."""
    model: str
    model_version: int
    items: list[RecommendedItem]
    fallback: str | None = None
    """Set if the model could not be asked, for instance `popularity`."""

    @property
    def item_ids(self) -> list[str]:
        """The items alone."""
        return [item.item_id for item in self.items]


def recommend(
    prefix: str,
    *,
    user_id: str | int | None = None,
    history: Sequence[str | int] | None = None,
    num_results: int | None = None,
    exclude_seen: bool | None = None,
    filters: Filters | None = None,
    timeout_s: float | None = None,
) -> Call[Recommendations]:
    """Items for a user, or for a history of items (the oldest first)."""
    body = given(
        user_id=user_id,
        history=None if history is None else list(history),
        num_results=num_results,
        exclude_seen=exclude_seen,
        filters=filters,
    )
    return Call("POST", f"{prefix}/v1/recommendations", Recommendations, body, timeout_s)


class Recommendation(Resource[Sender]):
    """A recommendation application."""

    recommend = now(recommend)


class AsyncRecommendation(Resource[AsyncSender]):
    """A recommendation application, to be awaited."""

    recommend = later(recommend)
