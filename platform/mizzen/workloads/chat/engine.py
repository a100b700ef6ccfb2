"""Continuous batching: one thread generates for all requests, which join and leave between two tokens.

Each turn of the loop reads a part of the prompts that have a slot, and then makes one token for every running
sequence, so that a long prompt stops nobody. Running sequences lie in the first slots of the decoder's
cache, one behind the other; prompts that are being read lie in any of the others.

It does not know HTTP or messages: `endpoint` does. When a turn reads how much of which prompt is said in
`turns`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from mizzen.errors import MizzenError, OverloadedError, ServingError
from mizzen.workloads.chat import spans
from mizzen.workloads.chat.generation import Generation, Piece, Sink, Words
from mizzen.workloads.chat.prefixes import BLOCK_TOKENS, Prefixes
from mizzen.workloads.chat.records import Counters, Records
from mizzen.workloads.chat.sampling import Sampling
from mizzen.workloads.chat.turns import CHUNK_TOKENS, Turns
from mizzen.workloads.contract import SILENT, Recorder

log = logging.getLogger(__name__)


class Steps(Protocol):
    """What the engine needs of a decoder; see `decoder.Decoder`."""

    num_slots: int
    context_length: int
    num_blocks: int

    def prefill(self, slot: int, tokens: Sequence[int], past: int) -> NDArray[Any]: ...
    def step(self, tokens: Sequence[int], pasts: Sequence[int]) -> NDArray[Any]: ...
    def move(self, source: int, target: int, length: int) -> None: ...
    def keep(self, slot: int, start: int, places: Sequence[int]) -> None: ...
    def reuse(self, slot: int, places: Sequence[int]) -> None: ...


class Engine:
    """Generates for up to `decoder.num_slots` requests at a time; up to `max_waiting` more may queue."""

    def __init__(self, decoder: Steps, words: Words, *, max_waiting: int) -> None:
        self._decoder = decoder
        self._words = words
        self._max_waiting = max_waiting
        self._prefixes = Prefixes(decoder.num_blocks)
        self._turns = Turns()
        self._waiting: deque[Generation] = deque()
        self._reading: list[Generation] = []  # the oldest first
        self._running: list[Generation] = []  # the n-th is in slot n
        self._tally: Counter[str] = Counter()
        self._change = threading.Condition()
        self._closing = False
        self._failure: MizzenError | None = None
        self._thread = threading.Thread(target=self._run, name="mizzen-chat-engine", daemon=True)
        self._records = Records(SILENT, self.counters)

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
            holders = [*self._running, *self._reading]
        names = ("prompt_tokens", "cached_tokens", "generated_tokens", "finished", "cancelled", "failed")
        return Counters(
            **{name: self._tally[name] for name in names},
            running=len(holders),
            waiting=len(self._waiting),
            num_slots=self._decoder.num_slots,
            used_tokens=sum(generation.length for generation in holders),
            max_used_tokens=self._decoder.num_slots * self._decoder.context_length,
            kept_tokens=self._prefixes.num_tokens,
            max_kept_tokens=self._decoder.num_blocks * BLOCK_TOKENS,
        )

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def record(self, recorder: Recorder) -> None:
        """Record what is done from now on; nothing is being done now."""
        self._records = Records(recorder, self.counters)

    def close(self) -> None:
        """Stop after the current token; what still runs gets a `ServingError`. Waits for the thread."""
        with self._change:
            self._closing = True
            self._change.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def submit(self, prompt: list[int], sampling: Sampling, sink: Sink, *, sharer: str = "") -> Generation:
        """Queue a generation; it may reuse what generations of the same `sharer` began with. From any thread.

        Raises `OverloadedError` if the queue is full, and `RequestError` for a grammar that is too complex.
        """
        generation = Generation(prompt, sampling, sink, self._words, sharer=sharer)
        with self._change:
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise ServingError("the model is being shut down", remedy="Try again.")
            num_running = len(self._running) + len(self._reading)
            free = self._decoder.num_slots - num_running
            if len(self._waiting) >= self._max_waiting + free:
                raise OverloadedError(
                    "too many requests are waiting",
                    saw=f"{len(self._waiting)} waiting, {num_running} running",
                    allowed=f"{self._max_waiting} waiting",
                    remedy="Try again later.",
                )
            generation.span = spans.queued(prompt, sampling)
            self._waiting.append(generation)
            self._change.notify()
        return generation

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._let_go()
                self._admit()
                self._read()
                self._step()
                self._records.update(self.counters)
            self._fail(ServingError("the model was shut down while it answered", remedy="Try again."))
        except Exception as cause:
            # Whatever failed in the model: nobody may wait for ever, and nothing runs on a broken cache.
            self._fail(ServingError(f"the model failed: {cause}", remedy="See the log of the application."))
            raise

    def _wait_for_work(self) -> bool:
        with self._change:
            self._change.wait_for(lambda: self._closing or self._running or self._reading or self._waiting)
            return not self._closing

    def _fail(self, error: MizzenError) -> None:
        with self._change:
            self._failure = error
            left = [*self._running, *self._reading, *self._waiting]
            self._running, self._reading = [], []
            self._waiting.clear()
        self._tally["failed"] += len(left)
        try:
            self._records.update(self.counters)
        finally:
            for generation in left:
                spans.ended(generation, "failed")
                generation.sink(error)

    def _let_go(self) -> None:
        """Stop what nobody waits for any more."""
        gone = [generation for generation in (*self._running, *self._reading) if generation.cancelled]
        for generation in gone:
            self._release(generation)
            self._records.ended(generation)
        with self._change:
            gone += [generation for generation in self._waiting if generation.cancelled]
            self._waiting = deque(generation for generation in self._waiting if generation not in gone)
        self._tally["cancelled"] += len(gone)
        for generation in gone:
            spans.ended(generation, "cancelled")

    def _admit(self) -> None:
        """Give free slots to those that wait."""
        with self._change:
            while self._waiting and len(self._running) + len(self._reading) < self._decoder.num_slots:
                generation = self._waiting.popleft()
                generation.slot = self._free_slot()
                self._reading.append(generation)
                spans.prefill(generation)

    def _free_slot(self) -> int:
        """The first that is free, where a single prompt can go on to run; there is one more than needed."""
        taken = {generation.slot for generation in (*self._running, *self._reading)}
        return next(slot for slot in range(self._decoder.num_slots + 1) if slot not in taken)

    def _read(self) -> None:
        """Read a part of the prompts, as much as this turn may."""
        budget = self._turns.budget(len(self._reading), len(self._running))
        while self._reading and budget > 0:
            generation = self._turns.next_to_read(self._reading)
            if generation.length == 0:
                self._reuse(generation)
            chunk = generation.prompt[generation.length : generation.length + CHUNK_TOKENS]
            logits_V = self._decoder.prefill(generation.slot, chunk, generation.length)
            generation.length += len(chunk)
            budget -= len(chunk)
            if generation.num_unread == 0:
                self._begin(generation, logits_V)

    def _reuse(self, generation: Generation) -> None:
        places = self._prefixes.find(generation.prompt, generation.sharer)
        if places:
            self._decoder.reuse(generation.slot, places)
            generation.length = generation.num_cached = len(places) * BLOCK_TOKENS

    def _keep(self, generation: Generation) -> None:
        tokens = generation.tokens[: generation.length]
        start, places = self._prefixes.add(tokens, generation.sharer)
        if places:
            self._decoder.keep(generation.slot, start, places)

    def _begin(self, generation: Generation, logits_V: NDArray[Any]) -> None:
        """The prompt is read: pick the first token, and let the sequence run unless that was the last."""
        self._tally["prompt_tokens"] += len(generation.prompt)
        self._tally["cached_tokens"] += generation.num_cached
        last = self._advance(generation, logits_V)
        if last is not None:
            self._end(generation, last)
            return
        self._keep(generation)  # now, for prompts that wait already and begin as this one
        slot = len(self._running)
        if generation.slot != slot:
            in_the_way = next((other for other in self._reading if other.slot == slot), None)
            if in_the_way is not None:
                self._move(in_the_way, self._free_slot())
            self._move(generation, slot)
        self._running.append(generation)
        self._reading.remove(generation)

    def _step(self) -> None:
        """One token for every running sequence."""
        if not self._running:
            return
        tokens, pasts = [g.tokens[-1] for g in self._running], [g.length for g in self._running]
        logits_BV = self._decoder.step(tokens, pasts)
        ended = []
        for generation, logits_V in zip(self._running, logits_BV, strict=True):
            generation.length += 1
            last = self._advance(generation, logits_V)
            if last is not None:
                ended.append((generation, last))
        for generation, last in ended:
            self._end(generation, last)

    def _advance(self, generation: Generation, logits_V: NDArray[Any]) -> Piece | MizzenError | None:
        """Pick a token and tell it, unless it was the last: that is for `_end` to tell."""
        full = generation.length + 1 >= self._decoder.context_length
        try:
            piece = generation.advance(logits_V, full=full)
        except MizzenError as error:
            return error
        except Exception as cause:
            # What is wrong with one request, with its grammar for instance, must not end the others.
            log.exception("a generation failed")
            return ServingError(f"the answer could not be continued: {type(cause).__name__}")
        self._tally["generated_tokens"] += 1
        generation.last_token_s = time.monotonic()
        if generation.num_generated == 1:
            generation.first_token_s = generation.last_token_s
            self._records.first_token(generation)
            spans.first_token(generation)
        if piece is not None and piece.finish is not None:
            return piece
        if piece is not None:
            generation.sink(piece)
        return None

    def _end(self, generation: Generation, last: Piece | MizzenError) -> None:
        """Free the slot, and then tell the last of it: who hears of the end finds it in the counters."""
        self._keep(generation)
        self._release(generation)
        self._tally["finished" if isinstance(last, Piece) else "failed"] += 1
        spans.ended(generation, "finished" if isinstance(last, Piece) else "failed")
        self._records.ended(generation)
        self._records.update(self.counters)
        generation.sink(last)

    def _release(self, generation: Generation) -> None:
        """Free a slot; the last of the running sequences moves into a gap among them."""
        if generation in self._reading:
            self._reading.remove(generation)
            return
        last = self._running.pop()
        if last is not generation:
            self._running[generation.slot] = last
            self._move(last, generation.slot)

    def _move(self, generation: Generation, slot: int) -> None:
        self._decoder.move(generation.slot, slot, generation.length)
        generation.slot = slot
