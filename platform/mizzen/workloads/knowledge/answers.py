"""CSV files: documents of questions and answers, and the questions that a knowledge base is measured by.

It names rows as a spreadsheet does: the header is row 1.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mizzen.workloads.knowledge.outline import Section
from mizzen.workloads.knowledge.readers import Unreadable, decoded

Row = tuple[int, dict[str, str]]


@dataclass(frozen=True)
class Problem:
    """A row that is left out."""

    row: int
    reason: str


@dataclass(frozen=True)
class Pair:
    """A question, its answer, and where they stand."""

    row: int
    question: str
    answer: str

    def section(self, unread: bool) -> Section:
        """The answer below its question; `unread` if the question is held out."""
        return Section(self.question, self.answer, unread)


def table(content: bytes, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row | Problem]:
    """Rows by column, stripped; what is needed is not empty. Raises `Unreadable` for the file as a whole.

    Other columns are not looked at. The names of columns are understood in upper case too.
    """
    reader = csv.reader(io.StringIO(decoded(content), newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        for column in needed:
            if header.count(column) != 1:
                trouble = "twice the column" if column in header else "no column"
                raise Unreadable(
                    f"has {trouble} {column!r}: expected are the columns {', '.join(needed)}, with commas "
                    f"between them; saw {', '.join(header) or 'nothing'}"
                )
        places = {column: header.index(column) for column in (*needed, *optional) if column in header}
        for row, fields in enumerate(reader, start=2):
            if any(field.strip() for field in fields):
                yield _row(row, fields, header, places, needed)
    except csv.Error as cause:
        raise Unreadable(f"is no CSV at line {reader.line_num}: {cause}") from None


def _row(
    row: int, fields: list[str], header: list[str], places: dict[str, int], needed: Sequence[str]
) -> Row | Problem:
    if len(fields) != len(header):
        return Problem(row, f"it has {len(fields)} fields, and the header {len(header)}")
    values = {column: fields[place].strip() for column, place in places.items()}
    empty = [column for column in needed if not values[column]]
    return Problem(row, f"the column {empty[0]!r} is empty") if empty else (row, values)


def pairs(content: bytes) -> Iterator[Pair | Problem]:
    """The questions of a document with their answers. Raises `Unreadable`."""
    for row in table(content, ("question", "answer")):
        if isinstance(row, Problem):
            yield row
        else:
            number, values = row
            yield Pair(number, values["question"], values["answer"])


def is_held_out(question: str, share: float) -> bool:
    """Whether a question is one to measure by: a fixed choice, by a hash of its words."""
    digest = hashlib.sha256(normalised(question).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < share


def normalised(text: str) -> str:
    """Without what makes no difference: case, and how much white space there is."""
    return " ".join(text.lower().split())
