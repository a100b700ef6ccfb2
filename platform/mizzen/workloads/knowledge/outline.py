"""A document as sections: a text below its headings. Readers fill an `Outline`, chunks are cut from sections.

It keeps every heading: one without a text of its own or below it becomes a text itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST_HEADING = 200
"""In characters; a longer one is a text."""
BETWEEN = " > "


@dataclass(frozen=True)
class Section:
    """A text, and the headings above it as one line."""

    title: str
    text: str
    unread: bool = False
    """Whether the title is not to be embedded: a question that is held out to measure by."""


@dataclass
class _Heading:
    level: int
    text: str
    has_text: bool = False


class Outline:
    """Takes headings and texts in the order of the document."""

    def __init__(self) -> None:
        self._path: list[_Heading] = []
        self._texts: list[str] = []
        self._sections: list[Section] = []

    def heading(self, level: int, text: str) -> None:
        """A heading; 1 is the highest level."""
        line = re.sub(r"\s+", " ", text).strip()
        if not line:
            return
        if len(line) > LONGEST_HEADING:
            self.text(line)
            return
        self._close_section()
        while self._path and self._path[-1].level >= level:
            self._leave()
        self._path.append(_Heading(level, line))

    def text(self, text: str) -> None:
        """A paragraph, list, table or the like, as it is to be read."""
        if text.strip():
            self._texts.append(text.strip("\n"))

    def sections(self) -> list[Section]:
        """All sections; nothing is added any more."""
        self._close_section()
        while self._path:
            self._leave()
        return self._sections

    def _close_section(self) -> None:
        if self._texts:
            self._add("\n\n".join(self._texts))
            self._texts = []

    def _leave(self) -> None:
        heading = self._path.pop()
        if not heading.has_text:
            self._add(heading.text)

    def _add(self, text: str) -> None:
        title = BETWEEN.join(heading.text for heading in self._path)
        self._sections.append(Section(title, text))
        for heading in self._path:
            heading.has_text = True
