"""Grammars over the tiny model's tokens, walked at random: whatever they allow must be what was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mizzen.errors import RequestError
from mizzen.workloads.chat.grammar import MAX_SCHEMA_CHARACTERS, MAX_SCHEMA_DEPTH, Grammar
from mizzen.workloads.chat.sampling import Sampler, Sampling
from mizzen.workloads.chat.tokens import tokenizer_of
from mizzen.workloads.chat.vocabulary import Vocabulary

TICKET: dict[str, Any] = {
    "type": "object",
    "properties": {
        "urgent": {"type": "boolean"},
        "kind": {"enum": ["printer", "screen"]},
        "pages": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3},
    },
    "required": ["urgent", "kind", "pages"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def vocabulary(tiny_base: Path) -> Vocabulary:
    return Vocabulary(tokenizer_of(tiny_base), frozenset())


def token_of(vocabulary: Vocabulary, own: bytes) -> int:
    return next(token for token in range(288) if vocabulary.bytes_of(token) == own)


def walked(vocabulary: Vocabulary, grammar: Grammar, seed: int, most: int = 400) -> str | None:
    """A text by a model that has no opinion; None if it was not complete after `most` tokens."""
    sampler = Sampler(Sampling(most, seed=seed, grammar=grammar), vocabulary.matcher(grammar))
    logits_V = np.zeros(300, np.float32)  # more than the vocabulary has, as padded models
    tokens: list[int] = []
    while len(tokens) < most:
        token = sampler.pick(logits_V)
        if token in vocabulary.end_tokens:
            return vocabulary.decode(tokens)
        tokens.append(token)
        if sampler.done:
            return vocabulary.decode(tokens)
    return None


def test_whatever_the_model_likes_the_text_is_valid_by_the_schema(vocabulary: Vocabulary) -> None:
    grammar = Grammar.json_schema(TICKET)
    texts = [walked(vocabulary, grammar, seed) for seed in range(20)]
    answers = [json.loads(text) for text in texts if text is not None]
    assert len(answers) == 20 and len({str(answer) for answer in answers}) > 5
    for answer in answers:
        assert set(answer) == {"urgent", "kind", "pages"}
        assert isinstance(answer["urgent"], bool) and answer["kind"] in ("printer", "screen")
        assert len(answer["pages"]) <= 3 and all(0 <= page <= 9 for page in answer["pages"])


def test_any_json_is_an_object(vocabulary: Vocabulary) -> None:
    texts = [walked(vocabulary, Grammar.any_json(), seed) for seed in range(12)]
    answers = [json.loads(text) for text in texts if text is not None]
    assert answers and all(isinstance(answer, dict) for answer in answers)


def test_one_grammar_serves_many_generations_at_once(vocabulary: Vocabulary) -> None:
    grammar = Grammar.json_schema({"enum": ["ab", "cd"]})
    first, second = vocabulary.matcher(grammar), vocabulary.matcher(grammar)
    quote = token_of(vocabulary, b'"')
    first.take(quote)
    assert not first.allowed(300)[quote] and second.allowed(300)[quote]


def test_a_token_that_is_not_allowed_is_not_taken(vocabulary: Vocabulary) -> None:
    matcher = vocabulary.matcher(Grammar.any_json())
    with pytest.raises(RuntimeError, match="does not allow token"):
        matcher.take(token_of(vocabulary, b"}"))


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "text"}, "text"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "x-guidance": {"lenient": True}}, "x-guidance"),
        ({"type": "string", "description": "x" * MAX_SCHEMA_CHARACTERS}, "too long"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_and_named(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says) as refused:
        Grammar.json_schema(schema)
    assert refused.value.field == "response_format"


def test_a_schema_of_any_depth_is_refused_and_not_followed() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(20 * MAX_SCHEMA_DEPTH):
        schema = {"type": "array", "items": schema}
    with pytest.raises(RequestError, match="nested too deeply"):
        Grammar.json_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        '{"const": "\\ud800"}',
        '{"type": "integer", "minimum": ' + "9" * 400 + "}",
        '{"const": NaN}',
        '{"const": 1e999}',
    ],
)
def test_values_that_json_cannot_write_are_refused_not_changed(schema: str) -> None:
    with pytest.raises(RequestError, match="the JSON schema") as refused:
        Grammar.json_schema(json.loads(schema))
    assert len(str(refused.value)) < 400
