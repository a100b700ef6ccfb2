"""Continuous batching: one thread generates for all requests, which join and leave between two tokens.

Each turn of the loop does at most one chunk of one waiting prompt, then one token for every running
sequence, so that a long prompt does not stop the others. Running sequences lie in the first slots of the
decoder's cache; the last one moves into a slot that falls free.

It does not know HTTP or messages: `endpoint` does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from numpy.typing import NDArray

from mizzen.errors import MizzenError, OverloadedError, ServingError
from mizzen.workloads.chat.decoder import PREFILL_CHUNK_TOKENS
from mizzen.workloads.chat.generation import Generation, Sink, Words
from mizzen.workloads.chat.sampling import Sampling


class Steps(Protocol):
    """What the engine needs of a decoder."""

    num_slots: int
    context_length: int

    def prefill(self, slot: int, tokens: Sequence[int], past: int) -> NDArray[Any]: ...
    def step(self, tokens: Sequence[int], pasts: Sequence[int]) -> NDArray[Any]: ...
    def move(self, source: int, target: int, length: int) -> None: ...


@dataclass(frozen=True)
class Counters:
    """What an engine has done since it was made, and what it does at this moment."""

    prompt_tokens: int = 0
    """Tokens of prompts whose answers have begun, those that were cached too."""
    cached_tokens: int = 0
    """Of these, the ones that did not have to be read again."""
    generated_tokens: int = 0
    finished: int = 0
    """Generations that came to their end."""
    cancelled: int = 0
    """Generations that were stopped because nobody waited for them any more, queued or begun."""
    running: int = 0
    """Generations that hold a slot now."""
    waiting: int = 0
    """Generations that have no slot yet."""
    num_slots: int = 0
    used_tokens: int = 0
    """Tokens that running generations have in the cache now."""
    max_tokens: int = 0
    """Most tokens that all slots together can hold."""


class Engine:
    """Generates for up to `decoder.num_slots` requests at a time; up to `max_waiting` more may queue."""

    def __init__(self, decoder: Steps, words: Words, *, max_waiting: int) -> None:
        self._decoder = decoder
        self._words = words
        self._max_waiting = max_waiting
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []  # the n-th is in slot n
        self._prefilling: Generation | None = None  # in the slot after the last running one
        self._done = Counters()
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
    def counters(self) -> Counters:
        """What was done so far, and what is being done. From any thread."""
        with self._change:
            running = self._holders()
            return replace(
                self._done,
                running=len(running),
                waiting=len(self._waiting),
                num_slots=self._decoder.num_slots,
                used_tokens=sum(generation.length for generation in running),
                max_tokens=self._decoder.num_slots * self._decoder.context_length,
            )

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
        """Queue a generation. From any thread.

        Raises `OverloadedError` if the queue is full, and `RequestError` for a grammar that is too complex.
        """
        generation = Generation(prompt, sampling, sink, self._words)
        with self._change:
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise ServingError("the model is being shut down", remedy="Try again.")
            num_running = len(self._holders())
            free = self._decoder.num_slots - num_running
            if len(self._waiting) >= self._max_waiting + max(0, free):
                raise OverloadedError(
                    "too many requests are waiting",
                    saw=f"{len(self._waiting)} waiting, {num_running} running",
                    allowed=f"{self._max_waiting} waiting",
                    remedy="Try again later.",
                )
            self._waiting.append(generation)
            self._change.notify()
        return generation

    def _holders(self) -> list[Generation]:
        return [*self._running, *([self._prefilling] if self._prefilling else [])]

    def _count(self, **more: int) -> None:
        with self._change:
            self._done = replace(self._done, **{k: getattr(self._done, k) + n for k, n in more.items()})

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
            left = [*self._holders(), *self._waiting]
            self._running, self._prefilling = [], None
            self._waiting.clear()
        for generation in left:
            generation.sink(error)

    def _admit(self) -> None:
        """Give the slot after the running ones to the next that waits, if both are there."""
        for slot in reversed(range(len(self._running))):
            if self._running[slot].cancelled:
                self._release(slot)
                self._count(cancelled=1)
        if self._prefilling is not None and self._prefilling.cancelled:
            self._prefilling = None
            self._count(cancelled=1)
        with self._change:
            while self._prefilling is None and self._waiting and len(self._running) < self._decoder.num_slots:
                generation = self._waiting.popleft()
                if generation.cancelled:
                    self._count(cancelled=1)
                else:
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
        self._count(prompt_tokens=len(generation.prompt))
        self._prefilling = None
        if not self._advance(generation, logits_TV[-1]):
            self._running.append(generation)

    def _step(self) -> None:
        if not self._running:
            return
        logits_BV = self._decoder.step(
            [g.tokens[-1] for g in self._running], [g.length for g in self._running]
        )
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
        full = generation.length + 1 >= self._decoder.context_length
        ended = generation.advance(logits_V, full=full)
        self._count(generated_tokens=1, finished=int(ended))
        return ended
