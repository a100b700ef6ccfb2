from __future__ import annotations

from pathlib import Path

import pytest

from mizzen.errors import DataError
from mizzen.workloads.knowledge import questions
from mizzen.workloads.knowledge.chunking import Chunk
from mizzen.workloads.knowledge.questions import HeldOut, Question

CHUNKS = {
    "docs/a.md": [(0, Chunk("A", "Open the lid.", "A")), (1, Chunk("A", "Close the\nlid.", "A"))],
    "docs/b.md": [(2, Chunk("B", "Nothing.", "B"))],
}


def asked(tmp_path: Path, text: str) -> list[Question]:
    (tmp_path / "q.csv").write_text(text)
    return questions.from_file(str(tmp_path / "q.csv"), CHUNKS)


def test_a_document_alone_means_any_chunk_of_it_and_words_mean_theirs(tmp_path: Path) -> None:
    found = asked(tmp_path, "question,document,text\nhow?,docs/a.md,\nclose?,docs/a.md,close THE lid\n")
    assert found == [Question("how?", (0, 1)), Question("close?", (1,))]
    assert asked(tmp_path, "document,question\ndocs/b.md,what?\n") == [Question("what?", (2,))]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("question,document\nq,docs/a\n", r"q\.csv, row 2, column 'document': .*saw 'docs/a'.*docs/a\.md"),
        (
            "question,document,text\nq,docs/a.md,\nq,docs/b.md,open\n",
            r"row 3, column 'text': no chunk of docs/b\.md",
        ),
        ("question,document\nq,docs/a.md\n,docs/a.md\n", "row 3: the column 'question' is empty"),
        ("question,answer\nq,a\n", "no column 'document'"),
        ("question,document\n", "holds no question"),
    ],
)
def test_what_is_wrong_is_named_by_row_and_column(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        asked(tmp_path, text)
    assert caught.value.field == "data.questions"


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        questions.from_file(str(tmp_path / "none.csv"), CHUNKS)


def test_of_held_out_questions_each_is_asked_once_and_any_chunk_with_its_answer_is_right() -> None:
    held_out = HeldOut()
    held_out.add("What?", "This.", [0], held_out=True)
    held_out.add("Which one?", "this.", [1], held_out=False)
    held_out.add("what?", "That, in two parts.", [2, 3], held_out=True)
    held_out.add("Who?", "Me.", [4], held_out=False)
    assert held_out.questions() == [Question("What?", (0, 1, 2, 3))]
