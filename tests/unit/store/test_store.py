"""Versions and references in one process; other processes and S3 are tests/integration/store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import ConflictError, GateError, InputError, IntegrityError, NotFoundError, StoreError
from mizzen.store.objects import Objects, TakenError
from mizzen.store.store import ModelStore


def test_what_was_published_is_read_back(any_store: ModelStore, make_draft: Any, export: Path) -> None:
    published = any_store.publish(make_draft(), export)
    assert any_store.models() == ["films"]
    assert any_store.versions("films") == [1]
    assert any_store.manifest("films", 1) == published
    assert [entry.path for entry in published.files] == [
        "empty",
        "model.onnx",
        "vocabulary/copy.json",
        "vocabulary/items.json",
    ]
    assert published.size_bytes == 256 * 100 + 2 * len("[1, 2, 3]")
    assert published.identity.version == 1


def test_versions_count_up_and_keep_a_digest(any_store: ModelStore, make_draft: Any, export: Path) -> None:
    first, second = (any_store.publish(make_draft(), export) for _ in range(2))
    other = any_store.publish(make_draft(run_id="run-2"), export)
    assert (first.version, second.version, other.version) == (1, 2, 3)
    assert first.digest == second.digest != other.digest


def test_a_blob_that_is_there_is_not_sent_again(store: ModelStore, make_draft: Any, export: Path) -> None:
    sent: list[str] = []

    class Counting(Objects):
        def write_blob(self, key: str, *args: Any) -> None:
            sent.append(key)
            super().write_blob(key, *args)

    counting = ModelStore(store.url)
    counting.blobs._objects = Counting(store.url)
    counting.publish(make_draft(), export)
    assert len(sent) == 3  # Two of the four files have the same bytes.
    (export / "new").write_text("new")
    counting.publish(make_draft(), export)
    assert len(sent) == 4


def test_a_blob_that_was_cut_short_is_sent_again(
    store: ModelStore, root: Path, make_draft: Any, export: Path
) -> None:
    entry = store.publish(make_draft(), export).files[1]
    blob = root / "blobs" / "sha256" / entry.sha256[:2] / entry.sha256
    blob.write_bytes(blob.read_bytes()[:10])
    assert store.verify()
    store.publish(make_draft(), export)
    assert store.verify() == []


def test_a_bare_name_means_production_or_else_the_latest_that_passed(
    any_store: ModelStore, make_draft: Any, export: Path
) -> None:
    for passed in (True, True, False):
        any_store.publish(make_draft(passed=passed), export)
    assert any_store.resolve("films").version == 2
    any_store.set_alias("films", 1, "production")
    assert any_store.resolve("films").version == 1
    assert any_store.resolve("films@production").version == 1
    assert any_store.resolve("films@3").version == 3


def test_a_model_of_which_no_version_passed_has_no_bare_name(
    store: ModelStore, make_draft: Any, export: Path
) -> None:
    store.publish(make_draft(passed=False), export)
    with pytest.raises(NotFoundError, match="passed its gate"):
        store.resolve("films")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("songs", "its models: films"),
        ("songs@1", "its models: films"),
        ("films@7", "versions 1 to 1, aliases best (1)"),
        ("films@0", "versions 1 to 1"),
        ("films@candidate", "saw candidate"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(
    store: ModelStore, make_draft: Any, export: Path, reference: str, said: str
) -> None:
    store.publish(make_draft(), export)
    store.set_alias("films", 1, "best")
    with pytest.raises(NotFoundError) as caught:
        store.resolve(reference)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "reference", ["", "@", "films@", "../films", "films@../x", "Films", "a/b", "films@1x", "f" * 48]
)
def test_a_reference_that_cannot_be_one_is_refused(store: ModelStore, reference: str) -> None:
    with pytest.raises(InputError):
        store.resolve(reference)


def test_no_alias_points_at_a_version_that_failed_its_gate(
    store: ModelStore, make_draft: Any, export: Path
) -> None:
    store.publish(make_draft(passed=False), export)
    for alias in ("production", "candidate"):
        with pytest.raises(GateError, match=r"FAIL parity, batch 2: max 0\.5"):
            store.set_alias("films", 1, alias)
    assert store.aliases("films") == {}


@pytest.mark.parametrize("alias", ["", "3", "3x", "a/b", "..", "Best", "a-"])
def test_an_alias_that_could_be_a_number_or_a_path_is_refused(
    store: ModelStore, make_draft: Any, export: Path, alias: str
) -> None:
    store.publish(make_draft(), export)
    with pytest.raises(InputError):
        store.set_alias("films", 1, alias)


def test_a_manifest_under_another_number_is_refused(
    store: ModelStore, root: Path, make_draft: Any, export: Path
) -> None:
    store.publish(make_draft(), export)
    versions = root / "models" / "films" / "versions"
    (versions / "00000002.json").write_bytes((versions / "00000001.json").read_bytes())
    with pytest.raises(IntegrityError, match="of another version"):
        store.manifest("films", 2)


def test_a_file_that_is_no_manifest_does_not_count_as_a_version(
    store: ModelStore, root: Path, make_draft: Any, export: Path
) -> None:
    store.publish(make_draft(), export)
    (root / "models" / "films" / "versions" / "notes.txt").write_text("hello")
    (root / "models" / ".Trash").mkdir()
    assert store.versions("films") == [1]
    assert store.models() == ["films"]
    assert store.verify() == []


def test_a_publisher_whose_answer_was_lost_does_not_publish_twice(
    store: ModelStore, make_draft: Any, export: Path
) -> None:
    class LostAnswer(Objects):
        def create(self, key: str, data: bytes) -> None:
            super().create(key, data)
            raise TakenError("the retry of a write that went through")

    store.objects = LostAnswer(store.url)
    assert store.publish(make_draft(), export).version == 1
    assert store.versions("films") == [1]


def test_a_publisher_that_is_always_second_gives_up(store: ModelStore, make_draft: Any, export: Path) -> None:
    other = ModelStore(store.url)
    files = other.publish(make_draft(run_id="the other"), export).files

    class Slow(Objects):
        def create(self, key: str, data: bytes) -> None:
            other.claim(make_draft(run_id="the other"), files)
            super().create(key, data)

    store.objects = Slow(store.url)
    with pytest.raises(ConflictError):
        store.publish(make_draft(), export)
    assert {other.manifest("films", n).lineage.run_id for n in other.versions("films")} == {"the other"}


def test_an_empty_folder_is_not_published(store: ModelStore, make_draft: Any, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(StoreError, match="nothing to publish"):
        store.publish(make_draft(), tmp_path / "nothing")


def test_a_link_in_an_export_is_not_published(store: ModelStore, make_draft: Any, export: Path) -> None:
    (export / "link").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="not a plain file"):
        store.publish(make_draft(), export)
    assert store.models() == []


def test_a_file_that_changes_while_it_is_published_is_not_stored(
    store: ModelStore, make_draft: Any, export: Path
) -> None:
    class Meddling(Objects):
        def size(self, key: str) -> int | None:
            (export / "model.onnx").write_bytes(b"changed since it was hashed")
            return super().size(key)

    store.blobs._objects = Meddling(store.url)
    with pytest.raises(IntegrityError, match="digest promises"):
        store.publish(make_draft(), export)
    assert store.models() == []
