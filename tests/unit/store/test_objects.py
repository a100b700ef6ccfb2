"""Objects by key, and what becomes of failures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizzen.errors import IntegrityError, StoreError
from mizzen.store.blobs import Blobs, key
from mizzen.store.objects import (
    CHUNK_BYTES,
    AbsentError,
    Objects,
    TakenError,
    checked_chunks,
    without_secrets,
)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["file", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects(f"file://{tmp_path}/a store" if request.param == "file" else "memory://")


def test_an_object_is_created_once(objects: Objects) -> None:
    objects.create("a/b", b"one")
    with pytest.raises(TakenError):
        objects.create("a/b", b"two")
    assert objects.read("a/b") == b"one"


def test_what_is_not_there_is_absent(objects: Objects) -> None:
    assert objects.size("a") is None
    assert objects.names("a") == objects.folders("a") == []
    with pytest.raises(AbsentError):
        objects.read("a")


def test_names_and_folders_are_told_apart_and_sorted(objects: Objects) -> None:
    for name in ("x/b", "x/a", "x/d/e", "x/c/e", "y"):
        objects.create(name, b"")
    assert objects.names("x") == ["a", "b"]
    assert objects.folders("x") == ["c", "d"]


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 5])
def test_a_blob_of_any_size_comes_back_whole(objects: Objects, size_bytes: int) -> None:
    data = bytes(range(251)) * (size_bytes // 251 + 1)
    data = data[:size_bytes]
    blobs = Blobs(objects)
    assert blobs.write(sha256(data), size_bytes, lambda: iter([data]))
    assert not blobs.write(sha256(data), size_bytes, lambda: iter([data]))
    assert b"".join(blobs.read(sha256(data), size_bytes)) == data


@pytest.mark.parametrize("size_bytes", [10, CHUNK_BYTES + 10])
def test_a_blob_that_is_not_what_it_says_is_not_stored(objects: Objects, size_bytes: int) -> None:
    promised = sha256(b"x" * size_bytes)
    with pytest.raises(IntegrityError):
        Blobs(objects).write(promised, size_bytes, lambda: iter([b"y" * size_bytes]))
    assert objects.size(key(promised)) is None


@pytest.mark.parametrize("size_bytes", [10, CHUNK_BYTES + 10])
def test_a_source_that_fails_midway_leaves_nothing(objects: Objects, size_bytes: int) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x" * (size_bytes - 5)
        raise StoreError("the disk is gone")

    promised = sha256(b"x" * size_bytes)
    with pytest.raises(StoreError, match="the disk is gone"):
        Blobs(objects).write(promised, size_bytes, chunks)
    assert objects.size(key(promised)) is None


@given(st.lists(st.binary(max_size=20)), st.binary(max_size=3))
def test_chunks_are_checked_as_a_whole(chunks: list[bytes], more: bytes) -> None:
    data = b"".join(chunks)
    assert b"".join(checked_chunks(iter(chunks), sha256(data), len(data), "it")) == data
    if more:
        with pytest.raises(IntegrityError):
            list(checked_chunks(iter([*chunks, more]), sha256(data), len(data), "it"))


def test_a_reader_that_stops_at_the_size_it_expects_has_been_told() -> None:
    chunks = checked_chunks(iter([b"ab", b"cd"]), sha256(b"abce"), 4, "it")
    assert next(chunks) == b"ab"
    with pytest.raises(IntegrityError):
        next(chunks)


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://host/x", "/a/path", "s3://"])
def test_a_url_that_obstore_does_not_know_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="cannot open"):
        Objects(url)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="MIZZEN_STORE") as caught:
        Objects(f"file://{tmp_path}/file/store")
    assert "Debug source" not in str(caught.value)


def test_secrets_in_a_url_are_not_shown() -> None:
    assert without_secrets("s3://key:secret@bucket/path?token=abc") == "s3://bucket/path"
