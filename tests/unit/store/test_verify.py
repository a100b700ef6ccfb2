"""What `verify` finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import NotFoundError
from mizzen.store.manifest import content_digest
from mizzen.store.store import ModelStore


@pytest.fixture
def films(store: ModelStore, make_draft: Any, export: Path) -> ModelStore:
    store.publish(make_draft(), export)
    store.publish(make_draft("songs"), export)
    store.set_alias("films", 1, "production")
    return store


def blob_of(films: ModelStore, root: Path, path: str) -> Path:
    sha256 = next(entry.sha256 for entry in films.resolve("films").files if entry.path == path)
    return root / "blobs" / "sha256" / sha256[:2] / sha256


def test_a_whole_store_has_no_problems(films: ModelStore) -> None:
    assert films.verify() == []


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("place", [0, 12_800, 25_599])
def test_one_flipped_bit_is_found_in_every_version_that_uses_the_blob(
    films: ModelStore, root: Path, place: int, bit: int
) -> None:
    blob = blob_of(films, root, "model.onnx")
    data = bytearray(blob.read_bytes())
    data[place] ^= 1 << bit
    blob.write_bytes(data)
    assert [(p.model, p.version, p.where) for p in films.verify()] == [
        ("films", 1, "model.onnx"),
        ("songs", 1, "model.onnx"),
    ]
    assert [p.model for p in films.verify("songs")] == ["songs"]
    assert "films@1, model.onnx" in str(films.verify()[0])


def test_a_missing_blob_is_found_for_each_file_that_needs_it(films: ModelStore, root: Path) -> None:
    blob_of(films, root, "vocabulary/items.json").unlink()
    assert [p.where for p in films.verify("films")] == ["vocabulary/copy.json", "vocabulary/items.json"]


def test_a_changed_manifest_is_found(films: ModelStore, root: Path) -> None:
    path = root / "models" / "songs" / "versions" / "00000001.json"
    path.write_bytes(path.read_bytes().replace(b"run-1", b"run-2"))
    assert [(p.model, p.version, p.where) for p in films.verify()] == [("songs", 1, "manifest")]


def test_an_alias_without_its_version_is_found(films: ModelStore, root: Path) -> None:
    (root / "models" / "films" / "versions" / "00000001.json").unlink()
    with pytest.raises(NotFoundError):
        films.verify("films")
    films.publish(films.resolve("songs").model_copy(update={"name": "films"}), _folder(films, root))
    (root / "models" / "films" / "versions" / "00000001.json").rename(
        root / "models" / "films" / "versions" / "00000002.json"
    )
    assert {p.where for p in films.verify("films")} == {"manifest", "production"}


def test_an_alias_that_was_written_past_the_gate_is_found(films: ModelStore, root: Path) -> None:
    path = root / "models" / "films" / "versions" / "00000001.json"
    content = json.loads(path.read_bytes())
    content["gate"]["passed"] = content["gate"]["parity"][0]["passed"] = False
    content["digest"] = content_digest(content)
    path.write_text(json.dumps(content))
    assert [(p.where, "failed its gate" in p.what) for p in films.verify("films")] == [("production", True)]


def test_a_model_that_is_not_there_is_not_found(films: ModelStore) -> None:
    with pytest.raises(NotFoundError):
        films.verify("poems")


def _folder(films: ModelStore, root: Path) -> Path:
    return films.fetch(films.resolve("songs"), root.parent / "cache")
