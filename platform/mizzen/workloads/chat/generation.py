"""One sequence, from its prompt to its last token: what is picked, what text that makes, and when it ends.

It does not know the other sequences, and does not run the model: `engine` does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from mizzen.errors import MizzenError
from mizzen.tracing import NOTHING, Span
from mizzen.workloads.chat.grammar import Grammar, Matcher
from mizzen.workloads.chat.sampling import Sampler, Sampling, log_probabilities
from mizzen.workloads.chat.text import Detokenizer, StopStrings

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token that was picked, or could have been, and how likely the model found it."""

    text: str
    """A token that is no whole character has the replacement character here."""
    bytes: bytes
    logprob: float
    """Natural logarithm of its probability, before temperature, penalties or a grammar."""
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens at this place, best first, as many as were asked for."""


@dataclass(frozen=True)
class Piece:
    """New text of a generation; the last piece says why it ended."""

    text: str
    num_tokens: int
    """Tokens generated so far."""
    finish: FinishReason | None = None
    num_cached: int = 0
    """Tokens of the prompt that did not have to be read, because an earlier one began with them."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens that make up `text`, if they were asked for; not of an end token or a stop string."""


Sink = Callable[[Piece | MizzenError], None]
"""Takes the pieces of one generation in the engine's thread; must not block."""


class Words(Protocol):
    """What generation needs of a vocabulary."""

    @property
    def end_tokens(self) -> frozenset[int]: ...
    def decode(self, tokens: Sequence[int]) -> str: ...
    def bytes_of(self, token: int) -> bytes: ...
    def matcher(self, grammar: Grammar) -> Matcher: ...


class Generation:
    """A sequence in the making."""

    def __init__(
        self, prompt: list[int], sampling: Sampling, sink: Sink, words: Words, *, sharer: str = ""
    ) -> None:
        """Raises `RequestError` where the sampling's grammar is too complex."""
        self.prompt = prompt
        self.sharer = sharer
        """Prefixes are reused between generations with the same one."""
        self.tokens = list(prompt)
        """The prompt and what was picked since; the last one picked is not in the cache yet."""
        self.sampling = sampling
        self.sink = sink
        self.slot = -1
        """Where in the cache it lies; the engine's."""
        self.length = 0
        """Tokens in the cache."""
        self.num_cached = 0
        """Tokens of the prompt that were in the cache already."""
        matcher = None if sampling.grammar is None else words.matcher(sampling.grammar)
        if sampling.logprobs is not None:
            words.bytes_of(prompt[0])  # takes a while the first time: not between two tokens of others
        self.arrived_s = time.monotonic()
        self.first_token_s = self.last_token_s = self.arrived_s
        """When tokens were picked, on the same clock; the engine's."""
        self.span: Span = NOTHING
        """Of the request that it is a part of; the engine's."""
        self._sampler = Sampler(sampling, matcher)
        self._words = words
        self._detokenizer = Detokenizer(words.decode)
        self._stops = StopStrings(sampling.stop)
        self._told: list[tuple[int, TokenLogprob]] = []  # not sent yet, each with where its text begins
        self._num_decoded = self._num_shown = 0  # characters
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Nobody waits for the rest: its slot falls free after the current token. From any thread."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the rest."""
        return self._cancelled.is_set()

    @property
    def num_unread(self) -> int:
        """Tokens of the prompt that are not in the cache yet."""
        return max(0, len(self.prompt) - self.length)

    @property
    def num_generated(self) -> int:
        """Tokens that were picked."""
        return len(self.tokens) - len(self.prompt)

    def advance(self, logits_V: NDArray[Any], *, full: bool) -> Piece | None:
        """Pick a token; what can be told now, if anything. `full`: there is no room for more tokens."""
        token = self._sampler.pick(logits_V)
        self.tokens.append(token)
        finish: FinishReason | None = None
        text = ""
        if token in self._words.end_tokens and not self.sampling.ignore_eos:
            finish = "stop"
        else:
            if self.sampling.logprobs is not None:
                self._told.append((self._num_decoded, self._logprob(logits_V, token)))
            text = self._show(self._detokenizer.add(token))
            if self._stops.found or self._sampler.done:
                finish = "stop"
            elif self.num_generated >= self.sampling.max_tokens or full:
                finish = "length"
        if finish is not None:
            text += self._show(self._detokenizer.finish())
            if self._stops.found:
                finish = "stop"
            text += self._stops.finish()
        return self._piece(text, finish) if text or finish else None

    def _show(self, text: str) -> str:
        self._num_decoded += len(text)
        return self._stops.add(text)

    def _piece(self, text: str, finish: FinishReason | None) -> Piece:
        """Tokens go with the text in which they begin; those behind the last text belong to a stop string."""
        self._num_shown += len(text)
        ready = [told for begin, told in self._told if begin < self._num_shown]
        self._told = self._told[len(ready) :]
        return Piece(text, self.num_generated, finish, self.num_cached, tuple(ready))

    def _logprob(self, logits_V: NDArray[Any], token: int) -> TokenLogprob:
        (_, logprob), *best = log_probabilities(logits_V, token, self.sampling.logprobs or 0)
        top = tuple(TokenLogprob(*self._spelt(t), value) for t, value in best)
        return TokenLogprob(*self._spelt(token), logprob, top)

    def _spelt(self, token: int) -> tuple[str, bytes]:
        own = self._words.bytes_of(token)
        return own.decode("utf-8", errors="replace"), own
