"""Versions as tar files, and tar files that are not what they say."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import InputError, IntegrityError, NotFoundError, StoreError
from mizzen.store.manifest import content_digest
from mizzen.store.store import ModelStore

Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture
def archive(store: ModelStore, make_draft: Any, export: Path, tmp_path: Path) -> Path:
    store.publish(make_draft(), export)
    store.set_alias("films", 1, "production")
    store.export_archive("films@production", tmp_path / "films.tar")
    return tmp_path / "films.tar"


@pytest.fixture
def elsewhere() -> ModelStore:
    return ModelStore("memory://")


def members(archive: Path) -> list[Member]:
    with tarfile.open(archive) as tar:
        return [(m, f.read() if (f := tar.extractfile(m)) else b"") for m in tar.getmembers()]


def rewrite(archive: Path, changed: list[Member]) -> Path:
    with tarfile.open(archive, "w") as tar:
        for member, data in changed:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return archive


def test_a_version_travels_with_its_digest_gate_and_lineage(
    store: ModelStore, archive: Path, elsewhere: ModelStore, export: Path, tmp_path: Path
) -> None:
    original = store.resolve("films")
    first, second = (elsewhere.import_archive(archive) for _ in range(2))
    assert (first.name, first.version, second.version) == ("films", 1, 2)
    assert first.digest == original.digest
    assert (first.gate, first.lineage, first.files) == (original.gate, original.lineage, original.files)
    assert elsewhere.aliases("films") == {}
    folder = elsewhere.fetch(first, tmp_path / "cache")
    assert (folder / "model.onnx").read_bytes() == (export / "model.onnx").read_bytes()


def test_a_version_may_be_imported_under_another_name(archive: Path, elsewhere: ModelStore) -> None:
    assert elsewhere.import_archive(archive, "cinema").identity.name == "cinema"
    assert elsewhere.models() == ["cinema"]


def test_a_name_that_cannot_be_one_is_refused_before_anything_is_stored(
    archive: Path, elsewhere: ModelStore
) -> None:
    with pytest.raises(InputError):
        elsewhere.import_archive(archive, "../cinema")
    assert elsewhere.objects.folders("") == []


def test_the_same_version_makes_the_same_archive(store: ModelStore, archive: Path, tmp_path: Path) -> None:
    store.export_archive("films@1", tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_equal_files_are_in_the_archive_once(archive: Path) -> None:
    assert len(members(archive)) == 1 + 3


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/evil", "blobs/sha256/../../evil", "extra", "./manifest.json"]
)
def test_a_member_that_the_manifest_does_not_name_is_refused(
    archive: Path, elsewhere: ModelStore, name: str
) -> None:
    rewrite(archive, [*members(archive), (tarfile.TarInfo(name), b"evil")])
    with pytest.raises(InputError, match="does not name"):
        elsewhere.import_archive(archive)
    assert elsewhere.models() == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("index", [0, 1])
def test_a_member_that_is_no_plain_file_is_refused(
    archive: Path, elsewhere: ModelStore, kind: bytes, index: int
) -> None:
    changed = members(archive)
    changed[index][0].type = kind
    changed[index][0].linkname = "/etc/passwd"
    changed[index] = (changed[index][0], b"")
    rewrite(archive, changed)
    with pytest.raises(InputError):
        elsewhere.import_archive(archive)
    assert elsewhere.models() == []


def test_a_path_in_the_manifest_that_leaves_the_folder_is_refused(
    archive: Path, elsewhere: ModelStore
) -> None:
    changed = members(archive)
    content = json.loads(changed[0][1])
    content["files"][0]["path"] = "../../../root/.ssh/authorized_keys"
    content["digest"] = content_digest(content)
    changed[0] = (changed[0][0], json.dumps(content).encode())
    rewrite(archive, changed)
    with pytest.raises(IntegrityError, match="stays inside"):
        elsewhere.import_archive(archive)


def test_a_flipped_bit_is_refused_and_nothing_is_published(archive: Path, elsewhere: ModelStore) -> None:
    changed = members(archive)
    member, data = changed[2]
    changed[2] = (member, bytes([data[0] ^ 1]) + data[1:])
    rewrite(archive, changed)
    with pytest.raises(IntegrityError, match="digest promises"):
        elsewhere.import_archive(archive)
    assert elsewhere.models() == []
    assert member.name not in [f"blobs/sha256/{n}" for n in elsewhere.objects.names("blobs/sha256")]


def test_a_blob_of_another_size_is_refused(archive: Path, elsewhere: ModelStore) -> None:
    changed = members(archive)
    changed[2] = (changed[2][0], changed[2][1] + b"more")
    rewrite(archive, changed)
    with pytest.raises(IntegrityError, match="another size"):
        elsewhere.import_archive(archive)


def test_a_gate_report_that_was_mended_by_hand_is_refused(archive: Path, elsewhere: ModelStore) -> None:
    changed = members(archive)
    changed[0] = (changed[0][0], changed[0][1].replace(b'"passed": true', b'"passed": false'))
    rewrite(archive, changed)
    with pytest.raises(IntegrityError, match="digest does not fit"):
        elsewhere.import_archive(archive)


def test_an_archive_that_lacks_a_blob_is_refused(archive: Path, elsewhere: ModelStore) -> None:
    rewrite(archive, members(archive)[:-1])
    with pytest.raises(InputError, match="1 of the blobs"):
        elsewhere.import_archive(archive)
    assert elsewhere.models() == []


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6])
def test_an_archive_that_was_cut_short_is_refused(archive: Path, elsewhere: ModelStore, share: float) -> None:
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * share)])
    with pytest.raises((InputError, IntegrityError)):
        elsewhere.import_archive(archive)
    assert elsewhere.models() == []


@pytest.mark.parametrize("data", [b"", b"hello", b"\x1f\x8b" + b"x" * 600, b"PK\x03\x04" + b"x" * 2000])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, elsewhere: ModelStore, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(InputError):
        elsewhere.import_archive(tmp_path / "x.tar")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, elsewhere: ModelStore) -> None:
    with pytest.raises(InputError, match=r"x\.tar"):
        elsewhere.import_archive(tmp_path / "x.tar")


def test_a_damaged_version_is_not_exported(
    store: ModelStore, root: Path, archive: Path, tmp_path: Path
) -> None:
    entry = store.resolve("films").files[1]
    (root / "blobs" / "sha256" / entry.sha256[:2] / entry.sha256).write_bytes(b"x" * entry.size_bytes)
    with pytest.raises(IntegrityError):
        store.export_archive("films", tmp_path / "again.tar")
    assert not (tmp_path / "again.tar").exists()
    assert not list(tmp_path.glob(".again*"))


def test_an_archive_goes_only_where_it_can_be_written(
    store: ModelStore, archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        store.export_archive("films", tmp_path / "no" / "such" / "films.tar")
    with pytest.raises(NotFoundError):
        store.export_archive("songs", tmp_path / "songs.tar")
