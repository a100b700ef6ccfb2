from __future__ import annotations

import re
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from mizzen.workloads.knowledge import readers
from mizzen.workloads.knowledge.outline import Section
from mizzen.workloads.knowledge.readers import READERS, Unreadable

COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def a_pdf(*pages: str, password: str | None = None) -> bytes:
    """A PDF with a line of text on each page; an empty text leaves its page blank."""
    writer = PdfWriter()
    names = {"Type": "/Font", "Subtype": "/Type1", "BaseFont": "/Helvetica"}
    font = DictionaryObject({NameObject(f"/{key}"): NameObject(value) for key, value in names.items()})
    for text in pages:
        page = writer.add_blank_page(300, 300)
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode() if text else b"")
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        page[NameObject("/Contents")] = writer._add_object(stream)
    if password:
        writer.encrypt(password, algorithm="AES-256")
    target = BytesIO()
    writer.write(target)
    return target.getvalue()


# --- Markdown and text ----------------------------------------------------------------------------


def test_markdown_is_cut_at_its_headings_of_both_kinds() -> None:
    text = b"before\n\n# A #\n\none\n\nB\n-\n\n- two\n- three\n\n"
    text += b"## C\n```\n# no heading\n```\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    assert readers.markdown(text) == [
        Section("", "before"),
        Section("A", "one"),
        Section("A > B", "- two\n- three"),
        Section("A > C", "```\n# no heading\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"),
    ]


def test_markdown_keeps_what_the_parser_takes_out_and_drops_comments() -> None:
    (section,) = readers.markdown(b"see [x]\n\n[x]: http://example.com\n\n<!-- not\nthis -->\nend")
    assert "http://example.com" in section.text
    assert "not" not in section.text


@given(st.text(max_size=200))
def test_markdown_loses_no_word(text: str) -> None:
    cleaned = COMMENT.sub("", text.replace("\0", "").replace("\ufeff", ""))
    try:
        sections = readers.markdown(cleaned.encode())
    except UnicodeEncodeError:  # half a surrogate pair cannot be in a file
        return
    there = "".join(f"{section.title}{section.text}" for section in sections)
    letters = {letter for letter in cleaned if letter.isalnum()}
    assert letters <= set(there)


def test_text_is_one_section_and_line_ends_are_alike() -> None:
    assert readers.plain(b"\xef\xbb\xbfone\r\n\r\ntwo\rthree") == [Section("", "one\n\ntwo\nthree")]


def test_utf_16_is_known_by_its_mark() -> None:
    assert readers.plain("Grüße".encode("utf-16")) == [Section("", "Grüße")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"gr\xfc\xdfe", r"is not utf-8 at byte 2 \(0xfc\): save it as UTF-8"),
        (b"a\0b", "zero bytes"),
    ],
)
def test_what_is_no_text_is_refused_with_the_place(content: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        readers.plain(content)


# --- HTML -----------------------------------------------------------------------------------------


def test_of_a_page_what_is_seen_is_read() -> None:
    page = b"""<html><head><title>Shop</title><script>steal()</script><style>p{}</style></head>
    <body><nav>Home</nav><p>Hello <b>dear</b> friend</p><h2>Paying</h2><ul><li>cash<li>card</ul>
    <table><tr><td>1</td><td>2</td></tr></table><pre>a
      b</pre><script>alert("x")</script><noscript>no</noscript></body></html>"""
    first, second = readers.html(page)
    assert first == Section("Shop", "Hello dear friend")
    assert second.title == "Shop > Paying"
    for word in ("- cash\n- card", "1\t2", "a\n"):
        assert word in second.text
    for word in ("steal", "alert", "Home", "p{}"):
        assert word not in first.text + second.text


def test_the_encoding_that_a_page_declares_is_used() -> None:
    page = '<meta charset="iso-8859-1"><p>Grüße</p>'.encode("latin-1")
    assert readers.html(page) == [Section("", "Grüße")]
    with pytest.raises(Unreadable, match="'klingon', which is no encoding"):
        readers.html(b'<meta charset="klingon"><p>x</p>')


def test_a_page_that_nests_deeper_than_python_is_read() -> None:
    assert readers.html(b"<div>" * 5000 + b"deep")[0].text == "deep"


# --- PDF ------------------------------------------------------------------------------------------


def test_a_pdf_has_a_section_for_each_page_with_text() -> None:
    assert readers.pdf(a_pdf("Hello paper", "", "Page three")) == [
        Section("page 1", "Hello paper"),
        Section("page 3", "Page three"),
    ]


def test_a_pdf_without_text_may_be_scanned() -> None:
    with pytest.raises(Unreadable, match="OCR"):
        readers.pdf(a_pdf("", ""))


def test_an_encrypted_pdf_is_refused() -> None:
    with pytest.raises(Unreadable, match="is encrypted"):
        readers.pdf(a_pdf("secret", password="hush"))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_pdf_or_unreadable(content: bytes) -> None:
    with pytest.raises(Unreadable):
        readers.pdf(b"%PDF-1.7\n" + content)


@given(st.sampled_from(sorted(READERS)), st.binary(max_size=300))
def test_no_bytes_make_a_reader_fail_otherwise(ending: str, content: bytes) -> None:
    try:
        sections = READERS[ending](content)
    except Unreadable:
        return
    assert all(section.text.strip() for section in sections)


@pytest.mark.parametrize(("ending", "pattern"), [(".md", b"<!--"), (".html", b" ")])
def test_what_a_document_repeats_costs_no_more_than_its_length(ending: str, pattern: bytes) -> None:
    """A reader whose time grows with the square of that would not come back for many minutes."""
    (section,) = READERS[ending](b"<pre>a" + pattern * 400_000 + b"b</pre>")
    assert section.text.count(pattern.decode()) == 400_000


def test_comments_are_left_out_and_one_without_an_end_is_text() -> None:
    assert readers.markdown(b"a<!-- b\n-- -->c<!---->d <!-- e") == [Section("", "acd <!-- e")]
