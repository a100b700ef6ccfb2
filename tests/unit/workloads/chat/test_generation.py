"""One sequence over words that are single bytes; the model's wishes are given as logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mizzen.workloads.chat.generation import Generation, Piece
from mizzen.workloads.chat.grammar import Grammar, Matcher
from mizzen.workloads.chat.sampling import Sampling

END = 0


class Bytes:
    end_tokens = frozenset({END})

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(t for t in tokens if t != END).decode(errors="replace")

    def bytes_of(self, token: int) -> bytes:
        return bytes([token])

    def matcher(self, grammar: Grammar) -> Matcher:
        raise AssertionError("no grammar here")


def told(tokens: bytes, max_tokens: int = 100, **options: Any) -> list[Piece]:
    """The pieces of a generation for which the model wants `tokens` one after another."""
    sampling = Sampling(max_tokens, temperature=0, **options)
    generation = Generation([1, 2, 3], sampling, lambda _: None, Bytes())
    pieces = []
    for token in tokens:
        logits_V = np.zeros(256, np.float32)
        logits_V[token], logits_V[ord("?")] = 3, 1
        piece = generation.advance(logits_V, full=False)
        if piece is not None:
            pieces.append(piece)
            if piece.finish is not None:
                break
    return pieces


def test_each_token_is_told_with_its_probability_and_the_likeliest_beside_it() -> None:
    pieces = told(b"ab\0", logprobs=2)
    assert [piece.text for piece in pieces] == ["a", "b", ""]
    first = pieces[0].logprobs[0]
    total = math.exp(3) + math.exp(1) + 254
    assert (first.text, first.bytes) == ("a", b"a")
    assert first.logprob == pytest.approx(3 - math.log(total), abs=1e-5)
    assert [(t.text, round(t.logprob + math.log(total), 4)) for t in first.top] == [("a", 3.0), ("?", 1.0)]
    assert pieces[2].logprobs == ()  # the end token is no part of the text


def test_without_being_asked_nothing_is_told() -> None:
    assert all(piece.logprobs == () for piece in told(b"ab\0"))


def test_bytes_of_one_character_come_together_each_with_its_own() -> None:
    pieces = told("é!".encode() + b"\0", logprobs=0)
    assert [piece.text for piece in pieces] == ["é", "!", ""]
    assert [t.bytes for t in pieces[0].logprobs] == [b"\xc3", b"\xa9"]
    assert all(t.text == "\ufffd" and t.top == () for t in pieces[0].logprobs)


def test_tokens_of_a_stop_string_are_not_told() -> None:
    pieces = told(b"yes STOP no", logprobs=0, stop=("STOP",))
    assert "".join(piece.text for piece in pieces) == "yes "
    assert b"".join(t.bytes for piece in pieces for t in piece.logprobs) == b"yes "
    assert pieces[-1].finish == "stop"


def test_an_end_token_can_be_ignored_for_answers_of_a_fixed_length() -> None:
    pieces = told(b"a\0b\0c", max_tokens=4, ignore_eos=True)
    assert "".join(piece.text for piece in pieces) == "ab"
    assert (pieces[-1].num_tokens, pieces[-1].finish) == (4, "length")
