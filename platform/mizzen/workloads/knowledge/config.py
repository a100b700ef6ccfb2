"""What a job file says of a knowledge base, and the limits that hold for every one."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mizzen.workloads.contract import Fields

EMBEDDER: Literal["all-minilm-l6-v2"] = "all-minilm-l6-v2"
MAX_WORD_PIECES = 256
"""What all-MiniLM-L6-v2 was made for, with the two that mark its start and end; more are cut off."""
MAX_CHUNK_TOKENS = MAX_WORD_PIECES - 2
MAX_FILE_BYTES = 64 * 2**20
MAX_CHARACTERS = 20_000_000
"""Of text in one document."""
MAX_PAGES = 5_000
MAX_FILES = 50_000
MAX_CHUNKS = 100_000
MAX_QUESTIONS = 10_000
QUESTION_TOKENS = "question_tokens"
"""The feature by which drift of questions is seen: word pieces, without the two that mark start and end."""


class KnowledgeData(Fields):
    """The `data` section of a job that builds a knowledge base."""

    paths: Annotated[list[str], Field(min_length=1)]
    """Files and folders on this machine. A document's name is its path from the folder that is named here,
    with that folder's own name."""
    questions: str | None = None
    """A CSV file with the columns `question`, `document` and perhaps `text`: what the base is measured by."""
    holdout_share: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Without `questions`: the share of the questions in CSV documents that is held out to measure by. Their
    answers can be found, their own words are not indexed. 0 indexes all, and measures nothing."""
    chunk_tokens: Annotated[int, Field(ge=32, le=MAX_CHUNK_TOKENS)] = 200
    """Most word pieces in a chunk, its title included."""
    overlap: Annotated[int, Field(ge=0)] = 40
    """Word pieces of a chunk's end that the next one of the same section begins with, at most."""
    embedder: Literal["all-minilm-l6-v2"] = EMBEDDER
    previous: str | None = None
    """A version in the store (`NAME`, `NAME@3`): embeddings of texts that it has too are taken from it. One
    that is not there is no error: so a first build has the same job as later ones."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.overlap > self.chunk_tokens // 2:
            raise ValueError(
                f"overlap ({self.overlap}) must be at most half of chunk_tokens ({self.chunk_tokens})"
            )
        return self


class KnowledgeModel(Fields):
    """The `model` section: empty, the embedder is part of the data, because chunks are cut to its measure."""
