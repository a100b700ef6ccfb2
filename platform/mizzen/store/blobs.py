"""Blobs by their sha256: `blobs/sha256/ab/ab12...`. It does not know which version uses which blob."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from mizzen.errors import IntegrityError, StoreError
from mizzen.store.objects import CHUNK_BYTES, AbsentError, Objects, checked_chunks


class Blobs:
    """The content-addressed part of a store."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def write(self, sha256: str, size_bytes: int, chunks: Callable[[], Iterator[bytes]]) -> bool:
        """Send a blob, streamed, unless it is there already; whether it was sent.

        Raises `IntegrityError` (and stores nothing) if the bytes do not have the digest.
        """
        if self._objects.size(key(sha256)) == size_bytes:
            return False
        self._objects.write_blob(key(sha256), chunks(), sha256, size_bytes)
        return True

    def read(self, sha256: str, size_bytes: int) -> Iterator[bytes]:
        """A blob's bytes, streamed. Raises `IntegrityError` at the end if they are not what was promised."""
        where = f"{self._objects.url}/{key(sha256)}"
        seen_bytes = self._objects.size(key(sha256))
        if seen_bytes is None:
            raise IntegrityError(
                f"{where} is missing", remedy="Run `mizzen models verify`; publish or import the model again."
            )
        if seen_bytes != size_bytes:
            raise IntegrityError(
                f"{where} has another size",
                saw=f"{seen_bytes} bytes",
                allowed=f"{size_bytes} bytes",
                remedy="Run `mizzen models verify`; publish or import the model again.",
            )
        try:
            yield from checked_chunks(
                self._objects.chunks(key(sha256), size_bytes), sha256, size_bytes, where
            )
        except AbsentError:
            raise IntegrityError(f"{where} was removed while it was read", remedy="Try again.") from None


def key(sha256: str) -> str:
    """Where a blob lies."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def file_chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes, a piece at a time. Raises `StoreError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as cause:
        raise StoreError(
            f"cannot read {path}: {cause}", remedy="Check the file, then publish again."
        ) from None
