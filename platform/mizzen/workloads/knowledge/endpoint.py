"""`POST /v1/embeddings` as OpenAI has it, and `POST /v1/search` for the passages that answer a question.

It checks and words requests and answers; the work is in `retriever`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray

from mizzen import metrics
from mizzen.errors import NotFoundError, RequestError, ServingError
from mizzen.workloads.contract import Endpoint, Example, ServedModel, count_tokens
from mizzen.workloads.knowledge import protocol, table
from mizzen.workloads.knowledge.config import MAX_WORD_PIECES, QUESTION_TOKENS
from mizzen.workloads.knowledge.protocol import (
    EmbeddingsRequest,
    EmbeddingsResponse,
    SearchRequest,
    SearchResponse,
    Usage,
)
from mizzen.workloads.knowledge.retriever import KnowledgeRetriever

EMBEDDINGS, SEARCH = "/v1/embeddings", "/v1/search"

NUM_MARKS = 2
"""Word pieces that mark start and end of a text."""

Vector = NDArray[np.float32]


class KnowledgeEndpoint(Endpoint):
    """The routes, over one version of a knowledge base."""

    read_only = dict.fromkeys((EMBEDDINGS, SEARCH), frozenset[str]())

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._names = protocol.known_as(model.identity, model.app)
        self._retriever: KnowledgeRetriever | None = None
        self._embed: Callable[[str], Awaitable[Vector]] | None = None
        self.router = APIRouter(tags=["knowledge"])
        add = self.router.add_api_route
        add(
            EMBEDDINGS,
            self.embeddings,
            methods=["POST"],
            response_model=EmbeddingsResponse,
            summary="Embed texts",
        )
        add(SEARCH, self.search, methods=["POST"], response_model=SearchResponse, summary="Find passages")

    async def start(self) -> None:
        """Open the folder and answer one question, so that the first caller does not wait for that."""
        model = self._model
        self._retriever = await asyncio.to_thread(
            KnowledgeRetriever, model.folder, model.runtime, model.identity
        )
        await asyncio.to_thread(self._retriever.search, "warm up", 1)
        self._embed = model.batched(self._vectors)
        for outcome in ("hit", "miss"):
            model.recorder.count(metrics.KNOWLEDGE_LOOKUPS, 0, outcome=outcome)

    def _vectors(self, texts: list[str]) -> list[Vector]:
        return list(self._opened.embed(texts))

    @property
    def _opened(self) -> KnowledgeRetriever:
        if self._retriever is None:
            raise ServingError("the model is not loaded yet", remedy="Wait until /readyz says so.")
        return self._retriever

    async def embeddings(self, body: EmbeddingsRequest, request: Request) -> EmbeddingsResponse:
        """Embeddings of length one of a text, or of several. A text that is too long is refused, not cut."""
        self._check_name(body.model)
        dimensions = self._opened.dimensions
        if body.dimensions not in (None, dimensions):
            raise RequestError(
                "this model's embeddings cannot be shortened",
                saw=body.dimensions,
                allowed=f"{dimensions}",
                field="dimensions",
            )
        # In a thread: to count the word pieces of many long texts takes a second.
        usage = await asyncio.to_thread(self._used, body.texts, "input", request)
        vectors = await asyncio.gather(*map(self._embedded, body.texts))
        return EmbeddingsResponse(
            data=[protocol.embedding(i, v, body.encoding_format) for i, v in enumerate(vectors)],
            usage=usage,
            **self._identity(),
        )

    async def search(self, body: SearchRequest, request: Request) -> SearchResponse:
        """The passages whose meaning is nearest to the query's, the best first."""
        if body.model is not None:
            self._check_name(body.model)
        usage = self._used([body.query], "query", request)
        self._model.watch_inputs({QUESTION_TOKENS: [usage.prompt_tokens - NUM_MARKS]})
        vector_D = await self._embedded(body.query)
        passages = self._opened.nearest(vector_D, body.num_results)
        good = [protocol.found(passage) for passage in passages if passage.score >= body.min_score]
        self._model.recorder.count(metrics.KNOWLEDGE_LOOKUPS, outcome="hit" if good else "miss")
        return SearchResponse(results=good, usage=usage, **self._identity())

    async def _embedded(self, text: str) -> Vector:
        if self._embed is None:
            raise ServingError("the model is not loaded yet", remedy="Wait until /readyz says so.")
        return await self._embed(text)

    def _used(self, texts: Sequence[str], field: str, request: Request) -> Usage:
        """What the texts cost. Raises `RequestError` for one that does not fit."""
        total = 0
        for text in texts:
            num_tokens = self._opened.count_tokens([text])
            if num_tokens > MAX_WORD_PIECES:
                raise RequestError(
                    "a text is too long for this model",
                    saw=f"{num_tokens} word pieces",
                    allowed=f"{MAX_WORD_PIECES}, with the two that mark its start and end",
                    remedy="Send it in parts.",
                    field=field,
                )
            total += num_tokens
        count_tokens(request.scope, total)
        return Usage(prompt_tokens=total, total_tokens=total)

    def _check_name(self, name: str) -> None:
        if name not in self._names:
            raise NotFoundError(
                "this application serves another model",
                saw=repr(name),
                allowed=", ".join(self._names),
                field="model",
            )

    def _identity(self) -> dict[str, Any]:
        identity = self._model.identity
        return {
            "model": identity.name,
            "model_version": identity.version,
            "model_digest": identity.digest,
        }


def examples(folder: Path) -> Sequence[Example]:
    """A question in the words of the first chunk's title or text."""
    first = table.Chunks(folder / table.FILE)[0].chunk
    words = " ".join((first.title or first.text).split()[:12])
    return [Example(SEARCH, {"query": words, "num_results": 3})]
