"""What differs on S3: the whole life of a model there, and servers that refuse, are away or lose answers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import IntegrityError, StoreError
from mizzen.store.blobs import key
from mizzen.store.store import ModelStore

HERE = Path(__file__).parent


def test_a_model_lives_on_s3_as_it_does_on_disk(
    bucket: str, draft: Any, export: Path, tmp_path: Path
) -> None:
    store = ModelStore(bucket)
    first, second = (store.publish(draft, export) for _ in range(2))
    signs = store.signs_of_change("films@production")
    assert not store.has_changed(signs)
    store.set_alias("films", 1, "production", reason="first")
    assert store.has_changed(signs)
    store.set_alias("films", 2, "production", reason="second")
    store.set_alias("films", 1, "production", reason="back")
    assert [move.version for move in store.history("films", "production")] == [1, 2, 1]
    assert store.resolve("films") == first
    folder = store.fetch(second, tmp_path / "cache")
    assert (folder / "c.data").read_bytes() == (export / "c.data").read_bytes()
    store.export_archive("films@2", tmp_path / "films.tar")
    assert store.import_archive(tmp_path / "films.tar", "cinema").digest == second.digest
    assert store.models() == ["cinema", "films"]
    assert store.verify() == []


def test_a_flipped_bit_on_s3_is_found_and_refused(
    bucket: str, draft: Any, export: Path, tmp_path: Path
) -> None:
    import obstore

    store = ModelStore(bucket)
    entry = next(e for e in store.publish(draft, export).files if e.path == "c.data")
    data = bytearray((export / "c.data").read_bytes())
    data[-1] ^= 128
    obstore.put(store.objects._store, key(entry.sha256), bytes(data))
    assert [problem.where for problem in store.verify()] == ["c.data"]
    with pytest.raises(IntegrityError):
        store.fetch(store.resolve("films"), tmp_path / "cache")


def test_a_bucket_that_does_not_exist_is_named(bucket: str, draft: Any, export: Path) -> None:
    store = ModelStore("s3://nobody-made-this/prefix")
    for use in (lambda: store.publish(draft, export), store.models, lambda: store.resolve("films")):
        with pytest.raises(StoreError, match=r"nobody-made-this.*no such bucket"):
            use()


def test_a_server_that_is_away_is_given_up_after_seconds(
    bucket: str, draft: Any, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="after 4 retries") as caught:
        ModelStore(bucket).publish(draft, export)
    assert "Debug source" not in str(caught.value)


def test_a_store_that_lets_us_read_but_not_write_says_so_and_loses_nothing(
    start_s3: Callable[..., Any], draft: Any, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_s3(INITIAL_NO_AUTH_ACTION_COUNT="7")
    made = subprocess.run(
        [server.moto_python, HERE / "access.py", server.endpoint, "guarded"], check=True, capture_output=True
    )
    keys = json.loads(made.stdout)

    def log_in(user: str) -> ModelStore:
        for variable, value in server.environment(*keys[user]).items():
            monkeypatch.setenv(variable, value)
        return ModelStore("s3://guarded/store")

    writer = log_in("writer")
    published = writer.publish(draft, export)
    writer.set_alias("films", 1, "production")

    reader = log_in("reader")
    (export / "new").write_text("new")
    with pytest.raises(StoreError, match="access was refused") as caught:
        reader.publish(draft, export)
    assert keys["reader"][1] not in str(caught.value)
    (export / "new").unlink()
    with pytest.raises(StoreError, match="access was refused"):
        reader.publish(draft, export)  # All blobs are there; only the manifest is to be written.
    with pytest.raises(StoreError, match="access was refused"):
        reader.set_alias("films", 1, "candidate")
    assert reader.versions("films") == [1]
    assert reader.resolve("films") == published
    assert (reader.fetch(published, tmp_path / "cache") / "c.data").exists()

    keys["stranger"] = ["AKIANOBODY", "wrong"]
    with pytest.raises(StoreError, match="access was refused"):
        log_in("stranger").models()
