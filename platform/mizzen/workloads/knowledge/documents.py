"""Finds the documents below the paths of a job and reads them, one at a time.

One that cannot be read becomes a `LeftOut` with the reason, and the others go on. Names of documents are
paths from the folder that was named, so they are the same on every machine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mizzen.errors import DataError
from mizzen.workloads.knowledge import answers
from mizzen.workloads.knowledge.answers import Pair
from mizzen.workloads.knowledge.config import MAX_CHARACTERS, MAX_FILE_BYTES, MAX_FILES
from mizzen.workloads.knowledge.outline import Section
from mizzen.workloads.knowledge.readers import READERS, Unreadable

TABLE = ".csv"
ENDINGS = (*READERS, TABLE)


@dataclass(frozen=True)
class Document:
    """What was read of a file: sections, or pairs of a question and its answer."""

    name: str
    digest: str
    """sha256 of the file."""
    sections: tuple[Section, ...] = ()
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A file, or a row of one, that is not in the knowledge base, and why."""

    name: str
    reason: str
    row: int | None = None

    def __str__(self) -> str:
        return f"{self.name}, row {self.row}: {self.reason}" if self.row else f"{self.name} {self.reason}"


def read_all(paths: Sequence[str]) -> Iterator[Document | LeftOut]:
    """All documents at and below `paths`, sorted by name. Raises `DataError` if a path is not there."""
    seen: dict[str, str] = {}
    for name, file in sorted(find(paths).items()):
        try:
            if file.is_symlink() and not _leads_to(file).is_relative_to(_folder(name, file)):
                raise Unreadable("is a link that leads out of the folder")
            document, rows_left_out = _read(name, file)
            if document.digest in seen:
                raise Unreadable(f"is the same, byte for byte, as {seen[document.digest]}")
        except Unreadable as cause:
            yield LeftOut(name, str(cause))
            continue
        seen[document.digest] = name
        yield from rows_left_out
        yield document


def find(paths: Sequence[str]) -> dict[str, Path]:
    """The files at and below `paths` by their names, without hidden ones. Raises `DataError`."""
    found: dict[str, Path] = {}
    for path in paths:
        for name, file in _below(Path(path).expanduser().absolute()):
            if found.setdefault(name, file) != file:
                raise DataError(
                    f"two documents would have the name {name!r}",
                    saw=f"{found[name]} and {file}",
                    remedy="Name a folder above both, or rename one.",
                    field="data.paths",
                )
            if len(found) > MAX_FILES:
                raise DataError(
                    "there are too many files",
                    saw=f"more than {MAX_FILES}",
                    allowed=f"{MAX_FILES}",
                    remedy="Name fewer folders, or make several knowledge bases.",
                    field="data.paths",
                )
    return found


def _below(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield path.name, path
        return
    if not path.is_dir():
        raise DataError("there is no such file or folder", saw=str(path), field="data.paths")
    for folder, below, files in os.walk(path):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for file in sorted(files):
            if not file.startswith("."):
                whole = Path(folder, file)
                yield f"{path.resolve().name}/{whole.relative_to(path).as_posix()}", whole


def _leads_to(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # RuntimeError: up to Python 3.12, for a loop
        raise Unreadable("is a link that leads nowhere") from None


def _folder(name: str, file: Path) -> Path:
    """The folder that was named, below which `file` was found."""
    return file.parents[name.count("/") - 1].resolve() if "/" in name else file.resolve()


def _read(name: str, file: Path) -> tuple[Document, list[LeftOut]]:
    ending = file.suffix.lower()
    if ending not in ENDINGS:
        raise Unreadable(f"has the ending {ending or '(none)'!r}: read are {', '.join(ENDINGS)}")
    content = _bytes(file)
    digest = hashlib.sha256(content).hexdigest()
    if ending == TABLE:
        rows = list(answers.pairs(content))
        pairs = tuple(row for row in rows if isinstance(row, Pair))
        problems = [LeftOut(name, row.reason, row.row) for row in rows if isinstance(row, answers.Problem)]
        if not pairs:
            raise Unreadable("holds no row with a question and an answer")
        return Document(name, digest, pairs=pairs), problems
    sections = tuple(READERS[ending](content))
    num_characters = sum(len(section.text) for section in sections)
    if not num_characters:
        raise Unreadable("holds no text")
    if num_characters > MAX_CHARACTERS:
        raise Unreadable(f"holds {num_characters} characters, at most {MAX_CHARACTERS} are read: split it")
    return Document(name, digest, sections=sections), []


def _bytes(file: Path) -> bytes:
    try:
        size_bytes = file.stat().st_size
        if not size_bytes:
            raise Unreadable("is empty")
        if size_bytes > MAX_FILE_BYTES:
            raise Unreadable(f"has {size_bytes} bytes, at most {MAX_FILE_BYTES} are read: split it")
        return file.read_bytes()
    except OSError as cause:
        raise Unreadable(f"cannot be read: {cause.strerror or cause}") from None
