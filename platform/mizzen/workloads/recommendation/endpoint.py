"""`POST /v1/recommendations`: items for a user, or for a history of items.

It checks and words requests and answers; the work is in `ranking`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from fastapi import APIRouter
from pydantic import Field, StrictBool, StrictInt, StrictStr, model_validator

from mizzen.errors import ServingError
from mizzen.workloads.contract import Endpoint, Example, Fields, ServedModel
from mizzen.workloads.recommendation import catalogue, histories
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.filters import Condition
from mizzen.workloads.recommendation.histories import Histories
from mizzen.workloads.recommendation.ranking import Answer, Query, Recommender

PATH = "/v1/recommendations"
MAX_RESULTS = 100
MAX_HISTORY = 10_000

Id = (
    Annotated[StrictStr, Field(min_length=1, max_length=256)]
    | Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
)
"""Ids may be sent as texts or as whole numbers; answers hold texts."""


class RecommendationRequest(Fields):
    """For whom, how many, and which items may be recommended."""

    user_id: Id | None = Field(None, description="A user of the training data, or anybody, for a fallback.")
    history: list[Id] | None = Field(
        None,
        max_length=MAX_HISTORY,
        description="Item ids, the oldest first, instead of what is stored for the user. "
        "The model looks at the last of them only; all of them count as seen.",
    )
    num_results: Annotated[StrictInt, Field(ge=1, le=MAX_RESULTS)] = 10
    exclude_seen: StrictBool = Field(True, description="Leave out the items of the history.")
    filters: dict[str, Condition] = Field(
        default_factory=dict, max_length=20, description="Conditions on the items' attributes, by name."
    )

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.user_id is None and self.history is None:
            raise ValueError("give user_id or history")
        return self


class RecommendedItem(Fields):
    """One item; scores can be compared within one answer only."""

    item_id: str
    score: float
    attributes: dict[str, int | float | str | list[str] | None]


class RecommendationResponse(Fields):
    """The best items first; fewer than asked for if the filters leave no more."""

    recommendation_id: str = Field(description="New for each answer: to join feedback to it.")
    model: str
    model_version: int
    model_digest: str
    user_id: str | None
    items: list[RecommendedItem]
    fallback: Literal["popularity"] | None = Field(description="Set if the model could not be asked.")
    fallback_reason: str | None
    unknown_items: list[str] = Field(description="Items of the history that the model does not know.")


class RecommendationEndpoint(Endpoint):
    """The route, over one version of a model."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._answer: Callable[[Query], Awaitable[Answer | Exception]] | None = None
        self.router = APIRouter(tags=["recommendation"])
        self.router.add_api_route(
            PATH,
            self.recommend,
            methods=["POST"],
            response_model=RecommendationResponse,
            summary="Recommend items",
        )

    async def start(self) -> None:
        """Open the folder and answer one query, so that the first caller does not wait for that."""
        recommender = await asyncio.to_thread(Recommender, self._model.folder, self._model.runtime)
        some_items = await asyncio.to_thread(_popular, self._model.folder, 2)
        warm_up = Query(None, some_items, num_results=1, exclude_seen=False, filters={})
        await asyncio.to_thread(recommender.answer, [warm_up])
        self._answer = self._model.batched(recommender.answer)

    async def recommend(self, request: RecommendationRequest) -> RecommendationResponse:
        """Items for `user_id`, or for `history`. Somebody unknown gets popular items, flagged."""
        if self._answer is None:
            raise ServingError("the model is not loaded yet", remedy="Wait until /readyz says so.")
        user = None if request.user_id is None else str(request.user_id)
        history = None if request.history is None else [str(item) for item in request.history]
        query = Query(user, history, request.num_results, request.exclude_seen, request.filters)
        answer = await self._answer(query)
        if isinstance(answer, Exception):
            raise answer
        identity = self._model.identity
        return RecommendationResponse(
            recommendation_id=uuid4().hex,
            model=identity.name,
            model_version=identity.version,
            model_digest=identity.digest,
            user_id=user,
            items=[
                RecommendedItem(item_id=item.item, score=item.score, attributes=dict(item.attributes))
                for item in answer.items
            ],
            fallback="popularity" if answer.fallback_reason else None,
            fallback_reason=answer.fallback_reason,
            unknown_items=list(answer.unknown_items),
        )


def examples(folder: Path) -> Sequence[Example]:
    """A known user, a history, and somebody whom nobody knows."""
    user = Histories(folder / histories.FILE).user(0)
    bodies: list[dict[str, Any]] = [
        {"user_id": user, "num_results": 5},
        {"history": _popular(folder, 3), "num_results": 5},
        {"user_id": "somebody-new", "num_results": 5},
    ]
    return [Example(PATH, body) for body in bodies]


def _popular(folder: Path, num_items: int) -> list[str]:
    return Catalogue.read(folder / catalogue.FILE).item_ids[:num_items]
