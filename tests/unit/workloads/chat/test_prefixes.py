from __future__ import annotations

import random

import pytest

from mizzen.workloads.chat.prefixes import BLOCK_TOKENS, Prefixes


def sequence(*blocks: str, more: str = "") -> list[int]:
    """A block for each letter, and then the letters of `more`."""
    return [ord(letter) for letter in blocks for _ in range(BLOCK_TOKENS)] + [ord(letter) for letter in more]


def test_the_longest_common_beginning_in_whole_blocks_is_found() -> None:
    prefixes = Prefixes(8)
    start, places = prefixes.add(sequence("a", "b", "c", more="xyz"), "")
    assert (start, len(places), prefixes.num_tokens) == (0, 3, 3 * BLOCK_TOKENS)
    assert prefixes.find(sequence("a", "b", more="xyz"), "") == places[:2]
    assert prefixes.find(sequence("a", "c", more="x"), "") == places[:1]
    assert prefixes.find(sequence("b", "a", more="x"), "") == []
    assert prefixes.find(sequence("a", more="x")[1:], "") == []


def test_one_token_is_always_left_to_read() -> None:
    prefixes = Prefixes(8)
    _, places = prefixes.add(sequence("a", "b"), "")
    assert prefixes.find(sequence("a", "b"), "") == places[:1]
    assert prefixes.find(sequence("a", "b", more="x"), "") == places


def test_equal_beginnings_are_kept_once_and_a_continuation_adds_only_what_is_new() -> None:
    prefixes = Prefixes(8)
    _, first = prefixes.add(sequence("a", "b"), "")
    start, more = prefixes.add(sequence("a", "b", "c", "d"), "")
    assert start == 2 * BLOCK_TOKENS
    assert len(more) == 2 and not set(more) & set(first)
    assert prefixes.add(sequence("a", "b", "c", "d"), "") == (4 * BLOCK_TOKENS, [])
    assert prefixes.find(sequence("a", "b", "c", "d", more="x"), "") == first + more


def test_nobody_finds_what_another_sharer_began_with() -> None:
    prefixes = Prefixes(8)
    prefixes.add(sequence("a"), "one")
    assert prefixes.find(sequence("a", more="x"), "two") == []
    assert len(prefixes.find(sequence("a", more="x"), "one")) == 1


def test_what_was_used_longest_ago_goes_from_its_end_on() -> None:
    prefixes = Prefixes(4)
    prefixes.add(sequence("a", "b"), "")
    prefixes.add(sequence("c", "d"), "")
    prefixes.find(sequence("a", "b", more="x"), "")
    prefixes.add(sequence("e"), "")
    assert len(prefixes.find(sequence("a", "b", more="x"), "")) == 2
    assert len(prefixes.find(sequence("c", "d", more="x"), "")) == 1
    assert prefixes.num_tokens == 4 * BLOCK_TOKENS


@pytest.mark.parametrize("num_blocks", [0, 2])
def test_of_a_sequence_that_is_too_long_the_beginning_is_kept(num_blocks: int) -> None:
    prefixes = Prefixes(num_blocks)
    start, places = prefixes.add(sequence("a", "b", "c"), "")
    assert (start, len(places)) == (0, num_blocks)
    assert prefixes.find(sequence("a", "b", "c", more="x"), "") == places


def test_a_place_always_holds_the_tokens_for_which_it_is_found() -> None:
    draw = random.Random(0)
    prefixes = Prefixes(7)
    held: dict[int, list[int]] = {}
    for _ in range(2000):
        tokens = sequence(*draw.choices("ab", k=draw.randrange(6)), more="x")
        for i, place in enumerate(prefixes.find(tokens, "")):
            assert held[place] == tokens[: (i + 1) * BLOCK_TOKENS]
        start, places = prefixes.add(tokens, "")
        for i, place in enumerate(places):
            held[place] = tokens[: start + (i + 1) * BLOCK_TOKENS]
    assert prefixes.num_tokens <= 7 * BLOCK_TOKENS
