"""What a serve file can set for a chat application."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mizzen.workloads.contract import Fields


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
