"""The engine over a decoder that is written out here: its words follow from slot contents, like a model's."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mizzen import metrics, tracing
from mizzen.errors import MizzenError, OverloadedError, RequestError, ServingError
from mizzen.workloads.chat.engine import Engine
from mizzen.workloads.chat.generation import Generation, Piece
from mizzen.workloads.chat.grammar import Grammar, Matcher
from mizzen.workloads.chat.prefixes import BLOCK_TOKENS
from mizzen.workloads.chat.sampling import Sampling
from mizzen.workloads.chat.turns import CHUNK_TOKENS

NUM_WORDS = 128
END = 0


class Successors:
    """The next token follows from all tokens in the slot, so a slot that is mixed up shows.

    With `gate`, each step waits for a permission, so a test decides how far the engine gets.
    """

    def __init__(
        self, num_slots: int = 3, context_length: int = 400, gated: bool = False, num_blocks: int = 0
    ) -> None:
        self.num_slots = num_slots
        self.num_blocks = num_blocks
        self.blocks: list[list[int]] = [[] for _ in range(num_blocks)]
        self.context_length = context_length
        self.slots: list[list[int]] = [[] for _ in range(num_slots + 1)]
        self.gate = threading.Semaphore(0) if gated else None
        self.calls: list[tuple[str, int]] = []
        self._called = threading.Condition()
        self.error: Exception | None = None

    def _enter(self, kind: str, size: int) -> None:
        if self.gate is not None:
            self.gate.acquire()
        with self._called:
            self.calls.append((kind, size))
            self._called.notify_all()
        if self.error is not None:
            raise self.error

    def wait_for(self, num_calls: int) -> None:
        with self._called:
            assert self._called.wait_for(lambda: len(self.calls) >= num_calls, timeout=10)

    def _logits(self, tokens: list[int]) -> NDArray[Any]:
        logits_V = np.zeros(NUM_WORDS, np.float32)
        logits_V[next_token(tokens)] = 1
        return logits_V

    def prefill(self, slot: int, tokens: Sequence[int], past: int) -> NDArray[Any]:
        self._enter("prefill", len(tokens))
        self.slots[slot] = [*self.slots[slot][:past], *tokens]
        return self._logits(self.slots[slot])

    def step(self, tokens: Sequence[int], pasts: Sequence[int]) -> NDArray[Any]:
        self._enter("step", len(tokens))
        for slot, (token, past) in enumerate(zip(tokens, pasts, strict=True)):
            self.slots[slot] = [*self.slots[slot][:past], token]
        return np.stack([self._logits(self.slots[slot]) for slot in range(len(tokens))])

    def move(self, source: int, target: int, length: int) -> None:
        self.slots[target] = self.slots[source][:length]

    def keep(self, slot: int, start: int, places: Sequence[int]) -> None:
        for place in places:
            self.blocks[place] = self.slots[slot][start : start + BLOCK_TOKENS]
            start += BLOCK_TOKENS

    def reuse(self, slot: int, places: Sequence[int]) -> None:
        self.slots[slot] = [token for place in places for token in self.blocks[place]]


def next_token(tokens: Sequence[int]) -> int:
    return 33 + (sum((i + 1) * t for i, t in enumerate(tokens)) % 90)


def alone(prompt: list[int], num: int) -> str:
    tokens = list(prompt)
    for _ in range(num):
        tokens.append(next_token(tokens))
    return bytes(tokens[len(prompt) :]).decode()


class Bytes:
    """Words that are single bytes."""

    end_tokens = frozenset({END})

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode()

    def bytes_of(self, token: int) -> bytes:
        return bytes([token])

    def __init__(self) -> None:
        self.matcher_made: Matcher | None = None

    def matcher(self, grammar: Grammar) -> Matcher:
        assert self.matcher_made is not None
        return self.matcher_made


class Reader:
    """Collects the pieces of one generation."""

    def __init__(self) -> None:
        self._pieces: queue.Queue[Piece | MizzenError] = queue.Queue()
        self.sink = self._pieces.put

    def next(self) -> Piece:
        piece = self._pieces.get(timeout=10)
        if isinstance(piece, MizzenError):
            raise piece
        return piece

    def all(self) -> tuple[str, Piece]:
        text = ""
        while True:
            piece = self.next()
            text += piece.text
            if piece.finish is not None:
                return text, piece


class Running:
    def __init__(self, decoder: Successors, max_waiting: int = 100) -> None:
        self.words = Bytes()
        self.engine = Engine(decoder, self.words, max_waiting=max_waiting)
        self.engine.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def ask(
        self, prompt: list[int], max_tokens: int, *, sharer: str = "", **options: Any
    ) -> tuple[Generation, Reader]:
        reader = Reader()
        sampling = Sampling(max_tokens, temperature=0, **options)
        return self.engine.submit(prompt, sampling, reader.sink, sharer=sharer), reader


def test_many_generations_of_all_lengths_are_each_what_they_are_alone() -> None:
    asked = [([1 + i, *range(i)], 5 + 7 * i % 31) for i in range(20)]
    with Running(Successors(num_slots=3)) as running:
        readers = [running.ask(prompt, num)[1] for prompt, num in asked]
        for (prompt, num), reader in zip(asked, readers, strict=True):
            text, last = reader.all()
            assert (text, last.num_tokens, last.finish) == (alone(prompt, num), num, "length")


def test_a_request_joins_while_another_is_generated() -> None:
    decoder = Successors(gated=True)
    assert decoder.gate is not None
    with Running(decoder) as running:
        _, first = running.ask([1], 50)
        decoder.gate.release(4)
        for _ in range(4):
            first.next()
        _, second = running.ask([2], 3)
        decoder.gate.release(200)
        assert second.all()[0] == alone([2], 3)
        assert ("step", 2) in decoder.calls
        assert decoder.calls.index(("step", 2)) < 10
        first.all()


def test_a_long_prompt_is_read_in_chunks_between_the_tokens_of_others() -> None:
    decoder = Successors(gated=True)
    assert decoder.gate is not None
    long = [1] * (3 * CHUNK_TOKENS + 1)
    with Running(decoder) as running:
        _, first = running.ask([1], 20)
        decoder.gate.release(2)
        first.next()
        first.next()
        _, second = running.ask(long, 2)
        decoder.gate.release(200)
        assert second.all()[0] == alone(long, 2)
        first.all()
    chunks = [i for i, (kind, size) in enumerate(decoder.calls) if kind == "prefill" and size != 1]
    assert [decoder.calls[i] for i in chunks] == [("prefill", CHUNK_TOKENS)] * 3
    assert all(decoder.calls[i + 1][0] == "step" for i in chunks)


def test_a_short_prompt_does_not_wait_for_a_long_one_to_be_read() -> None:
    decoder = Successors(gated=True, context_length=2000)
    assert decoder.gate is not None
    long = [1] * (20 * CHUNK_TOKENS)
    with Running(decoder) as running:
        _, first = running.ask(long, 2)
        decoder.gate.release(2)
        decoder.wait_for(2)
        _, second = running.ask([5] * 7, 3)
        decoder.gate.release(200)
        assert second.all()[0] == alone([5] * 7, 3)
        assert first.all()[0] == alone(long, 2)
    assert decoder.calls.index(("prefill", 7)) < 6


def test_a_batch_is_filled_before_its_sequences_go_on() -> None:
    decoder = Successors(gated=True, num_slots=4)
    assert decoder.gate is not None
    prompts = [[i + 1] * CHUNK_TOKENS for i in range(3)]
    with Running(decoder) as running:
        _, first = running.ask([9], 30)
        decoder.gate.release(2)
        decoder.wait_for(2)
        readers = [running.ask(prompt, 4)[1] for prompt in prompts]
        decoder.gate.release(200)
        for prompt, reader in zip(prompts, readers, strict=True):
            assert reader.all()[0] == alone(prompt, 4)
        first.all()
    kinds = "".join(kind[0] for kind, _ in decoder.calls)
    assert "pps" in kinds  # two of the three at once, while one sequence runs


def test_a_next_turn_reads_only_what_is_new_and_says_the_same() -> None:
    prompt = list(range(1, 40))
    decoder = Successors(num_blocks=20)
    with Running(decoder) as running:
        answer, last = running.ask(prompt, 12)[1].all()
        assert last.num_cached == 0
        turn = [*prompt, *answer.encode(), 3, 4, 5]
        text, last = running.ask(turn, 6)[1].all()
    assert text == alone(turn, 6)
    in_blocks = (len(prompt) + 11) // BLOCK_TOKENS * BLOCK_TOKENS  # the last token was never fed
    assert last.num_cached == in_blocks > len(prompt)
    assert ("prefill", len(turn) - in_blocks) in decoder.calls
    counters = running.engine.counters
    assert counters.cached_tokens == in_blocks
    assert counters.prompt_tokens == len(prompt) + len(turn)
    assert counters.generated_tokens == 18
    assert (counters.finished, counters.cancelled, counters.failed, counters.running) == (2, 0, 0, 0)
    assert 0 < counters.kept_tokens <= counters.max_kept_tokens == 20 * BLOCK_TOKENS


def test_prefixes_are_shared_only_where_both_say_so() -> None:
    prompt = list(range(1, 40))
    with Running(Successors(num_blocks=20)) as running:
        for sharer, cached in (("one", 0), ("two", 0), ("one", 32), ("", 0)):
            assert running.ask(prompt, 2, sharer=sharer)[1].all()[1].num_cached == cached


def test_answers_are_the_same_with_little_room_for_prefixes_and_much_coming_and_going() -> None:
    draw = random.Random(1)
    systems = [[draw.randrange(1, 33) for _ in range(num)] for num in (20, 35, 50)]
    asked = [
        ([*draw.choice(systems), *range(1, draw.randrange(2, 60))], draw.randrange(1, 30)) for _ in range(60)
    ]
    with Running(Successors(num_slots=4, num_blocks=9)) as running:
        readers = []
        for i, (prompt, num) in enumerate(asked):
            generation, reader = running.ask(prompt, num)
            readers.append(reader)
            if i % 7 == 3:
                generation.cancel()
        for i, ((prompt, num), reader) in enumerate(zip(asked, readers, strict=True)):
            if i % 7 != 3:
                assert reader.all()[0] == alone(prompt, num)
    counters = running.engine.counters
    assert counters.cached_tokens > 0
    assert counters.finished + counters.cancelled == 60


def test_a_stop_string_over_several_tokens_ends_the_answer_before_it() -> None:
    text = alone([5], 30)
    stop = text[10:13]
    with Running(Successors()) as running:
        shown, last = running.ask([5], 30, stop=(stop,))[1].all()
    assert shown == text[: text.index(stop)]
    assert last.finish == "stop"
    assert last.num_tokens == text.index(stop) + len(stop)


def test_the_end_token_ends_the_answer_and_is_not_shown() -> None:
    class Ending(Successors):
        def _logits(self, tokens: list[int]) -> NDArray[Any]:
            logits_V = super()._logits(tokens)
            logits_V[END] = 2.0 if len(tokens) >= 4 else 0.0
            return logits_V

    with Running(Ending()) as running:
        text, last = running.ask([7], 30)[1].all()
    assert text == alone([7], 3)
    assert (last.finish, last.num_tokens) == ("stop", 4)


def test_an_answer_ends_where_the_context_ends() -> None:
    with Running(Successors(context_length=12)) as running:
        text, last = running.ask([1] * 8, 100)[1].all()
    assert (len(text), last.finish) == (4, "length")


def test_a_cancelled_generation_frees_its_slot_for_the_next() -> None:
    decoder = Successors(num_slots=1, gated=True)
    assert decoder.gate is not None
    with Running(decoder) as running:
        first, reader = running.ask([1], 300)
        _, second = running.ask([2], 3)
        decoder.gate.release(3)
        for _ in range(3):
            reader.next()
        first.cancel()
        decoder.gate.release(100)
        assert second.all()[0] == alone([2], 3)
        assert len(decoder.calls) < 20
    counters = running.engine.counters
    assert (counters.running, counters.cancelled, counters.finished) == (0, 1, 1)
    assert counters.generated_tokens < 3 + 3 + 3


def test_a_prompt_that_nobody_waits_for_is_not_read_to_its_end() -> None:
    decoder = Successors(num_slots=1, gated=True, context_length=2000)
    assert decoder.gate is not None
    with Running(decoder) as running:
        first, _ = running.ask([1] * (20 * CHUNK_TOKENS), 300)
        _, second = running.ask([2], 3)
        decoder.gate.release(2)
        decoder.wait_for(2)
        first.cancel()
        decoder.gate.release(100)
        assert second.all()[0] == alone([2], 3)
    assert sum(size == CHUNK_TOKENS for _, size in decoder.calls) <= 3
    counters = running.engine.counters
    assert (counters.cancelled, counters.prompt_tokens, counters.generated_tokens) == (1, 1, 3)


def test_a_cancelled_generation_that_waits_is_never_started() -> None:
    decoder = Successors(num_slots=1, gated=True)
    assert decoder.gate is not None
    with Running(decoder) as running:
        _, first = running.ask([1], 2)
        waiting, _ = running.ask([2] * 9, 300)
        waiting.cancel()
        decoder.gate.release(100)
        first.all()
        assert running.ask([3], 2)[1].all()[0] == alone([3], 2)
    assert ("prefill", 9) not in decoder.calls
    assert running.engine.counters.cancelled == 1


def test_series_are_right_when_the_end_is_told_and_show_nothing_when_idle(noted: Any) -> None:
    prompt = [7] * (2 * BLOCK_TOKENS + 3)
    with Running(Successors(num_blocks=8)) as running:
        running.ask([1], 4)[1].all()  # before anything is recorded, as a warm-up is
        running.engine.record(noted)
        read = generated = cached = 0
        for asked, num in ((prompt, 5), ([*prompt, 9], 1), ([2], 30)):
            _, last = running.ask(asked, num)[1].all()
            read, generated, cached = read + len(asked), generated + num, cached + last.num_cached
            assert noted.value(metrics.CHAT_PROMPT_TOKENS) == read
            assert noted.value(metrics.CHAT_GENERATED_TOKENS) == generated
            assert noted.value(metrics.CHAT_CACHED_TOKENS) == cached
            assert noted.value(metrics.CHAT_SEQUENCES, state="running") == 0
            assert noted.value(metrics.CHAT_KV_TOKENS, state="used") == 0
        kept = noted.value(metrics.CHAT_KV_TOKENS, state="kept")
        assert cached == 2 * BLOCK_TOKENS and kept == running.engine.counters.kept_tokens > 0
        assert noted.value(metrics.CHAT_KV_CAPACITY, state="kept") == 8 * BLOCK_TOKENS
        assert len(noted.all(metrics.CHAT_FIRST_TOKEN)) == 3
        assert len(noted.all(metrics.CHAT_OUTPUT_TOKEN)) == 2
        assert 0 < noted.all(metrics.CHAT_OUTPUT_TOKEN)[1] <= noted.all(metrics.CHAT_FIRST_TOKEN)[2] * 30


def test_what_breaks_off_is_recorded_as_cancelled_with_the_tokens_that_were_made(noted: Any) -> None:
    decoder = Successors(num_slots=1, gated=True)
    assert decoder.gate is not None
    with Running(decoder) as running:
        running.engine.record(noted)
        first, reader = running.ask([1], 50)
        waiting, _ = running.ask([2], 50)
        decoder.gate.release(3)
        for _ in range(3):
            reader.next()
        assert noted.value(metrics.CHAT_SEQUENCES, state="waiting") == 1
        assert noted.value(metrics.CHAT_KV_TOKENS, state="used") > 0
        waiting.cancel()
        first.cancel()
        decoder.gate.release(200)
        running.ask([3], 2)[1].all()
    outcomes = noted.lines(metrics.CHAT_GENERATIONS)
    assert outcomes == {("finished",): 1, ("cancelled",): 2, ("failed",): 0}
    assert noted.value(metrics.CHAT_GENERATED_TOKENS) == first.num_generated + 2
    assert noted.lines(metrics.CHAT_SEQUENCES) == {("running",): 0, ("waiting",): 0}


def test_a_generation_that_fails_by_itself_fails_alone() -> None:
    class Refusing(Matcher):
        def __init__(self) -> None:
            pass

        def allowed(self, num_words: int) -> NDArray[np.bool_]:
            raise RequestError("the grammar has become too complex")

    with Running(Successors()) as running:
        running.words.matcher_made = Refusing()
        _, other = running.ask([1], 50)
        _, failing = running.ask([2], 5, grammar=Grammar("anything"))
        with pytest.raises(RequestError, match="too complex"):
            failing.all()
        _, broken = running.ask([3], 5, logit_bias={NUM_WORDS: 1.0})
        with pytest.raises(ServingError, match="could not be continued: IndexError"):
            broken.all()
        assert other.all()[0] == alone([1], 50)
    counters = running.engine.counters
    assert (counters.failed, counters.finished, counters.running) == (2, 1, 0)


def test_one_more_than_may_wait_is_refused_and_those_before_are_answered() -> None:
    decoder = Successors(num_slots=1, gated=True)
    assert decoder.gate is not None
    with Running(decoder, max_waiting=2) as running:
        readers = [running.ask([1], 2)[1]]
        decoder.gate.release(1)
        readers[0].next()
        readers += [running.ask([i], 2)[1] for i in (2, 3)]
        with pytest.raises(OverloadedError, match="2 waiting"):
            running.ask([4], 2)
        decoder.gate.release(100)
        for i, reader in enumerate(readers):
            reader.all() if i else reader.next()


def test_when_the_model_fails_everybody_is_told_and_nobody_is_taken_in() -> None:
    decoder = Successors(num_slots=1, gated=True)
    assert decoder.gate is not None
    decoder.error = RuntimeError("out of memory")
    caught = threading.Event()
    previous, threading.excepthook = threading.excepthook, lambda _: caught.set()
    try:
        with Running(decoder) as running:
            readers = [running.ask([i], 2)[1] for i in (1, 2)]
            decoder.gate.release(100)
            for reader in readers:
                with pytest.raises(ServingError, match="out of memory"):
                    reader.next()
            with pytest.raises(ServingError, match="out of memory"):
                running.ask([3], 2)
            assert "out of memory" in str(running.engine.failure)
    finally:
        threading.excepthook = previous
    assert caught.is_set()


def test_closing_tells_those_who_wait() -> None:
    decoder = Successors(gated=True)
    assert decoder.gate is not None
    running = Running(decoder)
    _, reader = running.ask([1], 300)
    decoder.gate.release(1)
    reader.next()
    closing = threading.Thread(target=running.engine.close)
    closing.start()
    decoder.gate.release(1000)
    closing.join(timeout=10)
    assert not closing.is_alive()
    with pytest.raises(ServingError, match="shut down"):
        while True:
            reader.next()


def test_each_generation_of_a_traced_request_is_one_span_however_it_ends(trace: Any) -> None:
    collected = trace()
    decoder = Successors(num_slots=1, gated=True)
    assert decoder.gate is not None
    with Running(decoder) as running:
        with tracing.span("request"):
            _, finished = running.ask([1, 2], 3)
            waiting, _ = running.ask([3], 9)
            cancelled, seen = running.ask([4], 9)
        _, last = running.ask([5], 1)  # of nobody who is traced
        waiting.cancel()
        decoder.gate.release(3)
        finished.all()
        decoder.gate.release(1)
        seen.next()
        cancelled.cancel()
        decoder.gate.release(200)
        last.all()
    tracing.stop()
    told = [(one.attributes["mizzen.outcome"], one.events) for one in collected.named("generate")]
    both = ["prefill", "first token"]
    assert told == [("finished", both), ("cancelled", []), ("cancelled", both)]
    assert {one.parent_id for one in collected.named("generate")} == {collected.one("request").span_id}
