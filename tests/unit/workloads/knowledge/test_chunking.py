from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizzen.workloads.knowledge.chunking import BREAKS, chunks, shortened, windows
from mizzen.workloads.knowledge.outline import Section
from mizzen.workloads.knowledge.word_pieces import WordPieces


def words(text: str) -> int:
    """A word of up to four letters counts one, a longer one more: as word pieces do."""
    return sum(-(-len(word) // 4) for word in text.split())


TEXTS = st.lists(
    st.sampled_from(
        ["a", "bcde", "word.", "Is it?", "x" * 70, "\n", "\n\n", " ", "\t", "Ü-ß", "가힣", "日本語"]
    ),
    max_size=60,
).map(" ".join) | st.text(max_size=300)


@given(TEXTS, st.integers(4, 40), st.integers(0, 20))
def test_windows_keep_to_their_size_and_lose_nothing_but_white_space(
    text: str, size: int, overlap: int
) -> None:
    spans = list(windows(text, words, size, overlap))
    covered = set()
    for start, end in spans:
        assert words(text[start:end]) <= size
        assert text[start:end] == text[start:end].strip() != ""
        covered.update(range(start, end))
    assert all(text[i].isspace() for i in range(len(text)) if i not in covered)


@given(TEXTS, st.integers(4, 40), st.integers(0, 20))
def test_each_window_goes_on_and_shares_no_more_than_the_overlap(text: str, size: int, overlap: int) -> None:
    spans = list(windows(text, words, size, overlap))
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start and end < next_end
        assert words(text[next_start:end]) <= overlap


@given(TEXTS, st.integers(32, 64))
def test_real_word_pieces_never_exceed_the_size(tiny_embedder: Path, text: str, size: int) -> None:
    pieces = WordPieces(tiny_embedder)
    for chunk in chunks(Section("A title > of some length", text), pieces.count, size, size // 4):
        ids, num_unread = pieces.read(chunk.embedded)
        assert len(ids) <= size + 2
        assert num_unread == 0


def test_a_text_that_fits_is_one_chunk_with_its_title_above() -> None:
    (chunk,) = chunks(Section("Guide > Paper", "One line.\n\nAnother."), words, 40, 4)
    assert (chunk.title, chunk.text) == ("Guide > Paper", "One line.\n\nAnother.")
    assert chunk.embedded == "Guide > Paper\nOne line.\n\nAnother."


def test_a_title_that_is_held_out_is_shown_but_not_embedded() -> None:
    (chunk,) = chunks(Section("How far?", "Ten miles.", unread=True), words, 40, 4)
    assert (chunk.title, chunk.embedded) == ("How far?", "Ten miles.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aa bb cc.\n\ndd ee. ff gg", ["aa bb cc.", "dd ee. ff gg"]),
        ("aa bb cc\ndd ee ff", ["aa bb cc", "dd ee ff"]),
        ("aa bb cc. dd ee ff", ["aa bb cc.", "dd ee ff"]),
        ("aa bb cc dd ee ff", ["aa bb cc dd", "ee ff"]),
        ("x" * 30, ["x" * 15, "x" * 15]),
    ],
    ids=["paragraphs", "lines", "sentences", "words", "anywhere"],
)
def test_a_text_is_cut_at_the_best_break_that_it_has(text: str, expected: list[str]) -> None:
    assert [text[a:b] for a, b in windows(text, words, 4, 0)] == expected


def test_the_next_chunk_begins_with_the_last_sentence_of_the_one_before() -> None:
    text = "One two three. Four five six. Seven eight nine."
    spans = [text[a:b] for a, b in windows(text, len_words, 6, 3)]
    assert spans == ["One two three. Four five six.", "Four five six. Seven eight nine."]


def len_words(text: str) -> int:
    return len(text.split())


def test_of_a_long_title_the_innermost_headings_are_kept() -> None:
    assert shortened("aaaa > bbbb > cccc", words, 3) == "bbbb > cccc"
    assert shortened("aaaa bbbb cccc dddd", words, 3) == ""


def test_every_break_is_white_space_alone() -> None:
    for pattern in BREAKS:
        for found in re.finditer(pattern, "a.  b\n\n \n c\td;\n e"):
            assert found[0].isspace()
