from __future__ import annotations

import pytest

from mizzen.workloads.chat.generation import Generation
from mizzen.workloads.chat.grammar import Grammar, Matcher
from mizzen.workloads.chat.sampling import Sampling
from mizzen.workloads.chat.turns import CHUNK_TOKENS, MAX_CHUNKS, Turns


class NoWords:
    end_tokens: frozenset[int] = frozenset()

    def decode(self, tokens: object) -> str:
        raise AssertionError("nothing is generated here")

    def bytes_of(self, token: int) -> bytes:
        raise AssertionError("nothing is generated here")

    def matcher(self, grammar: Grammar) -> Matcher:
        raise AssertionError("nothing is generated here")


def prompt_of(num: int) -> Generation:
    return Generation([1] * num, Sampling(1), lambda _: None, NoWords())


@pytest.mark.parametrize(
    ("num_reading", "num_running", "num_chunks"),
    [(1, 0, 1), (1, 7, 1), (4, 4, 1), (3, 1, 2), (8, 0, MAX_CHUNKS), (100, 0, MAX_CHUNKS)],
)
def test_more_is_read_at_once_the_fewer_sequences_wait_for_it(
    num_reading: int, num_running: int, num_chunks: int
) -> None:
    assert Turns().budget(num_reading, num_running) == num_chunks * CHUNK_TOKENS


def test_the_oldest_and_the_shortest_take_turns() -> None:
    long, short, middle = prompt_of(9), prompt_of(1), prompt_of(5)
    turns = Turns()
    order = [turns.next_to_read([long, short, middle]) for _ in range(4)]
    assert order == [long, short, long, short]
