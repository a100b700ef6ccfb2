"""The calls of a knowledge base that is served by itself."""

from __future__ import annotations

from mizzen.client.calls import Answer, Call, given
from mizzen.client.chat import embed
from mizzen.client.resource import Resource, later, now
from mizzen.client.sending import AsyncSender, Sender


class FoundPassage(Answer):
    """A passage of a document."""

    document: str
    chunk: int
    score: float
    """Cosine similarity to the query, -1 to 1."""
    text: str
    title: str = ""
    """The headings above it, or the question that it answers."""


class SearchResults(Answer):
    """The passages nearest in meaning, the best first."""

    model: str
    model_version: int
    results: list[FoundPassage]


def search(
    prefix: str,
    query: str,
    *,
    num_results: int | None = None,
    min_score: float | None = None,
    timeout_s: float | None = None,
) -> Call[SearchResults]:
    """The passages that are nearest in meaning to `query`."""
    body = {"query": query, **given(num_results=num_results, min_score=min_score)}
    return Call("POST", f"{prefix}/v1/search", SearchResults, body, timeout_s)


class Knowledge(Resource[Sender]):
    """A knowledge base."""

    search = now(search)
    embed = now(embed)


class AsyncKnowledge(Resource[AsyncSender]):
    """A knowledge base, to be awaited."""

    search = later(search)
    embed = later(embed)
