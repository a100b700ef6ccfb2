"""Lines in parts, for what grows while a run goes on: object stores cannot append.

    FOLDER/00000001.txt    only the last part is written anew, until it is long enough

Attempts of a run that overlap overwrite nothing of each other: each writes parts of its own. What the lines
say is for the caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mizzen.store.objects import Objects, TakenError

PART_BYTES = 64 * 1024
"""A part that is as long is left alone."""


class PartsWriter:
    """Adds lines; it keeps the last part in memory."""

    def __init__(self, objects: Objects, folder: str, suffix: str) -> None:
        self._objects, self._folder, self._suffix = objects, folder, suffix
        self._number: int | None = None
        self._part = b""

    def add(self, lines: list[str]) -> None:
        """Write `lines`; if that raises, none of them counts as written and all may be added again."""
        if self._number is None:
            self._number = (_numbers(self._objects, self._folder, self._suffix) or [0])[-1] + 1
        part = self._part + "".join(f"{line}\n" for line in lines).encode(errors="replace")
        if self._part:
            self._objects.write(f"{self._folder}/{self._number:08d}.{self._suffix}", part)
        else:
            self._number = self._created(self._number, part)
        self._part = part
        if len(part) >= PART_BYTES:
            self._number, self._part = self._number + 1, b""

    def _created(self, number: int, part: bytes) -> int:
        """The number under which a new part is there now: an attempt before may not be quite over yet."""
        while True:
            try:
                self._objects.create(f"{self._folder}/{number:08d}.{self._suffix}", part)
            except TakenError:
                number += 1
            else:
                return number


class PartsReader:
    """Reads the lines from their start, and later what has come since."""

    def __init__(self, objects: Objects, folder: str, suffix: str) -> None:
        self._objects, self._folder, self._suffix = objects, folder, suffix
        self._number, self._seen_bytes = 0, 0

    def new_lines(self) -> Iterator[str]:
        """Lines that were written since the last call, without their ends."""
        for number in _numbers(self._objects, self._folder, self._suffix):
            if number < self._number:
                continue
            part = self._objects.read(f"{self._folder}/{number:08d}.{self._suffix}")
            seen_bytes = self._seen_bytes if number == self._number else 0
            self._number, self._seen_bytes = number, len(part)
            yield from part[seen_bytes:].decode(errors="replace").splitlines()


def _numbers(objects: Objects, folder: str, suffix: str) -> list[int]:
    """Numbers of the parts in `folder`, sorted."""
    found = (re.fullmatch(rf"(\d{{8,}})\.{suffix}", name) for name in objects.names(folder))
    return sorted(int(match[1]) for match in found if match)
