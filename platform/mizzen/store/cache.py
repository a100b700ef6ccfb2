"""Copies of versions on this machine, checked against their digests each time they are handed out.

    CACHE/blobs/sha256/ab/ab12...    one file a blob, shared by versions
    CACHE/versions/DIGEST/...        the files of a version, hard links to the blobs where that works

A copy appears whole or not at all (written beside, then renamed), so processes may share the cache.
It never writes to the store, and it removes nothing but copies that are damaged.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mizzen.errors import StoreError
from mizzen.store.blobs import Blobs
from mizzen.store.manifest import FileEntry, Manifest
from mizzen.store.objects import CHUNK_BYTES

log = logging.getLogger(__name__)


def fetch(blobs: Blobs, manifest: Manifest, cache_dir: Path) -> Path:
    """A folder with the files of `manifest`, each of which has just been checked.

    A copy that was damaged here is fetched again. Raises `IntegrityError` if the store's own bytes are
    damaged, `StoreError` if the store or the cache cannot be read or written.
    """
    target = cache_dir / "versions" / manifest.digest
    with _disk_errors(cache_dir):
        if not target.is_dir():
            _build(blobs, manifest, cache_dir, target)
            return target
        for entry in manifest.files:
            path = target / entry.path
            if not matches(path, entry):
                log.warning("the cached file %s is damaged or gone; it is fetched again", path)
                path.parent.mkdir(parents=True, exist_ok=True)
                _place(_blob(blobs, entry, cache_dir), path)
    return target


def _build(blobs: Blobs, manifest: Manifest, cache_dir: Path, target: Path) -> None:
    """Fill a folder beside `target`, then rename it; if another process was first, its folder stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        for entry in manifest.files:
            path = scratch / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            _place(_blob(blobs, entry, cache_dir), path)
        scratch.chmod(0o755)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _blob(blobs: Blobs, entry: FileEntry, cache_dir: Path) -> Path:
    """The checked copy of a blob, copied from the store if it is not here or damaged."""
    path = cache_dir / "blobs" / "sha256" / entry.sha256[:2] / entry.sha256
    if matches(path, entry):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as scratch:
        with scratch.open("wb") as file:
            for chunk in blobs.read(entry.sha256, entry.size_bytes):
                file.write(chunk)
        scratch.chmod(0o444)
    return path


def _place(blob: Path, path: Path) -> None:
    """Put a hard link to `blob` (a copy, where links do not work) at `path` in one step."""
    with _beside(path) as scratch:
        scratch.unlink()
        try:
            os.link(blob, scratch)
        except OSError:
            shutil.copyfile(blob, scratch)
            scratch.chmod(0o444)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A scratch file that becomes `path` when the block ends well, and goes otherwise."""
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.replace(path)
    finally:
        # Renaming one hard link over another of the same file leaves both names.
        with suppress(FileNotFoundError):
            scratch.unlink()


def matches(path: Path, entry: FileEntry) -> bool:
    """Whether the file at `path` is there with the entry's size and digest."""
    try:
        if path.stat().st_size != entry.size_bytes:
            return False
        return sha256_of(path) == entry.sha256
    except (FileNotFoundError, NotADirectoryError):
        return False


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


@contextmanager
def _disk_errors(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise StoreError(
            f"the cache {cache_dir} cannot be read or written: {cause}",
            remedy="Free space there, or point MIZZEN_HOME at a folder that can be written.",
        ) from None
