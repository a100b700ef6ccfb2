from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mizzen.workloads.knowledge.outline import LONGEST_HEADING, Outline, Section

ENTRIES = st.lists(st.tuples(st.integers(0, 6), st.text(min_size=1, max_size=12)), max_size=30)


def outlined(*entries: tuple[int, str]) -> list[Section]:
    """Level 0 stands for a text."""
    outline = Outline()
    for level, text in entries:
        if level:
            outline.heading(level, text)
        else:
            outline.text(text)
    return outline.sections()


def test_a_text_stands_below_the_headings_above_it() -> None:
    found = outlined(
        (0, "before"), (1, "A"), (0, "one"), (0, "two"), (2, "B"), (0, "three"), (1, "C"), (0, "x")
    )
    assert found == [
        Section("", "before"),
        Section("A", "one\n\ntwo"),
        Section("A > B", "three"),
        Section("C", "x"),
    ]


def test_a_heading_with_nothing_below_it_is_a_text_itself() -> None:
    assert outlined((1, "A"), (2, "B"), (2, "C"), (0, "x")) == [Section("A", "B"), Section("A > C", "x")]
    assert outlined((1, "A")) == [Section("", "A")]


def test_a_heading_of_many_words_is_a_text() -> None:
    long = "word " * LONGEST_HEADING
    assert outlined((1, long), (0, "x")) == [Section("", f"{long.strip()}\n\nx")]


@given(ENTRIES)
def test_no_word_is_lost_and_no_section_is_empty(entries: list[tuple[int, str]]) -> None:
    sections = outlined(*entries)
    assert all(section.text.strip() for section in sections)
    there = {word for section in sections for word in f"{section.title} {section.text}".split()}
    assert {word for _, text in entries for word in text.split()} <= there
