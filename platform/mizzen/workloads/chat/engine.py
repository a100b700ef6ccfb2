"""Continuous batching: one thread generates for all requests, which join and leave between two tokens.

Each turn of the loop does at most one chunk of one waiting prompt, then one token for every running
sequence, so that a long prompt does not stop the others. Running sequences lie in the first slots of the
decoder's cache; the last one moves into a slot that falls free.

It does not know HTTP or messages: `endpoint` does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from mizzen.errors import MizzenError, OverloadedError, ServingError
from mizzen.workloads.chat.decoder import PREFILL_CHUNK_TOKENS
from mizzen.workloads.chat.sampling import Sampler, Sampling
from mizzen.workloads.chat.text import Decode, Detokenizer, StopStrings

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """New text of a generation; the last piece says why it ended."""

    text: str
    num_tokens: int
    """Tokens generated so far."""
    finish: FinishReason | None = None


Sink = Callable[[Piece | MizzenError], None]
"""Takes the pieces of one generation in the engine's thread; must not block."""


class Steps(Protocol):
    """What the engine needs of a decoder."""

    num_slots: int
    context_length: int

    def prefill(self, slot: int, tokens: Sequence[int], past: int) -> NDArray[Any]: ...
    def step(self, tokens: Sequence[int], pasts: Sequence[int]) -> NDArray[Any]: ...
    def move(self, source: int, target: int, length: int) -> None: ...


@dataclass(eq=False)
class Generation:
    """One sequence, from its prompt to its last token."""

    prompt: list[int]
    sampling: Sampling
    sink: Sink
    sampler: Sampler
    detokenizer: Detokenizer
    stops: StopStrings
    length: int = 0
    """Tokens in the cache."""
    last: int = -1
    """The token that was picked last; it is not in the cache yet."""
    num_generated: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Nobody waits for the rest: its slot falls free after the current token. From any thread."""
        self.cancelled.set()


class Engine:
    """Generates for up to `decoder.num_slots` requests at a time; up to `max_waiting` more may queue."""

    def __init__(
        self, decoder: Steps, *, decode: Decode, end_tokens: frozenset[int], max_waiting: int
    ) -> None:
        self._decoder = decoder
        self._decode = decode
        self._end_tokens = end_tokens
        self._max_waiting = max_waiting
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []  # the n-th is in slot n
        self._prefilling: Generation | None = None  # in the slot after the last running one
        self._change = threading.Condition()
        self._closing = False
        self._failure: MizzenError | None = None
        self._thread = threading.Thread(target=self._run, name="mizzen-chat-engine", daemon=True)

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self._decoder.context_length

    @property
    def failure(self) -> MizzenError | None:
        """What every request is answered with since the model failed, if it has."""
        return self._failure

    @property
    def num_running(self) -> int:
        """Generations that hold a slot."""
        return len(self._running) + (self._prefilling is not None)

    @property
    def num_waiting(self) -> int:
        """Generations without a slot yet."""
        return len(self._waiting)

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the current token; what still runs gets a `ServingError`. Waits for the thread."""
        with self._change:
            self._closing = True
            self._change.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def submit(self, prompt: list[int], sampling: Sampling, sink: Sink) -> Generation:
        """Queue a generation. Raises `OverloadedError` if the queue is full. From any thread."""
        generation = Generation(
            prompt, sampling, sink, Sampler(sampling), Detokenizer(self._decode), StopStrings(sampling.stop)
        )
        with self._change:
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise ServingError("the model is being shut down", remedy="Try again.")
            free = self._decoder.num_slots - self.num_running
            if len(self._waiting) >= self._max_waiting + max(0, free):
                raise OverloadedError(
                    "too many requests are waiting",
                    saw=f"{len(self._waiting)} waiting, {self.num_running} running",
                    allowed=f"{self._max_waiting} waiting",
                    remedy="Try again later.",
                )
            self._waiting.append(generation)
            self._change.notify()
        return generation

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._admit()
                self._prefill()
                self._step()
            self._fail(ServingError("the model was shut down while it answered", remedy="Try again."))
        except Exception as cause:
            # Whatever failed in the model: nobody may wait for ever, and nothing runs on a broken cache.
            self._fail(ServingError(f"the model failed: {cause}", remedy="See the log of the application."))
            raise

    def _wait_for_work(self) -> bool:
        with self._change:
            self._change.wait_for(
                lambda: self._closing or self._running or self._prefilling is not None or self._waiting
            )
            return not self._closing

    def _fail(self, error: MizzenError) -> None:
        with self._change:
            self._failure = error
            prefilling = [self._prefilling] if self._prefilling else []
            left = [*self._running, *prefilling, *self._waiting]
            self._running, self._prefilling = [], None
            self._waiting.clear()
        for generation in left:
            generation.sink(error)

    def _admit(self) -> None:
        """Give the slot after the running ones to the next that waits, if both are there."""
        for slot in reversed(range(len(self._running))):
            if self._running[slot].cancelled.is_set():
                self._release(slot)
        if self._prefilling is not None and self._prefilling.cancelled.is_set():
            self._prefilling = None
        with self._change:
            while self._prefilling is None and self._waiting and len(self._running) < self._decoder.num_slots:
                generation = self._waiting.popleft()
                if not generation.cancelled.is_set():
                    self._prefilling = generation

    def _prefill(self) -> None:
        generation = self._prefilling
        if generation is None:
            return
        chunk = generation.prompt[generation.length : generation.length + PREFILL_CHUNK_TOKENS]
        logits_TV = self._decoder.prefill(len(self._running), chunk, generation.length)
        generation.length += len(chunk)
        if generation.length < len(generation.prompt):
            return
        self._prefilling = None
        if not self._advance(generation, logits_TV[-1]):
            self._running.append(generation)

    def _step(self) -> None:
        if not self._running:
            return
        logits_BV = self._decoder.step([g.last for g in self._running], [g.length for g in self._running])
        ended = []
        for slot, generation in enumerate(self._running):
            generation.length += 1
            if self._advance(generation, logits_BV[slot]):
                ended.append(slot)
        for slot in reversed(ended):
            self._release(slot)

    def _release(self, slot: int) -> None:
        """Free a slot; what lies in the slots behind closes up, a prompt that is being read too."""
        last = self._running.pop()
        if slot < len(self._running):
            self._decoder.move(len(self._running), slot, last.length)
            self._running[slot] = last
        if self._prefilling is not None:
            self._decoder.move(len(self._running) + 1, len(self._running), self._prefilling.length)

    def _advance(self, generation: Generation, logits_V: NDArray[Any]) -> bool:
        """Pick a token, send its text, and say whether it was the last."""
        token = generation.sampler.pick(logits_V)
        generation.last = token
        generation.num_generated += 1
        finish: FinishReason | None = None
        text = ""
        if token in self._end_tokens:
            finish = "stop"
        else:
            text = generation.stops.add(generation.detokenizer.add(token))
            full = generation.length + 1 >= self._decoder.context_length
            if generation.stops.found:
                finish = "stop"
            elif generation.num_generated >= generation.sampling.max_tokens or full:
                finish = "length"
        if finish is not None:
            text += generation.stops.add(generation.detokenizer.finish())
            if generation.stops.found:
                finish = "stop"
            text += generation.stops.finish()
        if text or finish:
            generation.sink(Piece(text, generation.num_generated, finish))
        return finish is not None
