"""Reads the log files of all processes that share a `MIZZEN_HOME`: merged by time, followed, and tidied up.

`logs` writes them. A file of a process is `<what>-<pid>.jsonl`; when it is full it becomes `.1`, and that
`.2`. Nothing here looks into a line but for its time, which each line begins with.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

NUM_OLD = 3
"""Files of a process beside the one that it writes."""
KEPT_S = 7 * 86_400.0
KEPT_FILES = 200
KEPT_BYTES = 500 * 2**20
"""Files of processes that have ended are deleted when they are older, or when there are more."""
_NAME = re.compile(r"(?P<process>.+-(?P<pid>\d+)\.jsonl)(\.(?P<number>\d+))?")
_TIME = slice(len('{"time":"'), len('{"time":"2026-11-22T16:00:00.123Z'))
_CHUNK_BYTES = 2**20


def time_of(line: str) -> str:
    """When a line was written, as text that sorts."""
    return line[_TIME]


def of_processes(folder: Path) -> list[list[Path]]:
    """The files of each process, the oldest first."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for file in _listed(folder):
        match = _NAME.fullmatch(file.name)
        if match:
            found.setdefault(match["process"], []).append((int(match["number"] or 0), file))
    return [[file for _, file in sorted(files, reverse=True)] for _, files in sorted(found.items())]


def merged(folder: Path, since: str = "") -> Iterator[str]:
    """The lines of all files in the order of their times, from the time `since` on."""
    return heapq.merge(*(_lines(files, since) for files in of_processes(folder)), key=time_of)


def _lines(files: Iterable[Path], since: str) -> Iterator[str]:
    for file in files:
        try:
            with file.open(encoding="utf-8", errors="replace") as stream:
                for line in stream:
                    if line.endswith("\n") and time_of(line) >= since:
                        yield line.rstrip("\n")
        except FileNotFoundError:
            continue  # deleted meanwhile


def clean(folder: Path) -> None:
    """Delete files of processes that have ended, if they are old or many."""
    ended = [file for files in of_processes(folder) for file in files if not _writes(file)]
    aged = sorted((_age_and_size(file), str(file)) for file in ended)
    kept_bytes = 0
    for rank, ((age_s, size_bytes), file) in enumerate(aged):
        kept_bytes += size_bytes
        if age_s > KEPT_S or rank >= KEPT_FILES or kept_bytes > KEPT_BYTES:
            Path(file).unlink(missing_ok=True)


def _writes(file: Path) -> bool:
    """Whether the process of a file lives; its number may be another's by now, and then it is kept."""
    match = _NAME.fullmatch(file.name)
    try:
        os.kill(int(match["pid"]) if match else 0, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _age_and_size(file: Path) -> tuple[float, int]:
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0.0, 0
    return time.time() - status.st_mtime, status.st_size


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


@dataclass
class _Place:
    """How far a file was read; files are known by their inodes, for they are renamed."""

    number: int
    """Of its name, 0 for the one that is being written: it only grows."""
    offset: int


class Tail:
    """What is new in all files since the last time; a file that is renamed is read to its end first."""

    def __init__(self, folder: Path, state: Path | None = None) -> None:
        """The first time is the beginning, or where the last one has called `keep` with the same `state`."""
        self._folder, self._state = folder, state
        self._places: dict[str, _Place] = self._restored()
        self._missed: set[str] = set()
        """Files that were not met the last time: deleted, or renamed while we looked."""

    def new_lines(self) -> list[str]:
        """Whole lines that have come, in the order of their times; a part of them if there are very many."""
        found: list[str] = []
        present = set()
        for file in self._files():
            try:
                with file.open("rb") as stream:
                    inode = str(os.fstat(stream.fileno()).st_ino)
                    present.add(inode)
                    place = self._place(inode, _number(file), os.fstat(stream.fileno()).st_size)
                    stream.seek(place.offset)
                    chunk = stream.read(_CHUNK_BYTES)
            except FileNotFoundError:
                continue
            end = chunk.rfind(b"\n") + 1
            if not end and len(chunk) == _CHUNK_BYTES:
                end = len(chunk)  # no line of ours is so long
            place.offset += end
            found += chunk[:end].decode("utf-8", "replace").split("\n")[:-1]
        missed = self._places.keys() - present
        for inode in missed & self._missed:
            del self._places[inode]
        self._missed = missed
        return sorted(found, key=time_of)

    def keep(self) -> None:
        """Write down how far we are: who starts again with this state goes on from here."""
        if self._state is None:
            return
        content = {inode: [place.number, place.offset] for inode, place in self._places.items()}
        self._state.parent.mkdir(parents=True, exist_ok=True)
        draft = self._state.with_suffix(".new")
        draft.write_text(json.dumps(content))
        draft.replace(self._state)

    def _files(self) -> list[Path]:
        # The newest first, and the name that the oldest may get: so what is renamed meanwhile is met all the
        # same, perhaps twice.
        found: list[Path] = []
        for oldest, *newer in of_processes(self._folder):
            match = _NAME.fullmatch(oldest.name)
            after = int(match["number"] or 0) + 1 if match else 1
            process = match["process"] if match else oldest.name
            found += [*reversed(newer), oldest, oldest.with_name(f"{process}.{after}")]
        return found

    def _place(self, inode: str, number: int, size_bytes: int) -> _Place:
        place = self._places.get(inode)
        if place is None or number < place.number or size_bytes < place.offset:
            # A deleted file's inode is given to a new one.
            place = self._places[inode] = _Place(number, 0)
        place.number = number
        return place

    def _restored(self) -> dict[str, _Place]:
        if self._state is None:
            return {}
        try:
            content = json.loads(self._state.read_text())
            return {inode: _Place(int(number), int(offset)) for inode, (number, offset) in content.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # none yet, or damaged: told twice is better than not at all


def _number(file: Path) -> int:
    match = _NAME.fullmatch(file.name)
    return int(match["number"] or 0) if match else 0
