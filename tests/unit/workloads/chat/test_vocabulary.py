from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mizzen.workloads.chat.tokens import tokenizer_of
from mizzen.workloads.chat.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return tokenizer_of(tiny_base)


def test_text_and_bytes_are_those_of_the_tokens(tokenizer: Any) -> None:
    vocabulary = Vocabulary(tokenizer, frozenset())
    tokens = tokenizer.encode("Grüße aus Köln 😀", add_special_tokens=False)
    assert vocabulary.decode(tokens) == "Grüße aus Köln 😀"
    assert b"".join(map(vocabulary.bytes_of, tokens)) == "Grüße aus Köln 😀".encode()


def test_special_tokens_have_no_text(tokenizer: Any) -> None:
    vocabulary = Vocabulary(tokenizer, frozenset())
    hi = tokenizer.encode("Hi", add_special_tokens=False)
    assert vocabulary.decode([tokenizer.bos_token_id, *hi, tokenizer.eos_token_id]) == "Hi"


def test_the_tokenizers_end_token_ends_too(tokenizer: Any) -> None:
    assert Vocabulary(tokenizer, frozenset({7})).end_tokens == {7, tokenizer.eos_token_id}
