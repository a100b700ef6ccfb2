"""Markdown, text, HTML and PDF as sections; what cannot be read raises `Unreadable`, which says why.

Nothing of a document is run or fetched. It does not look for files: `documents` does.
"""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO

from mizzen.workloads.knowledge.config import MAX_CHARACTERS, MAX_PAGES
from mizzen.workloads.knowledge.outline import Outline, Section

COMMENT = "<!--", "-->"
DECLARED = re.compile(rb"charset\s*=\s*[\"']?([A-Za-z0-9_-]+)")
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class Unreadable(Exception):
    """Why a document is left out, for people; it never leaves this package."""


def decoded(content: bytes, otherwise: str = "utf-8") -> str:
    """The text of a file in UTF-8, in UTF-16 with its mark, or in the encoding `otherwise`."""
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), otherwise)
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as cause:
        raise Unreadable(
            f"is not {encoding} at byte {cause.start} (0x{content[cause.start]:02x}): save it as UTF-8"
        ) from None
    except LookupError:
        raise Unreadable(f"says that it is {encoding!r}, which is no encoding: save it as UTF-8") from None
    if "\0" in text:
        raise Unreadable("is no text: it holds zero bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def plain(content: bytes) -> list[Section]:
    """Text without marks: one section."""
    outline = Outline()
    outline.text(decoded(content))
    return outline.sections()


def markdown(content: bytes) -> list[Section]:
    """CommonMark with tables: headings as titles, everything below them as it is written, less comments."""
    from markdown_it import MarkdownIt

    text = decoded(content)
    lines = text.split("\n")
    outline, at = Outline(), 0
    # What is inside a block stays as it is written, and would cost most of the time.
    tokens = MarkdownIt("commonmark").enable("table").disable("inline").parse(text)
    for number, token in enumerate(tokens):
        if token.level or token.map is None:
            continue
        begin, end = token.map
        # What lies between blocks: definitions of links, which the parser takes out.
        outline.text(_without_comments(lines[at:begin]))
        if token.type == "heading_open":
            outline.heading(int(token.tag[1]), tokens[number + 1].content)
        else:
            outline.text(_without_comments(lines[begin:end]))
        at = end
    outline.text(_without_comments(lines[at:]))
    return outline.sections()


def _without_comments(lines: list[str]) -> str:
    """In time that grows with the text, also where many comments begin and none ends."""
    text = "\n".join(lines)
    begin, end = COMMENT
    kept, at = [], 0
    while (start := text.find(begin, at)) >= 0 and (stop := text.find(end, start + len(begin))) >= 0:
        kept.append(text[at:start])
        at = stop + len(end)
    return "".join([*kept, text[at:]])


def html(content: bytes) -> list[Section]:
    """The visible text of a page: headings as titles, without scripts, styles and navigation."""
    from mizzen.workloads.knowledge.pages import sections

    declared = DECLARED.search(content[:2048])
    return sections(decoded(content, declared[1].decode() if declared else "utf-8"))


def pdf(content: bytes) -> list[Section]:
    """The text of a PDF, a section for each page; one that is encrypted or holds no text is refused."""
    outline = Outline()
    for number, text in enumerate(_pages(content), start=1):
        if text.strip():
            outline.heading(1, f"page {number}")
            # Surrogates that stand for no character cannot be stored.
            outline.text(text.encode("utf-8", "replace").decode())
    sections = outline.sections()
    if not sections:
        raise Unreadable("holds no text: if it is scanned, run character recognition (OCR) over it first")
    return sections


def _pages(content: bytes) -> Iterator[str]:
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it tells of every small flaw of a file
    num_characters = 0
    try:
        reader = PdfReader(BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("is encrypted: save a copy without a password")
        if len(reader.pages) > MAX_PAGES:
            raise Unreadable(f"has {len(reader.pages)} pages, at most {MAX_PAGES} are read: split it")
        for page in reader.pages:
            text = page.extract_text()
            num_characters += len(text)
            if num_characters > MAX_CHARACTERS:
                raise Unreadable(f"holds more than {MAX_CHARACTERS} characters: split it")
            yield text
    except Unreadable:
        raise
    except Exception as cause:
        # What a broken file makes of pypdf has no common base: PdfReadError, KeyError, RecursionError, ...
        raise Unreadable(f"is no PDF that can be read ({type(cause).__name__}: {cause})") from None


READERS: Mapping[str, Callable[[bytes], list[Section]]] = {
    ".md": markdown,
    ".markdown": markdown,
    ".txt": plain,
    ".text": plain,
    ".rst": plain,
    ".html": html,
    ".htm": html,
    ".pdf": pdf,
}
"""By the file's ending, in lower case. `.csv` is read by `answers`, which knows questions too."""
