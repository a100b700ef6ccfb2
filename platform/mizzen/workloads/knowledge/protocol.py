"""Bodies of requests and answers: OpenAI's embeddings, and search.

OpenAI's fields are understood as OpenAI's own client sends them; a field that cannot be honoured is refused.
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StrictFloat, StrictInt, StrictStr

from mizzen.workloads.contract import Fields, ModelIdentity, Passage

MAX_INPUTS = 256
MAX_RESULTS = 100
LONGEST_TEXT = 16_384
"""In characters: more than ever fit, and few enough to count their word pieces at once."""

Text = Annotated[StrictStr, Field(min_length=1, max_length=LONGEST_TEXT)]


class EmbeddingsRequest(Fields):
    """What is to be embedded."""

    model: Annotated[StrictStr, Field(max_length=256)] = Field(
        description="The model's name, NAME@VERSION, or the application's name."
    )
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)] = Field(
        description="A text or several. Token numbers are not understood."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: the bytes of little-endian float32."
    )
    dimensions: Annotated[StrictInt, Field(ge=1, le=65_536)] | None = Field(
        None, description="Only as many as the model has."
    )
    user: Annotated[StrictStr, Field(max_length=256)] | None = Field(None, description="Not looked at.")

    @property
    def texts(self) -> list[str]:
        """The input as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


class Embedding(Fields):
    """One text's embedding, of length one."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(Fields):
    """Word pieces that were read, with the two that mark the start and end of each text."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(Fields):
    """OpenAI's answer, with the version and digest of the model beside."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    model_version: int
    model_digest: str
    usage: Usage


class SearchRequest(Fields):
    """A question to the documents."""

    query: Text
    num_results: Annotated[StrictInt, Field(ge=1, le=MAX_RESULTS)] = 5
    min_score: Annotated[StrictFloat | StrictInt, Field(ge=-1, le=1)] = Field(
        -1, description="Passages that are less similar are left out."
    )
    model: Annotated[StrictStr, Field(max_length=256)] | None = Field(
        None, description="If it is given, it must be this model."
    )


class FoundPassage(Fields):
    """A part of a document."""

    document: str
    chunk: int = Field(description="Which part of the document, from 0.")
    title: str = Field(description="The headings above it, or the question that it answers; may be empty.")
    score: float = Field(description="Cosine similarity to the query, -1 to 1.")
    text: str


class SearchResponse(Fields):
    """The passages nearest in meaning, the best first; fewer than asked for if no more are good enough."""

    model: str
    model_version: int
    model_digest: str
    results: list[FoundPassage]
    usage: Usage


def embedding(index: int, vector_D: NDArray[np.float32], encoding: str) -> Embedding:
    """One text's embedding in the encoding that was asked for."""
    if encoding == "base64":
        return Embedding(index=index, embedding=base64.b64encode(vector_D.astype("<f4").tobytes()).decode())
    return Embedding(index=index, embedding=vector_D.tolist())


def found(passage: Passage) -> FoundPassage:
    """A passage as it is answered."""
    return FoundPassage(
        document=passage.document,
        chunk=passage.chunk,
        title=passage.title,
        score=passage.score,
        text=passage.text,
    )


def known_as(identity: ModelIdentity, app: str) -> list[str]:
    """The names under which a model answers."""
    return list(dict.fromkeys([identity.name, f"{identity.name}@{identity.version}", app]))
