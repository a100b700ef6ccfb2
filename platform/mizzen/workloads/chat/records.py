"""Records what an engine does as series: in its own thread, once a turn, and only what has changed.

It counts nothing itself: the engine's `Counters` are the truth, and what they say when a `Records` is made
(of the warm-up, say) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from mizzen import metrics
from mizzen.series import Series
from mizzen.workloads.chat.generation import Generation
from mizzen.workloads.contract import Recorder


@dataclass(frozen=True)
class Counters:
    """What an engine has done since it was made, and what it does at this moment."""

    prompt_tokens: int
    """Tokens of prompts that were read to their end, those that were cached too."""
    cached_tokens: int
    """Of these, the ones that did not have to be read again."""
    generated_tokens: int
    finished: int
    """Generations that came to their end."""
    cancelled: int
    """Generations that were stopped because nobody waited for them any more, queued or begun."""
    failed: int
    """Generations that ended in an error."""
    running: int
    """Generations that hold a slot now."""
    waiting: int
    """Generations that have no slot yet."""
    num_slots: int
    used_tokens: int
    """Tokens that generations with a slot have in the cache now."""
    max_used_tokens: int
    """Most tokens that all slots together can hold."""
    kept_tokens: int
    """Tokens of earlier sequences that are kept for prompts to come."""
    max_kept_tokens: int


_COUNTED: tuple[tuple[str, Series, dict[str, str]], ...] = (
    ("prompt_tokens", metrics.CHAT_PROMPT_TOKENS, {}),
    ("cached_tokens", metrics.CHAT_CACHED_TOKENS, {}),
    ("generated_tokens", metrics.CHAT_GENERATED_TOKENS, {}),
    ("finished", metrics.CHAT_GENERATIONS, {"outcome": "finished"}),
    ("cancelled", metrics.CHAT_GENERATIONS, {"outcome": "cancelled"}),
    ("failed", metrics.CHAT_GENERATIONS, {"outcome": "failed"}),
)
_SHOWN: tuple[tuple[str, Series, dict[str, str]], ...] = (
    ("running", metrics.CHAT_SEQUENCES, {"state": "running"}),
    ("waiting", metrics.CHAT_SEQUENCES, {"state": "waiting"}),
    ("used_tokens", metrics.CHAT_KV_TOKENS, {"state": "used"}),
    ("kept_tokens", metrics.CHAT_KV_TOKENS, {"state": "kept"}),
    ("max_used_tokens", metrics.CHAT_KV_CAPACITY, {"state": "used"}),
    ("max_kept_tokens", metrics.CHAT_KV_CAPACITY, {"state": "kept"}),
)
"""Fields of `Counters`, and where they are written."""


class Records:
    """Writes the series of one engine."""

    def __init__(self, recorder: Recorder, counters: Counters) -> None:
        """Counters count from `counters` on; gauges show it at once."""
        self._recorder = recorder
        self._before = counters
        for _, series, labels in _COUNTED:
            recorder.count(series, 0, **labels)  # there from the start: a first error is a step up from 0
        for field, series, labels in _SHOWN:
            recorder.set(series, getattr(counters, field), **labels)

    def update(self, counters: Counters) -> None:
        """Write what has changed since the last time."""
        before, self._before = self._before, counters
        if counters == before:
            return
        for field, series, labels in _COUNTED:
            more = getattr(counters, field) - getattr(before, field)
            if more:
                self._recorder.count(series, more, **labels)
        for field, series, labels in _SHOWN:
            value = getattr(counters, field)
            if value != getattr(before, field):
                self._recorder.set(series, value, **labels)

    def first_token(self, generation: Generation) -> None:
        """The prompt was read and its first token picked."""
        waited_s = generation.first_token_s - generation.arrived_s
        self._recorder.observe(metrics.CHAT_FIRST_TOKEN, waited_s, exemplar=_trace(generation))

    def ended(self, generation: Generation) -> None:
        """No further token comes, for whatever reason."""
        if generation.num_generated > 1:
            taken_s = generation.last_token_s - generation.first_token_s
            each_s = taken_s / (generation.num_generated - 1)
            self._recorder.observe(metrics.CHAT_OUTPUT_TOKEN, each_s, exemplar=_trace(generation))


def _trace(generation: Generation) -> str | None:
    """The trace in which a generation can be looked at."""
    return generation.span.trace_id if generation.span.recording else None
