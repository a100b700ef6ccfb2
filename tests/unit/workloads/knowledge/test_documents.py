from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mizzen.errors import DataError
from mizzen.workloads.knowledge import documents
from mizzen.workloads.knowledge.documents import Document, LeftOut

Write = Callable[[Mapping[str, str | bytes]], Path]


def test_documents_come_sorted_with_names_from_the_folder_on(write: Write) -> None:
    docs = write({"b.md": "# B\ntext", "a/deep.txt": "words", "faq.csv": "question,answer\nq,a\n"})
    found = [one.name for one in documents.read_all([str(docs)])]
    assert found == ["docs/a/deep.txt", "docs/b.md", "docs/faq.csv"]
    assert [one.name for one in documents.read_all([str(docs / "b.md")])] == ["b.md"]


def test_what_cannot_be_read_is_told_and_stops_nothing(write: Write) -> None:
    docs = write(
        {
            "good.txt": "words",
            "copy.txt": "words",
            "empty.md": "",
            "blank.md": " \n\n",
            "picture.png": b"\x89PNG",
            "broken.txt": b"\xff\xff",
            "rows.csv": "question,answer\nq,a\nx,\n",
            "other.csv": "name,age\nx,1\n",
            ".hidden/secret.txt": "no",
            ".secret.txt": "no",
        }
    )
    found = list(documents.read_all([str(docs)]))
    assert [one.name for one in found if isinstance(one, Document)] == ["docs/copy.txt", "docs/rows.csv"]
    told = {str(one) for one in found if isinstance(one, LeftOut)}
    assert "docs/good.txt is the same, byte for byte, as docs/copy.txt" in told
    assert "docs/empty.md is empty" in told
    assert "docs/blank.md holds no text" in told
    assert "docs/rows.csv, row 3: the column 'answer' is empty" in told
    assert any(line.startswith("docs/picture.png has the ending '.png': read are .md") for line in told)
    assert any(line.startswith("docs/broken.txt is not utf-8 at byte 0") for line in told)
    assert any(line.startswith("docs/other.csv has no column 'question'") for line in told)
    assert len(told) == 7


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file or folder.*nowhere"):
        list(documents.read_all([str(tmp_path / "nowhere")]))


def test_two_documents_of_one_name_are_an_error(tmp_path: Path) -> None:
    for folder in ("x/docs", "y/docs"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text(folder)
    with pytest.raises(DataError, match=r"two documents would have the name 'docs/a\.txt'"):
        documents.find([str(tmp_path / "x/docs"), str(tmp_path / "y/docs")])


def test_a_file_that_is_too_large_is_left_out(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = write({"large.txt": "x" * 100, "small.txt": "y"})
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 50)
    left_out, small = documents.read_all([str(docs)])
    assert str(left_out) == "docs/large.txt has 100 bytes, at most 50 are read: split it"
    assert small.name == "docs/small.txt"


def test_a_link_out_of_the_folder_is_left_out(write: Write, tmp_path: Path) -> None:
    docs = write({"in.txt": "inside"})
    (tmp_path / "private.txt").write_text("outside")
    (docs / "out.txt").symlink_to(tmp_path / "private.txt")
    (docs / "also.txt").symlink_to(docs / "in.txt")
    (docs / "loop.txt").symlink_to(docs / "loop.txt")
    found = {one.name: one for one in documents.read_all([str(docs)])}
    assert str(found["docs/out.txt"]) == "docs/out.txt is a link that leads out of the folder"
    assert isinstance(found["docs/also.txt"], Document)
    assert isinstance(found["docs/loop.txt"], LeftOut)
