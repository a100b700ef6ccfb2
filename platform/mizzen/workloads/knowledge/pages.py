"""The visible text of an HTML page as sections, by lexbor's parser (through selectolax)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from selectolax.lexbor import LexborHTMLParser

from mizzen.workloads.knowledge.outline import Outline, Section

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

UNSEEN = ["script", "style", "noscript", "template", "svg", "iframe", "object", "nav", "head"]
HEADINGS = {f"h{level}": level for level in range(1, 7)}
PARAGRAPHS = frozenset([
    "address", "article", "aside", "blockquote", "body", "dd", "div", "dl", "dt", "fieldset", "figcaption",
    "figure", "footer", "form", "header", "hr", "main", "ol", "p", "pre", "section", "table", "ul",
])  # fmt: skip
LINES = frozenset({"br", "li", "tr"})
CELLS = frozenset({"td", "th"})


def sections(text: str) -> list[Section]:
    """The sections of a page; the page's title stands above all of them."""
    tree = LexborHTMLParser(text)
    outline = Outline()
    title = tree.css_first("head > title")
    if title is not None:
        outline.heading(0, title.text())
    tree.strip_tags(UNSEEN)
    if tree.body is not None:
        _walk(tree.body, outline)
    return outline.sections()


def _walk(body: LexborNode, outline: Outline) -> None:
    """Without recursion: a page may nest deeper than Python does."""
    words: list[str] = []
    stack: list[tuple[LexborNode, bool]] = [(body, False)]
    preformatted = 0
    while stack:
        node, leaving = stack.pop()
        tag = node.tag or ""
        if node.is_text_node:
            words.append(_words(node.text_content or "", preformatted > 0))
            continue
        if not node.is_element_node:
            continue
        preformatted += (-1 if leaving else 1) * (tag == "pre")
        if tag in HEADINGS:
            content = "".join(words)
            words.clear()
            if leaving:
                outline.heading(HEADINGS[tag], content)
            else:
                outline.text(_tidy(content))
        elif tag in PARAGRAPHS:
            words.append("\n\n")
        elif tag in LINES and not leaving:
            words.append("\n- " if tag == "li" else "\n")
        elif tag in CELLS and leaving:
            words.append("\t")
        if not leaving:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(list(node.iter(include_text=True))))
    outline.text(_tidy("".join(words)))


def _words(text: str, preformatted: bool) -> str:
    return text if preformatted else re.sub(r"\s+", " ", text)


def _tidy(text: str) -> str:
    # A run of white space is matched once, from where it begins: pages may hold very long ones.
    breaks = re.compile(r"(?<!\s)\s*\n\s*")
    return breaks.sub(lambda found: "\n\n" if found[0].count("\n") > 1 else "\n", text).strip()
