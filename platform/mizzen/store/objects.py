"""Objects in a bucket or a folder, through obstore, with every failure as a `StoreError` and its remedy.

It knows keys and bytes; it does not know models. Requests are retried a few times, for seconds, then
given up: a store that is away must not hold a training run or an endpoint for minutes.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from mizzen.errors import IntegrityError, NotFoundError, StoreError
from mizzen.store import measured

CHUNK_BYTES = 8 * 1024 * 1024
"""Memory that one transfer takes is a few of these, however large the object."""
DELETE_AT_ONCE = 1000
"""As many as one request of S3's takes."""
RETRIES = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}


class AbsentError(NotFoundError):
    """There is no object under the key."""


class TakenError(StoreError):
    """There is an object under the key already: somebody else was first."""


class ObjectWriter:
    """A binary file for writing, as `torch.save` wants one; it knows the digest of what went through."""

    def __init__(self, file: Any) -> None:
        self._file, self._hasher = file, hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: Any) -> int:
        """Write a piece, however large."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            chunk = bytes(view[start : start + CHUNK_BYTES])
            self._hasher.update(chunk)
            self._file.write(chunk)
        self.size_bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """The object appears whole, when its writer is left."""

    @property
    def sha256(self) -> str:
        """Of what has been written so far."""
        return self._hasher.hexdigest()


class Objects:
    """Objects by key below a URL that obstore knows."""

    def __init__(self, url: str) -> None:
        """Raises `StoreError` if the URL is not understood or its folder cannot be made."""
        self.url = without_secrets(url)
        self.local_folder = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
        """Where a `file://` store lies; None for any other."""
        local = url.startswith(("file:", "memory:"))
        with self._translated("cannot open"):
            if url.startswith("file:"):
                self._store = from_url(url, mkdir=True)
            elif local:
                self._store = from_url(url)
            else:
                # Client options are left to the environment: given here, they would hide AWS_ALLOW_HTTP.
                self._store = from_url(url, retry_config=RETRIES)

    def create(self, key: str, data: bytes) -> None:
        """Write an object that is not there yet, in one piece. Raises `TakenError` if it is."""
        with self._asked("create", key):
            obstore.put(self._store, key, data, mode="create", use_multipart=False)
        measured.transferred("write", len(data))

    def write(self, key: str, data: bytes) -> None:
        """Write a small object, in place of what is there: readers see the old one or the new one."""
        with self._asked("write", key):
            obstore.put(self._store, key, data, use_multipart=False)
        measured.transferred("write", len(data))

    def send(self, key: str, file: Path) -> None:
        """Write an object from a file, streamed, in place of what is there."""
        with self._asked("write", key), file.open("rb") as stream:
            obstore.put(self._store, key, stream, chunk_size=CHUNK_BYTES, max_concurrency=2)
            size_bytes = stream.tell()
        measured.transferred("write", size_bytes)

    def write_blob(self, key: str, chunks: Iterator[bytes], sha256: str, size_bytes: int) -> None:
        """Write `chunks`, streamed; nothing is written if they do not have the digest and the size.

        Writing the same blob twice at once is harmless: each writer's object appears whole or not at all.
        """
        checked = checked_chunks(chunks, sha256, size_bytes, f"what should become {key}")
        with self._asked("write", key):
            if size_bytes <= CHUNK_BYTES:
                obstore.put(self._store, key, b"".join(checked), use_multipart=False)
            else:
                obstore.put(self._store, key, checked, chunk_size=CHUNK_BYTES, max_concurrency=2)
        measured.transferred("write", size_bytes)

    @contextmanager
    def writer(self, key: str) -> Iterator[ObjectWriter]:
        """A file to write an object into, of a size that nobody knows yet, in place of what is there.

        The object appears whole when the block ends; nothing of it if that raises.
        """
        with (
            self._asked("write", key),
            obstore.open_writer(self._store, key, buffer_size=CHUNK_BYTES, max_concurrency=2) as file,
        ):
            writer = ObjectWriter(file)
            yield writer
        measured.transferred("write", writer.size_bytes)

    def size(self, key: str) -> int | None:
        """The object's size in bytes, or None if it is not there."""
        try:
            with self._asked("read", key):
                return int(obstore.head(self._store, key)["size"])
        except AbsentError:
            return None

    def read(self, key: str) -> bytes:
        """The whole of a small object. Raises `AbsentError`."""
        with self._asked("read", key):
            data = bytes(obstore.get(self._store, key).bytes())
        measured.transferred("read", len(data))
        return data

    def chunks(self, key: str, size_bytes: int) -> Iterator[bytes]:
        """The first `size_bytes` of an object, a range at a time: each is retried by itself."""
        for start in range(0, size_bytes, CHUNK_BYTES):
            with self._asked("read", key):
                end = min(start + CHUNK_BYTES, size_bytes)
                chunk = bytes(obstore.get_range(self._store, key, start=start, end=end))
            measured.transferred("read", len(chunk))
            yield chunk

    def delete(self, key: str) -> None:
        """Remove an object: only what `ModelStore.check` has written, models are never removed."""
        with self._asked("delete", key):
            obstore.delete(self._store, key)

    def delete_folder(self, folder: str) -> None:
        """Remove every object below `folder`: only what belongs to a run, models are never removed.

        Somebody else may remove them at the same time.
        """
        with self._asked("delete", folder):
            if self.local_folder is None:
                keys = [f"{folder}/{name}" for name in self.sizes_bytes(folder)]
                for start in range(0, len(keys), DELETE_AT_ONCE):
                    obstore.delete(self._store, keys[start : start + DELETE_AT_ONCE])
                return
            # Not by obstore: there the first file that is gone already ends it, and empty folders stay.
            while (path := self.local_folder / folder).is_dir():
                with suppress(FileNotFoundError):
                    shutil.rmtree(path)

    def sizes_bytes(self, folder: str) -> dict[str, int]:
        """Names, relative to `folder`, and sizes of all objects below it, sorted by name."""
        with self._asked("list", folder):
            listed = [item for batch in obstore.list(self._store, folder) for item in batch]
        found = {item["path"][item["path"].index(f"{folder}/") + len(folder) + 1 :]: item for item in listed}
        return {name: int(found[name]["size"]) for name in sorted(found)}

    def names(self, folder: str) -> list[str]:
        """Names of the objects directly in `folder`, sorted."""
        with self._asked("list", folder):
            listed = obstore.list_with_delimiter(self._store, folder)
        return sorted(item["path"].rsplit("/", 1)[-1] for item in listed["objects"])

    def numbers(self, folder: str) -> list[int]:
        """Numbers of the objects in `folder` that are called by one, sorted; see `numbered`."""
        found = (re.fullmatch(r"(\d{8,})\.json", name) for name in self.names(folder))
        return sorted(int(match[1]) for match in found if match)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted."""
        with self._asked("list", folder):
            listed = obstore.list_with_delimiter(self._store, folder)
        return sorted(prefix.rstrip("/").rsplit("/", 1)[-1] for prefix in listed["common_prefixes"])

    @contextmanager
    def _asked(self, operation: measured.Operation, key: str) -> Iterator[None]:
        """One request to the store: its errors translated, and measured."""
        what = "cannot write" if operation == "create" else f"cannot {operation}"
        with measured.operation(operation, no_failure=(AbsentError, TakenError)), self._translated(what, key):
            yield

    @contextmanager
    def _translated(self, what: str, key: str = "") -> Iterator[None]:
        where = f"{self.url}/{key}" if key else self.url
        try:
            yield
        except AlreadyExistsError:
            raise TakenError(f"{where} is there already", remedy="Take the next number.") from None
        except FileNotFoundError as cause:
            if is_missing_bucket(cause):
                raise no_bucket(what, where) from None
            raise AbsentError(f"{where} is not there", remedy="Run `mizzen models verify`.") from None
        except (BaseError, OSError, ValueError) as cause:
            if is_missing_bucket(cause):
                raise no_bucket(what, where) from None
            if is_refusal(cause):
                raise StoreError(
                    f"{what} {where}: access was refused ({first_line(cause)})",
                    remedy="Check the credentials (for S3 the AWS_* variables) and what they may do.",
                ) from None
            raise StoreError(
                f"{what} {where}: {first_line(cause)}",
                allowed="a file://, s3://, gs://, az:// or memory:// URL that can be reached and written",
                remedy="Check MIZZEN_STORE, the network, and that the folder or bucket exists.",
            ) from None


def numbered(number: int) -> str:
    """The name of an object that is called by a number, padded so that names sort as numbers do."""
    return f"{number:08d}.json"


def is_missing_bucket(cause: Exception) -> bool:
    """Whether the bucket (on Azure, the container) itself is not there."""
    return any(code in str(cause) for code in ("NoSuchBucket", "ContainerNotFound"))


def is_refusal(cause: Exception) -> bool:
    """Whether the store knows us not, or lets us not; obstore has no class of its own for it when listing."""
    if isinstance(cause, (PermissionDeniedError, UnauthenticatedError, PermissionError)):
        return True
    return any(status in str(cause) for status in ("401 Unauthorized", "403 Forbidden"))


def no_bucket(what: str, where: str) -> StoreError:
    """The error for a bucket that is not there."""
    return StoreError(
        f"{what} {where}: there is no such bucket", remedy="Make the bucket, or correct MIZZEN_STORE."
    )


def checked_chunks(chunks: Iterator[bytes], sha256: str, size_bytes: int, what: str) -> Iterator[bytes]:
    """`chunks` as they come, but the last one only when the whole was found right.

    So no reader can have all the bytes unchecked, even one that stops at the size it expects.
    Raises `IntegrityError` if digest or size differ.
    """
    hasher = hashlib.sha256()
    seen_bytes = 0
    held_back: bytes | None = None
    for chunk in chunks:
        hasher.update(chunk)
        seen_bytes += len(chunk)
        if held_back is not None:
            yield held_back
        held_back = chunk
    if seen_bytes != size_bytes or hasher.hexdigest() != sha256:
        raise IntegrityError(
            f"{what} does not have the bytes that its digest promises",
            saw=f"sha256 {hasher.hexdigest()}, {seen_bytes} bytes",
            allowed=f"sha256 {sha256}, {size_bytes} bytes",
            remedy="Run `mizzen models verify` to see what else is damaged; publish or import it again.",
        )
    if held_back is not None:
        yield held_back


def without_secrets(url: str) -> str:
    """`url` without user, password and query."""
    return re.sub(r"//[^/@]*@", "//", url.split("?", 1)[0]).rstrip("/")


def first_line(cause: BaseException) -> str:
    """What an error of obstore's says, without its debug dump and without the queries of signed URLs."""
    text = str(cause).split("\n\nDebug source", 1)[0].split("<?xml", 1)[0].strip(" \n:")
    first = text.splitlines()[0] if text else type(cause).__name__
    return re.sub(r"(\w://[^\s?\"']*)\?[^\s\"')]*", r"\1", first)
