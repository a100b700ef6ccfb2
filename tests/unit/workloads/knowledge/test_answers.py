from __future__ import annotations

import pytest

from mizzen.workloads.knowledge import answers
from mizzen.workloads.knowledge.answers import Pair, Problem, is_held_out, normalised
from mizzen.workloads.knowledge.readers import Unreadable


def test_rows_are_numbered_as_in_a_spreadsheet_and_bad_ones_are_told() -> None:
    content = b'Answer,id,Question\r\n"two\r\nlines",1,q1\r\n\r\na3,2\r\n,3,q4\r\na5,4,q5\r\n'
    assert list(answers.pairs(content)) == [
        Pair(2, "q1", "two\nlines"),
        Problem(4, "it has 2 fields, and the header 3"),
        Problem(5, "the column 'answer' is empty"),
        Pair(6, "q5", "a5"),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"frage,antwort\nx,y\n",
            "no column 'question'.*expected are the columns question, answer.*saw frage, antwort",
        ),
        (b"question;answer\nx;y\n", "with commas between them; saw question;answer"),
        (b"question,question,answer\n", "twice the column 'question'"),
        (b"", "saw nothing"),
        (b'question,answer\n"x,y\n', "is no CSV at line"),
    ],
)
def test_a_table_that_cannot_be_read_says_what_is_expected(content: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        list(answers.pairs(content))


def test_held_out_questions_are_a_share_and_always_the_same() -> None:
    questions = [f"What is number {i}?" for i in range(2000)]
    held_out = [q for q in questions if is_held_out(q, 0.1)]
    assert 150 < len(held_out) < 250
    assert set(held_out) <= {q for q in questions if is_held_out(q, 0.2)}
    assert not any(is_held_out(q, 0) for q in questions)


def test_the_same_question_in_other_letters_is_held_out_too() -> None:
    assert normalised("What  IS\nit?") == "what is it?"
    for i in range(50):
        assert is_held_out(f"What is {i}?", 0.3) == is_held_out(f"WHAT is\t{i}?", 0.3)
