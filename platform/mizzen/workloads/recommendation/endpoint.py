"""The routes: recommendations, rankings, similar items, and feedback.

It hands requests on and puts answers together; the work is in `ranking`, `similar` and `feedback`, and what
is asked and answered is in `requests` and `answers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from mizzen.errors import MizzenError, ServingError, StoreError
from mizzen.workloads.contract import Endpoint, Example, ServedModel
from mizzen.workloads.recommendation import catalogue, histories, similar
from mizzen.workloads.recommendation.answers import (
    RankingResponse,
    RecommendationResponse,
    RecommendationResponses,
    SimilarItemsResponse,
    Writer,
    failure,
)
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.feedback import Feedback, FeedbackRequest, FeedbackResponse
from mizzen.workloads.recommendation.filters import AttributeFilters
from mizzen.workloads.recommendation.histories import Histories
from mizzen.workloads.recommendation.ranking import Answer, Query, Recommender
from mizzen.workloads.recommendation.records import Answers
from mizzen.workloads.recommendation.requests import (
    RankingRequest,
    RecommendationQuery,
    RecommendationRequest,
    SimilarItemsRequest,
)
from mizzen.workloads.recommendation.routes import JsonRoute
from mizzen.workloads.recommendation.similar import SimilarItems

RECOMMENDATIONS = "/v1/recommendations"
RANKINGS = "/v1/rankings"
SIMILAR_ITEMS = "/v1/similar-items"
FEEDBACK = "/v1/feedback"
_Responses = dict[int | str, dict[str, Any]]
_UNAVAILABLE: _Responses = {
    503: {"description": "The model is not loaded yet, or the store is away: try again."}
}


@dataclass(frozen=True)
class _Open:
    """What is there once the folder is open."""

    answer: Callable[[Query], Awaitable[Answer | Exception]]
    writer: Writer
    similar: SimilarItems
    records: Answers


class RecommendationEndpoint(Endpoint):
    """The routes, over one version of a model."""

    read_only = dict.fromkeys((RECOMMENDATIONS, RANKINGS, SIMILAR_ITEMS), frozenset({"recommendation_id"}))

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._feedback = None if model.lake is None else Feedback(model, model.lake)
        self._opened: _Open | None = None
        self.router = APIRouter(tags=["recommendation"], route_class=JsonRoute)
        self._add(
            RECOMMENDATIONS,
            self.recommend,
            RecommendationResponse | RecommendationResponses,
            "Recommend items",
        )
        self._add(RANKINGS, self.rank, RankingResponse, "Rank given items")
        missing: _Responses = {
            404: {"description": "None of the items is known, or the version has no item vectors."}
        }
        self._add(SIMILAR_ITEMS, self.similar_items, SimilarItemsResponse, "Find similar items", missing)
        self._add(FEEDBACK, self.feedback, FeedbackResponse, "Say what became of recommendations")

    def _add(
        self,
        path: str,
        handler: Callable[[Any], Awaitable[bytes]],
        answer: Any,
        summary: str,
        more: _Responses | None = None,
    ) -> None:
        responses = {**_UNAVAILABLE, **(more or {})}
        self.router.add_api_route(
            path, handler, methods=["POST"], response_model=answer, summary=summary, responses=responses
        )

    async def start(self) -> None:
        """Open the folder and answer one query, so that the first caller does not wait for that."""
        recommender, writer, similar_items, items = await asyncio.to_thread(self._open)
        warm_up = Query(None, items.item_ids[:2], num_results=1, exclude_seen=False)
        await asyncio.to_thread(recommender.answer, [warm_up])
        recommender.watch(self._model.watch_inputs)
        records = Answers(self._model.recorder, len(items))
        self._opened = _Open(self._model.batched(recommender.answer), writer, similar_items, records)

    def _open(self) -> tuple[Recommender, Writer, SimilarItems, Catalogue]:
        folder, runtime = self._model.folder, self._model.runtime
        items = Catalogue.read(folder / catalogue.FILE)
        filters = AttributeFilters(items)
        recommender = Recommender(folder, runtime, items, filters)
        writer = Writer(self._model.identity, items)
        return recommender, writer, SimilarItems(folder, items, filters), items

    @property
    def _here(self) -> _Open:
        if self._opened is None:
            raise ServingError("the model is not loaded yet", remedy="Wait until /readyz says so.")
        return self._opened

    async def recommend(self, request: RecommendationRequest) -> bytes:
        """Items for `user_id`, `history` or a session, or for each of several `requests`.

        Somebody unknown gets items by the session, or else popular ones, flagged in `fallback`. In
        `requests`, what is wrong with one query by itself (an attribute that the items do not have, say) is
        the error of that one; a body that is not well formed is refused as a whole.
        """
        if request.requests is None:
            return (await self._recommended(request)).encode()
        here = self._here
        queries = [query.query() for query in request.requests]
        found = await asyncio.gather(*map(here.answer, queries), return_exceptions=True)
        results = [self._result(query, answer) for query, answer in zip(queries, found, strict=True)]
        return f'{{"results":[{",".join(results)}]}}'.encode()

    async def _recommended(self, request: RecommendationQuery) -> str:
        query = request.query()
        answer = await self._here.answer(query)
        if isinstance(answer, Exception):
            raise answer
        return self._written(query, answer)

    def _result(self, query: Query, answer: Answer | BaseException) -> str:
        if isinstance(answer, MizzenError) and answer.http_status < 500:
            return failure(answer)
        if isinstance(answer, BaseException):
            raise answer
        return self._written(query, answer)

    def _written(self, query: Query, answer: Answer) -> str:
        here = self._here
        here.records.user(query, answer)
        here.records.items(answer.rows)
        return here.writer.recommendation(query.user, answer)

    async def rank(self, request: RankingRequest) -> bytes:
        """The given items in the order in which this user, history or session is likely to want them.

        Items that the model does not know are at the end, with `known: false`. For somebody unknown it is
        the order by the session, or else by popularity, flagged in `fallback`.
        """
        here, query = self._here, request.query()
        answer = await here.answer(query)
        if isinstance(answer, Exception):
            raise answer
        here.records.user(query, answer)
        return here.writer.ranking(request.user_id, answer).encode()

    async def similar_items(self, request: SimilarItemsRequest) -> bytes:
        """Items that are like one or several others, by the cosine of the vectors that were learned."""
        here = self._here
        found = await asyncio.to_thread(
            here.similar.to, request.items, request.num_results, request.exclude_items, request.filters
        )
        return here.writer.similar(*found).encode()

    async def feedback(self, request: FeedbackRequest) -> bytes:
        """What users did with recommendations: impressions, clicks, purchases, ratings.

        The answer comes when the events are durable. Send again what was not answered: of events with the
        same `event_id` the first counts. Each event is checked by itself; if none is right, that is a 400.
        """
        if self._feedback is None:
            raise StoreError("there is no store here to keep feedback in")
        return (await self._feedback.take(request)).model_dump_json().encode()


def examples(folder: Path) -> Sequence[Example]:
    """A known user, a history, somebody whom nobody knows, several at once; and the other routes."""
    user = Histories(folder / histories.FILE).user(0)
    popular = Catalogue.read(folder / catalogue.FILE).item_ids[:5]
    known = {"user_id": user, "num_results": 5}
    stranger = {"user_id": "somebody-new", "num_results": 5}
    found = [
        Example(RECOMMENDATIONS, known),
        Example(RECOMMENDATIONS, {"history": popular[:3], "num_results": 5}),
        Example(RECOMMENDATIONS, stranger),
        Example(RECOMMENDATIONS, {"requests": [known, stranger]}),
        Example(RANKINGS, {"user_id": user, "items": popular}),
    ]
    if (folder / similar.FILE).is_file():
        found.append(Example(SIMILAR_ITEMS, {"items": popular[:1], "num_results": 5}))
    event = {"event_id": "example-1", "type": "impression", "user_id": user, "item_id": popular[0]}
    return [*found, Example(FEEDBACK, {"events": [event]})]
