"""A model's tokens, as generation needs them: their text, their bytes, and which of them a grammar allows.

It does not turn messages into tokens: `tokens` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any

from mizzen.workloads.chat.grammar import Grammar, Matcher, compiled

MAX_COMPILED = 64
"""Grammars that are kept compiled."""


class Vocabulary:
    """Over a fast tokenizer of Hugging Face; safe to call from threads."""

    def __init__(self, tokenizer: Any, end_tokens: frozenset[int]) -> None:
        """`end_tokens` are the model's; the tokenizer's own end token is added."""
        own = tokenizer.eos_token_id
        self.end_tokens = end_tokens if own is None else end_tokens | {own}
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._lock, self._compiling = Lock(), Lock()
        self._compiled = lru_cache(MAX_COMPILED)(lambda grammar: compiled(self._guidance, grammar))

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text, without special tokens."""
        text: str = self._backend.decode(tokens, skip_special_tokens=True)
        return text

    def bytes_of(self, token: int) -> bytes:
        """A token's own bytes, which need not be whole characters."""
        own: bytes = self._opened().decode_bytes([token])
        return own

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the start of `grammar`; compiled once, up to a second for a hard one.

        Raises `RequestError` where the grammar is too complex.
        """
        guidance = self._opened()
        with self._compiling:  # not the other lock: `bytes_of` is asked between two tokens of others
            return Matcher(self._compiled(grammar).deep_copy(), guidance.vocab_size)

    def _opened(self) -> Any:
        with self._lock:
            return self._guidance

    @cached_property
    def _guidance(self) -> Any:
        from llguidance.hf import from_tokenizer

        return from_tokenizer(self._tokenizer, eos_token=sorted(self.end_tokens))
