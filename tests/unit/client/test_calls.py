"""What the client sends is what the endpoints take: each call's body is read by the endpoint's own model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from mizzen.client import chat, forecasting, knowledge, recommendation
from mizzen.client.calls import Call
from mizzen.workloads.chat.completions import CompletionRequest
from mizzen.workloads.chat.embeddings import EmbeddingRequest
from mizzen.workloads.chat.protocol import ChatRequest
from mizzen.workloads.forecasting.judged_protocol import AnomalyRequest, BacktestRequest
from mizzen.workloads.forecasting.protocol import ForecastRequest
from mizzen.workloads.knowledge.protocol import EmbeddingsRequest, SearchRequest
from mizzen.workloads.recommendation.feedback import FeedbackRequest, Rejected
from mizzen.workloads.recommendation.requests import (
    RankingRequest,
    RecommendationRequest,
    SimilarItemsRequest,
)

SALES: forecasting.Series = {
    "name": "sales",
    "series": (1.0, None, 3.0),
    "frequency": "D",
    "start_timestamp": "2026-01-01",
    "timezone": "Europe/Berlin",
    "past_covariates": {"price": [1.0, 2.0, 3.0]},
    "known_covariates": {"holiday": [0.0] * 5},
}
QUERY: recommendation.Query = {
    "user_id": 7,
    "history": ["a", "b"],
    "context": {"session_items": ["c"]},
    "num_results": 3,
    "offset": 10,
    "exclude_seen": False,
    "exclude_items": ["d"],
    "filters": {"year": {"ge": 1990}},
    "promotions": [{"name": "spring", "share": 0.2, "items": ["e"]}],
}
CLICK: recommendation.Event = {"type": "click", "user_id": "u", "item_id": 3, "position": 0}
CALLS: list[tuple[Call[Any], str, type[BaseModel]]] = [
    (recommendation.recommend("/r", **QUERY), "/r/v1/recommendations", RecommendationRequest),
    (recommendation.recommend_many("/r", [QUERY]), "/r/v1/recommendations", RecommendationRequest),
    (recommendation.rank("/r", ["a", 2], user_id="u"), "/r/v1/rankings", RankingRequest),
    (recommendation.similar_items("/r", ["a"]), "/r/v1/similar-items", SimilarItemsRequest),
    (recommendation.feedback("/r", [CLICK]), "/r/v1/feedback", FeedbackRequest),
    (
        forecasting.forecast("/f", [SALES], horizon=2, quantiles=[0.1, 0.9], timestamps=True),
        "/f/v1/timeseries/forecast",
        ForecastRequest,
    ),
    (
        forecasting.backtest("/f", [SALES], horizon=1, num_windows=2, step=1),
        "/f/v1/timeseries/backtest",
        BacktestRequest,
    ),
    (
        forecasting.anomalies("/f", [SALES], level=0.8, last=1),
        "/f/v1/timeseries/anomalies",
        AnomalyRequest,
    ),
    (
        chat.complete(
            "/c",
            [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}],
            max_completion_tokens=5,
            temperature=0.5,
            top_p=0.9,
            stop=["\n"],
            seed=1,
            response_format={"type": "json_object"},
            logprobs=True,
            top_logprobs=2,
            frequency_penalty=0.1,
            presence_penalty=0.1,
            user="u",
        ),
        "/c/v1/chat/completions",
        ChatRequest,
    ),
    (chat.stream("/c", "Hi"), "/c/v1/chat/completions", ChatRequest),
    (
        chat.complete_text("/c", "Once", max_tokens=5, temperature=0, top_p=1, stop="x", seed=2),
        "/c/v1/completions",
        CompletionRequest,
    ),
    (chat.embed("/c", ["a", "b"]), "/c/v1/embeddings", EmbeddingRequest),
    (knowledge.search("/kb", "Why?", num_results=2, min_score=0.1), "/kb/v1/search", SearchRequest),
    (knowledge.embed("/kb", "a"), "/kb/v1/embeddings", EmbeddingsRequest),
]


@pytest.mark.parametrize(("call", "path", "model"), CALLS, ids=lambda one: getattr(one, "__name__", None))
def test_the_endpoint_understands_the_call(call: Call[Any], path: str, model: type[BaseModel]) -> None:
    assert (call.method, call.path) == ("POST", path)
    understood = model.model_validate_json(json.dumps(call.body))
    assert understood.model_fields_set == set(call.body or {})
    if isinstance(understood, FeedbackRequest):
        assert not any(isinstance(event, Rejected) for event in understood.events)


def test_an_application_under_another_path_is_asked_under_its_own_name() -> None:
    body = chat.complete("/v1/support", "Hi").body
    assert body is not None
    assert body["model"] == "support"


def test_an_event_keeps_the_id_that_it_has_and_gets_one_if_it_has_none() -> None:
    body = recommendation.feedback("/r", [{**CLICK, "event_id": "mine"}, CLICK, CLICK]).body
    assert body is not None
    ids = [event["event_id"] for event in body["events"]]
    assert ids[0] == "mine"
    assert len(set(ids)) == 3
