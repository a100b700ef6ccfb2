"""Copies of versions on this machine."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import IntegrityError, StoreError
from mizzen.store.manifest import Manifest
from mizzen.store.objects import Objects
from mizzen.store.store import ModelStore


@pytest.fixture
def manifest(store: ModelStore, make_draft: Any, export: Path) -> Manifest:
    return store.publish(make_draft(), export)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def blob(root: Path, manifest: Manifest, path: str) -> Path:
    sha256 = next(entry.sha256 for entry in manifest.files if entry.path == path)
    return root / "blobs" / "sha256" / sha256[:2] / sha256


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_version_is_fetched_as_it_was_exported(
    store: ModelStore, manifest: Manifest, export: Path, cache_dir: Path
) -> None:
    assert content(store.fetch(manifest, cache_dir)) == content(export)


def test_a_second_fetch_reads_no_blob_from_the_store(
    store: ModelStore, manifest: Manifest, root: Path, export: Path, cache_dir: Path
) -> None:
    store.fetch(manifest, cache_dir)
    shutil.rmtree(root / "blobs")
    assert content(store.fetch(manifest, cache_dir)) == content(export)


def test_a_file_that_two_versions_share_is_copied_once(
    store: ModelStore, manifest: Manifest, root: Path, make_draft: Any, export: Path, cache_dir: Path
) -> None:
    store.fetch(manifest, cache_dir)
    (export / "new").write_text("new")
    second = store.publish(make_draft(), export)
    blob(root, manifest, "model.onnx").unlink()
    assert content(store.fetch(second, cache_dir)) == content(export)


def test_a_flipped_bit_in_the_store_is_refused(
    store: ModelStore, manifest: Manifest, root: Path, cache_dir: Path
) -> None:
    flip_a_bit(blob(root, manifest, "model.onnx"))
    with pytest.raises(IntegrityError, match="digest promises"):
        store.fetch(manifest, cache_dir)
    assert not (cache_dir / "versions" / manifest.digest).exists()
    assert not list(cache_dir.rglob(".new-*"))


def test_a_missing_blob_is_refused(
    store: ModelStore, manifest: Manifest, root: Path, cache_dir: Path
) -> None:
    blob(root, manifest, "model.onnx").unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        store.fetch(manifest, cache_dir)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "remove folder"])
def test_a_damaged_copy_is_found_on_every_load_and_fetched_again(
    store: ModelStore, manifest: Manifest, export: Path, cache_dir: Path, damage: str
) -> None:
    path = store.fetch(manifest, cache_dir) / "vocabulary" / "items.json"
    if damage == "flip":
        flip_a_bit(path)
    elif damage == "cut":
        path.chmod(0o644)
        os.truncate(path, 2)
    elif damage == "remove":
        path.unlink()
    else:
        shutil.rmtree(path.parent)
    assert content(store.fetch(manifest, cache_dir)) == content(export)


def test_a_copy_damaged_here_and_in_the_store_is_refused(
    store: ModelStore, manifest: Manifest, root: Path, cache_dir: Path
) -> None:
    path = store.fetch(manifest, cache_dir) / "model.onnx"
    flip_a_bit(path)
    flip_a_bit(blob(root, manifest, "model.onnx"))
    with pytest.raises(IntegrityError):
        store.fetch(manifest, cache_dir)


def test_a_fetch_that_loses_the_race_takes_the_winners_folder(
    store: ModelStore, manifest: Manifest, export: Path, cache_dir: Path
) -> None:
    other = ModelStore(store.url)

    class Late(Objects):
        def size(self, key: str) -> int | None:
            other.fetch(manifest, cache_dir)
            return super().size(key)

    store.blobs._objects = Late(store.url)
    assert content(store.fetch(manifest, cache_dir)) == content(export)
    assert [p.name for p in (cache_dir / "versions").iterdir()] == [manifest.digest]


def test_many_threads_fetch_at_once(
    store: ModelStore, manifest: Manifest, export: Path, cache_dir: Path
) -> None:
    found: list[dict[str, bytes]] = []
    threads = [
        threading.Thread(target=lambda: found.append(content(store.fetch(manifest, cache_dir))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [content(export)] * 8
    assert not list(cache_dir.rglob(".new-*"))


def test_a_cache_that_cannot_be_written_says_so(
    store: ModelStore, manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="MIZZEN_HOME"):
        store.fetch(manifest, tmp_path / "file" / "cache")
