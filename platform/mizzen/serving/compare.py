"""Whether two versions gave the same answer to one request, as far as that can be said of any workload.

What must differ (ids, times, the version's own name) is left out, and numbers may differ a little. It does
not say which of the two is the better one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LEFT_OUT = frozenset(
    {
        *("id", "request_id", "object"),
        *("created", "created_at", "timestamp"),
        *("model", "version", "digest", "model_version", "model_digest", "system_fingerprint"),
        # How much of a prompt was cached says who asked before.
        "prompt_tokens_details",
    }
)
"""Fields, at any depth, that differ between versions or from one time to the next."""
_ABSOLUTE = 1e-6
"""Numbers that differ by no more are the same: around nothing a share says nothing."""
Place = tuple[str | int, ...]
"""Where a value stands: names of fields, and numbers in lists."""


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    content_type: str
    body: bytes


def same(one: Answer, other: Answer, tolerance: float, left_out: frozenset[str] = frozenset()) -> bool:
    """Whether two answers agree: status, and content but for `LEFT_OUT` and `left_out`.

    `tolerance`: by which share of the larger one two numbers may differ. Streams of events agree if what
    their events say together does, however it was cut. What is neither JSON nor such a stream must agree
    byte for byte.
    """
    if one.status != other.status:
        return False
    try:
        return _Comparison(tolerance, LEFT_OUT | left_out).agree(_content(one), _content(other))
    except (ValueError, RecursionError):
        return one.body == other.body


def _content(answer: Answer) -> Any:
    if "json" in answer.content_type:
        return json.loads(answer.body)
    if answer.content_type.startswith("text/event-stream"):
        return _together(answer.body.decode())
    return answer.body


def _together(text: str) -> dict[Place, Any]:
    """What the events of a stream say together: the texts of a field joined, of other values the last."""
    said: dict[Place, Any] = {}
    for line in text.splitlines():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data in ("", "[DONE]"):
            continue
        for place, value in _leaves(json.loads(data), ()):
            both_texts = isinstance(value, str) and isinstance(said.get(place), str)
            said[place] = said[place] + value if both_texts else value
    return said


def _leaves(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, (*place, name))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _leaves(part, (*place, number))
    else:
        yield place, value


@dataclass(frozen=True)
class _Comparison:
    tolerance: float
    left_out: frozenset[str]

    def agree(self, one: Any, other: Any) -> bool:
        if isinstance(one, dict) and isinstance(other, dict):
            names = self._kept(one)
            return names == self._kept(other) and all(self.agree(one[name], other[name]) for name in names)
        if isinstance(one, list) and isinstance(other, list):
            return len(one) == len(other) and all(map(self.agree, one, other))
        if _is_number(one) and _is_number(other):
            both_nan = one != one and other != other
            return both_nan or math.isclose(one, other, rel_tol=self.tolerance, abs_tol=_ABSOLUTE)
        return bool(one == other)

    def _kept(self, content: dict[Any, Any]) -> set[Any]:
        return {
            name
            for name in content
            if not self.left_out.intersection(name if isinstance(name, tuple) else (name,))
        }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
