"""One version in one file, to carry it to another store: a plain tar.

    manifest.json               as the store has it
    blobs/sha256/ab12...        each blob once, in the order of the manifest

Both ways are streamed. What an archive holds is not believed: names are compared with the manifest's, links
and anything else that is not a plain file are refused, and every digest is checked before a version appears.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mizzen.errors import InputError, IntegrityError, StoreError
from mizzen.store.blobs import Blobs
from mizzen.store.manifest import Draft, FileEntry, Manifest, parse_manifest
from mizzen.store.objects import CHUNK_BYTES

MANIFEST = "manifest.json"
BLOBS = "blobs/sha256/"
MANIFEST_LIMIT_BYTES = 16 * 1024 * 1024


def write(blobs: Blobs, manifest: Manifest, file: Path) -> None:
    """Write the archive of a version to `file`, whole or not at all.

    Raises `IntegrityError` if a blob is damaged, `StoreError` if `file` cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    except OSError as cause:
        raise _cannot_write(file, cause) from None
    scratch = Path(name)
    try:
        with os.fdopen(handle, "wb") as raw, tarfile.open(fileobj=raw, mode="w|") as tar:
            _add(tar, MANIFEST, len(data := manifest.to_json()), iter([data]))
            for entry in _distinct(manifest):
                chunks = blobs.read(entry.sha256, entry.size_bytes)
                _add(tar, BLOBS + entry.sha256, entry.size_bytes, chunks)
        scratch.chmod(0o644)
        scratch.replace(file)
    except OSError as cause:
        raise _cannot_write(file, cause) from None
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()


def read(blobs: Blobs, file: Path) -> tuple[Draft, tuple[FileEntry, ...]]:
    """Store the blobs of the archive at `file`; what a version is to be claimed with.

    Raises `InputError` if it is no archive of Mizzen's, `IntegrityError` if its bytes are not what it says.
    """
    try:
        with tarfile.open(file, mode="r|") as tar:
            manifest = _read_manifest(tar, file)
            missing = {entry.sha256: entry for entry in manifest.files}
            while (member := tar.next()) is not None:
                sha256 = member.name.removeprefix(BLOBS)
                entry = missing.pop(sha256, None)
                if entry is None or member.name != BLOBS + sha256 or not member.isreg():
                    raise _wrong(
                        file, f"it holds {member.name!r}, which its manifest does not name as a blob"
                    )
                if member.size != entry.size_bytes:
                    raise IntegrityError(
                        f"{file}: {member.name} has another size",
                        saw=f"{member.size} bytes",
                        allowed=f"{entry.size_bytes} bytes",
                        remedy="Copy or export the archive again.",
                    )
                _store(blobs, tar, member, entry)
    except tarfile.TarError as cause:
        raise _wrong(file, f"it is no complete tar file ({cause})") from None
    except OSError as cause:
        raise InputError(f"cannot read {file}: {cause}", remedy="Check the path.") from None
    if missing:
        raise _wrong(file, f"{len(missing)} of the blobs that its manifest names are not in it")
    return Draft(**{name: getattr(manifest, name) for name in Draft.model_fields}), manifest.files


def _store(blobs: Blobs, tar: tarfile.TarFile, member: tarfile.TarInfo, entry: FileEntry) -> None:
    stream = tar.extractfile(member)
    if stream is None:  # Only for what is not a plain file, which was refused.
        raise AssertionError(member.name)

    def chunks() -> Iterator[bytes]:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk

    blobs.write(entry.sha256, entry.size_bytes, chunks)


def _read_manifest(tar: tarfile.TarFile, file: Path) -> Manifest:
    member = tar.next()
    if member is None or member.name != MANIFEST or not member.isreg():
        raise _wrong(file, f"it does not begin with a plain file {MANIFEST}")
    if member.size > MANIFEST_LIMIT_BYTES:
        raise _wrong(file, f"its {MANIFEST} has {member.size} bytes")
    stream = tar.extractfile(member)
    return parse_manifest(stream.read() if stream else b"", f"{file}:{MANIFEST}")


def _distinct(manifest: Manifest) -> list[FileEntry]:
    return list({entry.sha256: entry for entry in manifest.files}.values())


def _add(tar: tarfile.TarFile, name: str, size_bytes: int, chunks: Iterator[bytes]) -> None:
    """Add a file with fixed owner, mode and time, so that the same version makes the same archive."""
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode = 0o644
    tar.addfile(member, _Reader(chunks))


class _Reader(io.RawIOBase):
    """An iterator of chunks as the file that `tarfile` wants to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        while len(self._rest) < size and not self._ended:
            chunk = next(self._chunks, None)
            self._ended = chunk is None
            self._rest += chunk or b""
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _wrong(file: Path, why: str) -> InputError:
    return InputError(
        f"{file} cannot be imported: {why}",
        allowed="a file that `mizzen models export` wrote",
        remedy="Export it again and copy it whole.",
    )


def _cannot_write(file: Path, cause: OSError) -> StoreError:
    return StoreError(
        f"cannot write {file}: {cause}", remedy="Choose a folder that exists and can be written."
    )
