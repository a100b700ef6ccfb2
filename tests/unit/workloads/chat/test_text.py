from __future__ import annotations

from collections.abc import Sequence

import pytest

from mizzen.workloads.chat.text import MAX_HELD_TOKENS, Detokenizer, StopStrings


def decode_bytes(tokens: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(tokens).decode("utf-8", errors="replace")


def pieces_of(text: bytes) -> list[str]:
    detokenizer = Detokenizer(decode_bytes)
    return [*(detokenizer.add(byte) for byte in text), detokenizer.finish()]


@pytest.mark.parametrize("text", ["plain", "Grüße", "日本語", "a😀b", "👩‍👩‍👧"])
def test_pieces_make_up_the_text_and_no_character_is_split(text: str) -> None:
    pieces = pieces_of(text.encode())
    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)


def test_bytes_that_are_no_character_are_shown_in_the_end_and_not_waited_for_for_ever() -> None:
    pieces = pieces_of(b"ok" + b"\xff" * (MAX_HELD_TOKENS + 1))
    assert "".join(pieces).startswith("ok�")
    assert pieces[2 + MAX_HELD_TOKENS - 1] != ""


def test_an_unfinished_character_at_the_end_is_shown_as_it_is() -> None:
    assert "".join(pieces_of("é".encode()[:1])) == "�"


@pytest.mark.parametrize(
    ("pieces", "stops", "shown"),
    [
        (["Hello", " END", " more"], ["END"], "Hello "),
        (["Hello E", "N", "D more"], ["END"], "Hello "),
        (["aE", "NE", "ND!"], ["END"], "aEN"),
        (["one two three"], ["three", "two"], "one "),
        (["nothing", " here"], ["END"], "nothing here"),
        (["ends with EN"], ["END"], "ends with EN"),
    ],
)
def test_text_comes_up_to_the_first_stop_string_wherever_pieces_break(
    pieces: list[str], stops: list[str], shown: str
) -> None:
    filtered = StopStrings(stops)
    text = "".join(filtered.add(piece) for piece in pieces) + filtered.finish()
    assert text == shown
    assert filtered.found == any(stop in "".join(pieces) for stop in stops)


def test_what_may_become_a_stop_string_is_held_back_until_it_is_clear() -> None:
    filtered = StopStrings(["\n\n"])
    assert filtered.add("line\n") == "line"
    assert filtered.add("next") == "\nnext"
