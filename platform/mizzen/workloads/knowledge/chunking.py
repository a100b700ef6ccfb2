"""Sections cut into chunks of so many word pieces, where the text itself has its breaks.

A break between paragraphs is better than one between lines, that than one between sentences, that than one
between words; only what has none of these is cut anywhere. Chunks of a section follow each other, and
overlap by whole pieces; together they hold every character of it but white space at the breaks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mizzen.workloads.knowledge.outline import BETWEEN, Section

BREAKS = tuple(re.compile(pattern) for pattern in (r"\n\s*\n", r"\n", r"(?<=[.!?:;])\s+", r"\s+"))
"""The best first; a match lies between two pieces."""
TITLE_SHARE = 4
"""A title gets at most one in so many of the word pieces."""

Count = Callable[[str], int]
Span = tuple[int, int]


@dataclass(frozen=True)
class Chunk:
    """A part of a document."""

    title: str
    text: str
    heading: str
    """As much of the title as is embedded with the text."""

    @property
    def embedded(self) -> str:
        """What the embedding is of."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text


def chunks(section: Section, count: Count, size: int, overlap: int) -> Iterator[Chunk]:
    """The chunks of `section`: at most `size` word pieces each in `embedded`, `overlap` of them shared."""
    heading = "" if section.unread else shortened(section.title, count, size // TITLE_SHARE)
    room = size - count(heading)
    for start, end in windows(section.text, count, room, min(overlap, room // 2)):
        yield Chunk(section.title, section.text[start:end], heading)


def shortened(title: str, count: Count, limit: int) -> str:
    """As many of the title's headings, from the innermost outwards, as have `limit` word pieces together."""
    headings = title.split(BETWEEN)
    while headings and count(BETWEEN.join(headings)) > limit:
        del headings[0]
    return BETWEEN.join(headings)


def windows(text: str, count: Count, size: int, overlap: int) -> Iterator[Span]:
    """Spans of at most `size` word pieces; each but the first begins with the end of the one before."""
    pieces = list(_pieces(text, (0, len(text)), count, size, 0))
    costs = [count(text[start:end]) for start, end in pieces]
    first, shared = 0, 0
    start = pieces[0][0] if pieces else 0
    while first < len(pieces):
        last, cost = first, shared + costs[first]
        while last + 1 < len(pieces) and cost + costs[last + 1] <= size:
            last += 1
            cost += costs[last]
        # Two halves of one word may be other pieces together than apart.
        while last > first and count(text[start : pieces[last][1]]) > size:
            last -= 1
        if count(text[start : pieces[last][1]]) > size:
            start = pieces[first][0]
        end = pieces[last][1]
        yield start, end
        first = last + 1
        if first < len(pieces):
            room = min(overlap, size - costs[first])
            start, shared = _tail(text, (start, end), count, room) or (pieces[first][0], 0)


def _tail(text: str, span: Span, count: Count, limit: int) -> tuple[int, int] | None:
    """Where the last word pieces of `span` begin, at most `limit`, and how many they are.

    That is at the start of a sentence if one is near enough, else at a word; None if there is no such place.
    """
    start, end = span
    for breaks in BREAKS[-2:]:
        best = None
        for found in reversed(list(breaks.finditer(text, start, end))):
            cost = count(text[found.end() : end])
            if cost > limit:
                break
            best = found.end(), cost
        if best is not None:
            return best
    return None


def _pieces(text: str, span: Span, count: Count, size: int, rank: int) -> Iterator[Span]:
    """Spans without white space around them, of at most `size` word pieces, that cover `span` in order.

    Paragraphs that fit stay whole; those that do not are taken apart at the next best breaks.
    """
    span = _stripped(text, span)
    start, end = span
    if start == end:
        return
    if end - start == 1 or (rank > 0 and count(text[start:end]) <= size):
        yield span
    elif rank == len(BREAKS):
        middle = (start + end) // 2
        yield from _pieces(text, (start, middle), count, size, rank)
        yield from _pieces(text, (middle, end), count, size, rank)
    else:
        at = start
        for found in BREAKS[rank].finditer(text, start, end):
            yield from _pieces(text, (at, found.start()), count, size, rank + 1)
            at = found.end()
        yield from _pieces(text, (at, end), count, size, rank + 1)


def _stripped(text: str, span: Span) -> Span:
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
