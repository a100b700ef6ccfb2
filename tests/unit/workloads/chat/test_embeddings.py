from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mizzen.errors import RequestError
from mizzen.workloads.chat.embeddings import (
    TEXTS_A_TURN,
    EmbeddingRequest,
    Embeddings,
    body,
    checked,
    embedded,
)
from mizzen.workloads.contract import ModelIdentity

VECTORS = np.array([[0.6, 0.8, 0.0], [1.0, 0.0, 0.0]], np.float32)


class Fixed:
    """Embeds any texts as rows of `VECTORS`, a token for each word."""

    identity = ModelIdentity("kb", 3, "c" * 64)
    max_tokens = 5

    def __init__(self) -> None:
        self.asked: list[str] = []

    def search(self, question: str, num_passages: int) -> Any:
        raise AssertionError("an embedding is no search")

    def embed(self, texts: Sequence[str]) -> Any:
        self.asked += texts
        return np.resize(VECTORS, (len(texts), 3))

    def count_tokens(self, texts: Sequence[str]) -> int:
        return sum(len(text.split()) for text in texts)


def ask(text: Any = "my printer", **fields: Any) -> dict[str, Any]:
    request = EmbeddingRequest.model_validate({"model": "kb", "input": text, **fields})
    base = Fixed()
    num_tokens = checked(request, base)
    vectors_ND = asyncio.run(embedded(request, base, asyncio.Lock()))
    answer = body(request, base.identity, vectors_ND, num_tokens)
    Embeddings.model_validate(answer)
    return answer


def test_a_text_or_several_become_vectors_in_their_order() -> None:
    answer = ask(["my printer", "screen"])
    assert [one["index"] for one in answer["data"]] == [0, 1]
    assert np.allclose([one["embedding"] for one in answer["data"]], VECTORS)
    assert answer["model"] == "kb@3" and answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert len(ask("my printer")["data"]) == 1


def test_base64_is_the_bytes_of_the_floats() -> None:
    encoded = ask(encoding_format="base64")["data"][0]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(encoded), "<f4"), VECTORS[0])


def test_only_the_models_own_dimensions_are_given() -> None:
    assert ask(dimensions=3)["data"]
    with pytest.raises(RequestError, match="saw 2; allowed: 3"):
        ask(dimensions=2)


@pytest.mark.parametrize(
    "fields",
    [
        *({"text": text} for text in ("", [], ["a", ""], [1, 2], [[1]], ["a"] * 2049)),
        {"encoding_format": "int8"},
        {"dimensions": 0},
        {"truncate": True},
    ],
)
def test_what_cannot_be_honoured_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ask(**fields)


def test_a_text_that_the_model_would_cut_is_refused_with_both_numbers() -> None:
    assert ask(["w " * 5] * 2)["usage"]["prompt_tokens"] == 10
    with pytest.raises(RequestError, match="saw 6 tokens; allowed: 5 tokens"):
        ask(["short", "w " * 6])


def test_requests_with_many_texts_take_turns() -> None:
    async def both() -> tuple[Any, Any, list[str]]:
        base, turn = Fixed(), asyncio.Lock()
        many = EmbeddingRequest(model="kb", input=["many"] * (3 * TEXTS_A_TURN))
        one = EmbeddingRequest(model="kb", input="one")
        vectors = await asyncio.gather(embedded(many, base, turn), embedded(one, base, turn))
        return *vectors, base.asked

    many_ND, one_ND, asked = asyncio.run(both())
    assert many_ND.shape == (3 * TEXTS_A_TURN, 3) and one_ND.shape == (1, 3)
    assert asked.index("one") == TEXTS_A_TURN
