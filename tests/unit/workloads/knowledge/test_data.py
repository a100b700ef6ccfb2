from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mizzen.errors import DataError
from mizzen.workloads.contract import Prepared
from mizzen.workloads.knowledge import data, export, index, model, table
from mizzen.workloads.knowledge.word_pieces import WordPieces

Write = Callable[[Mapping[str, str | bytes]], Path]
Prepare = Callable[..., Prepared]


def files_of(prepared: Prepared) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in prepared.folder.iterdir()}


def as_version(prepared: Prepared, folder: Path) -> Path:
    """The part of an export that the next preparation looks at."""
    folder.mkdir()
    for name in (table.FILE, data.SETTINGS):
        (folder / name).write_bytes((prepared.folder / name).read_bytes())
    index.write(np.load(prepared.folder / data.EMBEDDINGS), folder / export.INDEX)
    return folder


def test_each_chunk_has_its_document_its_number_and_its_embedding(
    base: Prepared, tiny_embedder: Path
) -> None:
    chunks = table.Chunks(base.folder / table.FILE)
    embeddings_ND = np.load(base.folder / data.EMBEDDINGS)
    assert embeddings_ND.shape == (len(chunks), 16)
    assert np.linalg.norm(embeddings_ND, axis=1) == pytest.approx(1, abs=1e-6)
    located = [chunks[row] for row in range(len(chunks))]
    assert [one.number for one in located if one.document == "docs/guide.md"] == [0, 1, 2]
    jam = next(one for one in located if one.chunk.title == "Printer > Paper jam")
    expected = model.embed(model.build(tiny_embedder), WordPieces(tiny_embedder), [jam.chunk.embedded])
    assert (embeddings_ND[located.index(jam)] == expected[0]).all()


def test_the_report_tells_what_is_in_it(base: Prepared) -> None:
    assert (base.report.rows_read, base.report.rows_kept) == (2, 2)
    facts = base.report.facts
    assert (facts["documents"], facts["chunks"]) == (2, 43)
    assert facts["questions_from"] == "10% of the questions in CSV files"
    assert facts["questions"] == len(data.read_questions(base.folder)) > 0
    assert base.report.work == {"embedded": 43, "kept": 0, "removed": 0}


def test_a_held_out_question_is_shown_but_not_embedded_and_its_answer_is_what_it_must_find(
    base: Prepared,
) -> None:
    chunks = table.Chunks(base.folder / table.FILE)
    for question in data.read_questions(base.folder):
        (row,) = question.chunks
        assert chunks[row].chunk.title == question.text
        assert chunks[row].chunk.embedded == chunks[row].chunk.text
    others = [chunks[row].chunk for row in range(len(chunks)) if chunks[row].chunk.heading]
    assert len(others) == len(chunks) - len(data.read_questions(base.folder))


def test_the_same_documents_give_the_same_bytes(write: Write, prepare: Prepare) -> None:
    docs = write({"a.md": "# A\nwords", "faq.csv": "question,answer\nq,a\n"})
    assert files_of(prepare(docs)) == files_of(prepare(docs))


def test_unchanged_texts_keep_their_embeddings_and_the_result_is_that_of_a_whole_build(
    write: Write, prepare: Prepare, sources: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = write({"a.txt": "one", "b.txt": "two", "c.txt": "three"})
    sources.versions["kb"] = as_version(prepare(docs), tmp_path / "before")
    docs = write({"b.txt": "changed", "d.txt": "new"})
    (docs / "c.txt").unlink()
    whole = prepare(docs)
    embedded: list[str] = []
    really = model.embed

    def watched(module: Any, word_pieces: Any, texts: list[str]) -> Any:
        embedded.extend(texts)
        return really(module, word_pieces, texts)

    monkeypatch.setattr(model, "embed", watched)
    incremental = prepare(docs, previous="kb")
    assert embedded == ["changed", "new"]
    assert incremental.report.work == {"embedded": 2, "kept": 1, "removed": 2}
    assert files_of(incremental) == files_of(whole)


def test_a_version_before_that_is_not_there_or_has_another_model_is_no_help_and_no_error(
    write: Write, prepare: Prepare, sources: Any, tmp_path: Path
) -> None:
    docs = write({"a.txt": "one"})
    assert prepare(docs, previous="kb").report.work["embedded"] == 1
    before = as_version(prepare(docs), tmp_path / "before")
    settings = before / data.SETTINGS
    settings.write_text(settings.read_text().replace('"weights": "b9a', '"weights": "000'))
    sources.versions["kb"] = before
    assert prepare(docs, previous="kb").report.work == {"embedded": 1, "kept": 0, "removed": 0}


def test_a_question_with_the_same_answer_again_is_left_out(write: Write, prepare: Prepare) -> None:
    docs = write({"a.csv": "question,answer\nq,a\nQ,A\nq,b\n", "b.csv": "question,answer\nq,a\nr,a\n"})
    report = prepare(docs, holdout_share=0).report
    assert report.facts["chunks"] == 3
    assert report.facts["left_out"] == [
        "docs/a.csv, row 3: it is the same as docs/a.csv, row 2",
        "docs/b.csv, row 2: it is the same as docs/a.csv, row 2",
    ]
    assert report.dropped == {"row of a CSV": 2}


def test_questions_of_a_file_leave_all_others_in_the_index(
    write: Write, prepare: Prepare, tmp_path: Path
) -> None:
    docs = write({"faq.csv": "question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(50))})
    (tmp_path / "q.csv").write_text("question,document,text\nwhat?,docs/faq.csv,a7\n")
    prepared = prepare(docs, questions=str(tmp_path / "q.csv"))
    chunks = table.Chunks(prepared.folder / table.FILE)
    assert all(chunks[row].chunk.heading for row in range(len(chunks)))
    (question,) = data.read_questions(prepared.folder)
    assert [chunks[row].chunk.text for row in question.chunks] == ["a7"]
    assert prepared.report.facts["questions_from"] == "q.csv"


def test_without_any_question_none_is_made_up(write: Write, prepare: Prepare) -> None:
    facts = prepare(write({"a.txt": "words"})).report.facts
    assert (facts["questions"], facts["questions_from"]) == (0, None)


def test_nothing_that_can_be_read_is_an_error_with_the_reasons(write: Write, prepare: Prepare) -> None:
    docs = write({"a.txt": "", "b.xyz": "?"})
    with pytest.raises(
        DataError, match=r"not one document.*docs/a\.txt is empty; docs/b\.xyz has the ending"
    ):
        prepare(docs)


def test_too_many_chunks_are_an_error(
    write: Write, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MAX_CHUNKS", 1)
    with pytest.raises(DataError, match=r"too many chunks.*more than 1 up to docs/b\.txt"):
        prepare(write({"a.txt": "one", "b.txt": "two"}))
