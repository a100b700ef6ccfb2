"""Constrained answers: JSON objects, and JSON by a schema, token by token, with llguidance.

A grammar is checked when it is made; what it allows next is asked of a `Matcher`, one for each generation.
It does not pick tokens: `sampling` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mizzen.errors import RequestError

WHITESPACE = r"( |\n {0,32})?"
"""Between the parts of JSON: nothing, a space, or a new line with its indentation. Without a bound a model
can write white space until its answer is cut."""
OWN_KEY = "x-guidance"
"""Where llguidance takes options from a schema; they could weaken what the schema says."""
MAX_SCHEMA_CHARACTERS = 64 * 1024
MAX_SCHEMA_DEPTH = 64
MAX_TOLD = 200
"""Characters of what is wrong with a schema."""


@dataclass(frozen=True)
class Grammar:
    """What an answer must look like; hashable, and checked to be one that can be kept to."""

    text: str
    """In llguidance's own notation."""

    @classmethod
    def any_json(cls) -> Grammar:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> Grammar:
        """JSON that is valid by `schema`. Takes milliseconds, so it can be called on an event loop.

        Raises `RequestError`, saying what of the schema is wrong or not supported: nothing is left out.
        """
        from llguidance import LLMatcher

        _check(schema)
        options: Any = {"whitespace_pattern": WHITESPACE}
        try:
            text = LLMatcher.grammar_from_json_schema(dict(schema), overrides=options)
        except ValueError as cause:  # half a surrogate pair, an integer of hundreds of digits
            raise _refused("the JSON schema cannot be kept to", str(cause)[:MAX_TOLD]) from None
        is_error, messages = LLMatcher.validate_grammar_with_warnings(text)
        if is_error or messages:
            raise _refused("the JSON schema cannot be kept to", "; ".join(messages))
        return cls(text)


class Matcher:
    """Follows one generation through its grammar; for one thread at a time."""

    def __init__(self, matcher: Any, num_words: int) -> None:
        self._matcher = matcher
        self._mask_W = np.zeros(-(-num_words // 32), np.int32)

    def allowed(self, num_words: int) -> NDArray[np.bool_]:
        """For each of `num_words` tokens whether it may come next, (V,)."""
        self._matcher.unsafe_compute_mask_ptr(self._mask_W.ctypes.data, self._mask_W.nbytes)
        bits = np.unpackbits(self._mask_W.view(np.uint8), bitorder="little")
        allowed_V = np.zeros(num_words, np.bool_)
        allowed_V[: len(bits)] = bits[:num_words]
        return allowed_V

    def take(self, token: int) -> None:
        """Go on by the token that was picked. Raises `RuntimeError` if it was not allowed."""
        if not self._matcher.consume_token(token):
            raise RuntimeError(f"the grammar does not allow token {token}: {self._matcher.get_error()}")

    @property
    def done(self) -> bool:
        """Whether the answer is complete and nothing more may follow."""
        return bool(self._matcher.is_stopped())


def compiled(tokenizer: Any, grammar: Grammar) -> Any:
    """A matcher of llguidance at the grammar's start, to be copied; up to a second for a hard schema.

    `tokenizer` is an `LLTokenizer`. Raises `RequestError` where the grammar is too complex.
    """
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, grammar.text, log_level=0)
    if matcher.is_error():
        raise _refused("the JSON schema cannot be kept to", matcher.get_error())
    return matcher


def _check(schema: Mapping[str, Any]) -> None:
    """Refuse what would cost too much to look at, level by level, so that no depth can hurt."""
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        if any(isinstance(part, Mapping) and OWN_KEY in part for part in level):
            raise _refused("the JSON schema has a key that is no part of JSON Schema", repr(OWN_KEY))
        level = [inner for part in level for inner in _parts(part)]
        if not level:
            break
    else:
        raise _refused("the JSON schema is nested too deeply", None, f"{MAX_SCHEMA_DEPTH} levels")
    try:
        size = len(json.dumps(schema, allow_nan=False))
    except ValueError:  # llguidance would take null for it
        raise _refused("the JSON schema has a number that is no JSON", "NaN or Infinity") from None
    if size > MAX_SCHEMA_CHARACTERS:
        raise _refused("the JSON schema is too long", f"{size} characters", str(MAX_SCHEMA_CHARACTERS))


def _parts(value: object) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


def _refused(what: str, saw: str | None, allowed: str | None = None) -> RequestError:
    return RequestError(
        what,
        saw=saw,
        allowed=allowed,
        remedy="Write a simpler schema, or ask for a json_object.",
        field="response_format",
    )
