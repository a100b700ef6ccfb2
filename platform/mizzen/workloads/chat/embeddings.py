"""OpenAI's `/v1/embeddings`, by the embedding model of the application's knowledge base.

It does not embed: the knowledge base's `Retriever` does.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mizzen.errors import NotFoundError, RequestError
from mizzen.workloads.chat.knowledge import reference_of
from mizzen.workloads.contract import Fields, ModelIdentity, Retriever

MAX_INPUTS = 2048
"""OpenAI's limit."""
TEXTS_A_TURN = 16
"""Texts that are embedded before another request's are."""
InputText = Annotated[str, Field(min_length=1)]


class EmbeddingRequest(Fields):
    """The body of `POST /v1/embeddings`; token ids are not taken, for they would be another model's."""

    model: str
    input: InputText | Annotated[list[InputText], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] = "float"
    """`base64`: the bytes of little-endian float32, which official clients ask for by themselves."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Only what the model has: embeddings are not shortened."""
    user: str | None = None
    """For the caller's own books: it is neither kept nor logged."""

    def texts(self) -> list[str]:
        """What is to be embedded."""
        return [self.input] if isinstance(self.input, str) else list(self.input)


class Embedding(Fields):
    """The embedding of one text, of unit length."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Fields):
    """The numbers of tokens."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Fields):
    """The embeddings in the order of the texts."""

    object: Literal["list"]
    model: str
    """The knowledge base, `NAME@VERSION`."""
    data: list[Embedding]
    usage: EmbeddingUsage


def no_embeddings(app: str) -> NotFoundError:
    """The error of an application without a knowledge base."""
    return NotFoundError(
        f"the application {app!r} has no model for embeddings",
        remedy="Make a knowledge base with `mizzen knowledge build` and name it under options.knowledge.model"
        " in the serve file; its embedding model answers here then.",
        field="model",
        code="model_not_found",
    )


def checked(request: EmbeddingRequest, retriever: Retriever) -> int:
    """How many tokens the texts have. It blocks. Raises `RequestError` for one that the model would cut."""
    total = 0
    for text in request.texts():
        num_tokens = retriever.count_tokens([text])
        if num_tokens > retriever.max_tokens:
            raise RequestError(
                "a text is too long for this model",
                saw=f"{num_tokens} tokens",
                allowed=f"{retriever.max_tokens} tokens",
                remedy="Send it in parts.",
                field="input",
            )
        total += num_tokens
    return total


async def embedded(request: EmbeddingRequest, retriever: Retriever, turn: asyncio.Lock) -> NDArray[Any]:
    """The embeddings of the texts, (N, D). Raises `RequestError` if other dimensions are asked for.

    Requests that hold the same `turn` embed a few texts each in turns, so that one with many holds up nobody,
    and only one thread is busy with them.
    """
    texts = request.texts()
    parts = []
    for start in range(0, len(texts), TEXTS_A_TURN):
        async with turn:
            part_ND = await asyncio.to_thread(retriever.embed, texts[start : start + TEXTS_A_TURN])
        if request.dimensions not in (None, part_ND.shape[1]):
            raise RequestError(
                "this model's embeddings cannot be shortened",
                saw=request.dimensions,
                allowed=str(part_ND.shape[1]),
                field="dimensions",
            )
        parts.append(part_ND)
    return np.concatenate(parts)


def body(
    request: EmbeddingRequest, identity: ModelIdentity, vectors_ND: NDArray[Any], num_tokens: int
) -> dict[str, Any]:
    """The body of the answer."""
    return {
        "object": "list",
        "model": reference_of(identity),
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(vector_D, request.encoding_format)}
            for index, vector_D in enumerate(vectors_ND)
        ],
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


def names(identity: ModelIdentity) -> list[str]:
    """The names under which a knowledge base's embedding model answers."""
    return [identity.name, reference_of(identity)]


def _encoded(vector_D: NDArray[Any], encoding: str) -> list[float] | str:
    floats_D = vector_D.astype("<f4")
    if encoding == "base64":
        return base64.b64encode(floats_D.tobytes()).decode()
    return [float(value) for value in np.asarray(floats_D, np.float64)]
