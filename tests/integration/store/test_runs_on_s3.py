"""Checkpoints, prepared data and records of runs on an S3 server, as on any cluster without a shared disk."""

from __future__ import annotations

import json
import os
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import Checkpoint
from ray.train.v2._internal.execution.storage import StorageContext, delete_fs_path

from mizzen import settings
from mizzen.errors import IntegrityError, StoreError
from mizzen.store import filesystem
from mizzen.store.objects import Objects
from mizzen.store.runs import RunRecord, Runs
from mizzen.training import checkpoint_files, data
from mizzen.training.checkpoint_writer import CheckpointWriter, Draft
from mizzen.training.checkpoints import Checkpoints, Part, RankRecord, name_of


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """As DeepSpeed writes it; one file is large enough to be sent in parts."""
    folder = tmp_path / "checkpoint"
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "model.pt").write_bytes(os.urandom(20_000_000))
    (folder / "latest").write_text("state")
    return folder


def test_ray_train_keeps_checkpoints_there_and_brings_them_back(
    url: str, checkpoint: Path, tmp_path: Path
) -> None:
    system, store = filesystem.opened(url)
    sent: Any = pickle.loads(pickle.dumps(system))  # as it goes to a worker
    storage = StorageContext(f"{store}/runs/a-run", "checkpoints", storage_filesystem=sent)
    kept = storage.persist_current_checkpoint(Checkpoint.from_directory(checkpoint), "checkpoint_1")
    found = Checkpoint(kept.path, filesystem=system)
    back = Path(found.to_directory(str(tmp_path / "back")))
    assert (back / "state" / "model.pt").read_bytes() == (checkpoint / "state" / "model.pt").read_bytes()
    assert (back / "latest").read_text() == "state"
    with found.as_directory() as folder:
        assert (Path(folder) / "latest").read_text() == "state"
    snapshot = f"{storage.experiment_fs_path}/checkpoint_manager_snapshot.json"
    for text in (b"{}", b'{"new": 1}'):  # Ray writes it anew after each checkpoint
        with system.open_output_stream(snapshot) as stream:
            stream.write(text)
    assert system.open_input_stream(snapshot).read() == b'{"new": 1}'
    delete_fs_path(system, kept.path)
    assert [*Runs(url).objects.sizes_bytes("runs/a-run")] == [
        "checkpoints/.validate_storage_marker",
        "checkpoints/checkpoint_manager_snapshot.json",
    ]


def test_checkpoints_are_written_and_checked_there(bucket: str, tmp_path: Path) -> None:
    """What a rank does without Ray: parts of several sizes up, down, damaged, pruned."""
    objects = Objects(bucket)
    large = torch.arange(5_000_000)  # sent in parts

    def write(step: int) -> None:
        writer = CheckpointWriter(
            objects, "runs/a-run/checkpoints", tell=lambda kind, text: None,
            written=lambda record, duration_s: None, alive=lambda: None, retry_for_s=0.0,
        )  # fmt: skip
        record = RankRecord(rank=0, world_size=1, step=step, samples=step, zero_stage=1, data_digest="d")
        parts = [
            Part("state/model.pt", {"large": large + step}),
            Part("random-00000.safetensors", b"numbers"),
        ]
        writer.begin(Draft(name_of(step, 1, "0" * 8), parts, record))
        writer.finish()

    for step in (1, 2, 3):
        write(step)
    told: list[str] = []
    found = Checkpoints(objects, "runs/a-run/checkpoints", told.append)
    last = found.last()
    assert last is not None
    folder = checkpoint_files.brought(
        found, last, checkpoint_files.needed(found, last, 0, 1), tmp_path / "here"
    )
    state = torch.load(folder / "state" / "model.pt", weights_only=True)
    assert torch.equal(state["large"], large + 3)
    checkpoint_files.remove(last, tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []
    objects.write(f"runs/a-run/checkpoints/{last.name}/state/model.pt", b"damaged")
    with pytest.raises(IntegrityError):
        checkpoint_files.brought(found, last, list(last.lead.files), tmp_path / "again")
    assert found.prune(2, None) == [name_of(1, 1, "0" * 8)]
    assert [each.step for each in found.complete()] == [2, 3]


def test_no_credential_travels_with_the_file_system(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-this-test")
    system, _ = filesystem.opened(bucket)
    system.get_file_info(bucket.removeprefix("s3://"))
    assert b"a-secret-of-this-test" not in pickle.dumps(system)


def test_a_store_that_machines_cannot_share_is_refused() -> None:
    with pytest.raises(StoreError, match=r"cannot be kept in this store; saw memory:.*s3://BUCKET"):
        filesystem.opened("memory://")


def test_prepared_data_goes_from_machine_to_machine(url: str, tmp_path: Path) -> None:
    def machine(name: str) -> settings.Settings:
        return settings.read({"MIZZEN_HOME": str(tmp_path / name), "MIZZEN_STORE": url})

    folder = machine("head").prepared_dir / "new"
    (folder / "below").mkdir(parents=True)
    (folder / data.REPORT).write_text(json.dumps({"rows_read": 5, "rows_kept": 4}))
    (folder / "below" / "large.npy").write_bytes(os.urandom(20_000_000))
    prepared = data.opened(folder.rename(folder.parent / data.folder_digest(folder)))
    data.share(prepared, "a-run", machine("head"))
    received = data.received("a-run", prepared.digest, machine("worker"))
    assert data.folder_digest(received.folder) == prepared.digest
    data.unshare("a-run", machine("head"))
    assert Runs(url).objects.sizes_bytes("runs") == {}


def test_records_and_logs_are_written_read_and_deleted(url: str) -> None:
    now = datetime.now(UTC)
    runs = Runs(url)
    assert runs.list() == []
    for name in ("a-run", "a-run-2"):
        runs.write(RunRecord(run_id=name, place="ray", state="running", created_at=now, updated_at=now))
        runs.writer(name).add(["one", "two"])
    assert sorted(record.run_id for record in runs.list()) == ["a-run", "a-run-2"]
    assert list(runs.log("a-run").new_lines()) == ["one", "two"]
    runs.delete("a-run")
    assert runs.find("a-run") is None
    assert [*runs.objects.sizes_bytes("runs")] == ["a-run-2/log/00000001.txt", "a-run-2/record.json"]
