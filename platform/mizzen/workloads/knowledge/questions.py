"""What a knowledge base is measured by: questions, and the chunks that answer them.

They come from a file of their own, or are held out from the question-answer documents. It ranks nothing:
`evaluate` does.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mizzen.errors import DataError
from mizzen.workloads.knowledge.answers import Problem, normalised, table
from mizzen.workloads.knowledge.chunking import Chunk
from mizzen.workloads.knowledge.config import MAX_FILE_BYTES, MAX_QUESTIONS
from mizzen.workloads.knowledge.readers import Unreadable

FIELD = "data.questions"


@dataclass(frozen=True)
class Question:
    """A question, and the rows of the chunks of which one at least is to be found."""

    text: str
    chunks: tuple[int, ...]


class HeldOut:
    """Gathers the questions of documents that are held out; their answers' chunks are in the index."""

    def __init__(self) -> None:
        self._rows_of_answer: dict[str, list[int]] = defaultdict(list)
        self._answers_of_question: dict[str, list[str]] = defaultdict(list)
        self._words: dict[str, str] = {}

    def add(self, question: str, answer: str, rows: Sequence[int], held_out: bool) -> None:
        """A pair whose answer is in the chunks `rows`."""
        self._rows_of_answer[normalised(answer)] += rows
        if held_out:
            self._words.setdefault(normalised(question), question)
            self._answers_of_question[normalised(question)].append(normalised(answer))

    def questions(self) -> list[Question]:
        """Each question once; a chunk with the words of any of its answers is right."""
        found = []
        for question, answers in self._answers_of_question.items():
            rows = sorted({row for answer in answers for row in self._rows_of_answer[answer]})
            found.append(Question(self._words[question], tuple(rows)))
        return found[:MAX_QUESTIONS]


def from_file(path: str, chunks: Mapping[str, Sequence[tuple[int, Chunk]]]) -> list[Question]:
    """The questions in a CSV file; `chunks` are those of each document, with their rows.

    Raises `DataError` with the row and the column of whatever is wrong.
    """
    found = []
    for row in _rows(path):
        if isinstance(row, Problem):
            raise DataError(f"{path}, row {row.row}: {row.reason}", field=FIELD)
        number, values = row
        where, document = f"{path}, row {number}", values["document"]
        if document not in chunks:
            near = difflib.get_close_matches(document, chunks, n=3, cutoff=0.5)
            raise DataError(
                f"{where}, column 'document': no document of the knowledge base has this name",
                saw=repr(document),
                allowed=f"for instance {', '.join(near or list(chunks)[:3])}",
                field=FIELD,
            )
        words = normalised(values.get("text", ""))
        right = tuple(
            i for i, chunk in chunks[document] if words in normalised(f"{chunk.title} {chunk.text}")
        )
        if not right:
            raise DataError(
                f"{where}, column 'text': no chunk of {document} holds these words",
                saw=repr(values["text"][:80]),
                remedy="Give a short passage of the document, word for word, or leave the column empty.",
                field=FIELD,
            )
        found.append(Question(values["question"], right))
        if len(found) > MAX_QUESTIONS:
            raise DataError(
                f"{path} holds too many questions",
                allowed=f"{MAX_QUESTIONS}",
                remedy="Take a sample of them.",
            )
    if not found:
        raise DataError(f"{path} holds no question", allowed="rows below the header", field=FIELD)
    return found


def _rows(path: str) -> list[tuple[int, dict[str, str]] | Problem]:
    file = Path(path).expanduser().absolute()
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path} is too large", allowed=f"{MAX_FILE_BYTES} bytes", field=FIELD)
        return list(table(file.read_bytes(), ("question", "document"), ("text",)))
    except OSError as cause:
        raise DataError(f"{path} cannot be read: {cause.strerror or cause}", field=FIELD) from None
    except Unreadable as cause:
        raise DataError(f"{path} {cause}", field=FIELD) from None
