"""What a serve file can set for a chat application."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from mizzen.workloads.contract import Fields


class KnowledgeOptions(Fields):
    """Which documents a chat application answers from, and what it says where they hold no answer."""

    model: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?(@[a-z0-9-]{1,47})?$")]
    """The knowledge base: `NAME@production`, say. An alias is followed while it serves."""
    num_passages: Annotated[int, Field(ge=1, le=50)] = 4
    """Most passages that the model is shown with a question."""
    max_passage_tokens: Annotated[int, Field(ge=16)] = 1024
    """Tokens of all passages together, and of what tells the model what they are. The least similar ones are
    left out first, and more of them where the context is short; the best one may have more tokens."""
    min_score: Annotated[float, Field(ge=-1, le=1)] = 0.3
    """Passages that are less similar to the question (cosine) are not used."""
    below_min_score: Literal["refuse", "answer"] = "refuse"
    """Where no passage is similar enough: say `unknown_answer` without asking the model, or let the model
    answer without passages."""
    unknown_answer: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = (
        "I do not know: I have found nothing about that in my documents."
    )
    follow_ups: bool = True
    """A question that finds nothing by itself ("and in winter?") is searched for once more, together with the
    user's words before it."""
    refresh_s: Annotated[float, Field(ge=1)] = 15
    """How often is asked whether the alias has moved."""


class ChatOptions(Fields):
    """The `options` of a chat application in a serve file."""

    max_concurrent: Annotated[int, Field(ge=1, le=256)] = 8
    """Answers that are generated at the same time; each takes its share of the cache's memory."""
    max_waiting: Annotated[int, Field(ge=0)] = 64
    """Requests that wait for their turn; one more is answered with 429."""
    max_context: Annotated[int, Field(ge=16)] = 2048
    """Tokens of a conversation and its answer together, at most the model's own context."""
    default_max_tokens: Annotated[int, Field(ge=1)] = 512
    """Length of an answer where the request names none."""
    reused_tokens: Annotated[int, Field(ge=0)] = 8192
    """Tokens of earlier conversations that are kept, so that a next turn need not read them again; 0 keeps
    none. A token takes 2 × layers × key-value heads × head size × 4 bytes: 46 KB with SmolLM2-135M. Only
    requests with the same API key share them, for how fast an answer begins tells what was asked before."""
    knowledge: KnowledgeOptions | None = None
    """The knowledge base that the application answers from."""
