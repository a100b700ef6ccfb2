"""What is a checkpoint, which is the last and the best, and what may go: over a store in a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mizzen.errors import IntegrityError
from mizzen.store.objects import Objects
from mizzen.training.checkpoints import (
    Checkpoint,
    Checkpoints,
    RankRecord,
    Written,
    best_of,
    is_complete,
    last_evaluated,
    name_of,
    record_name,
    superfluous,
)
from mizzen.workloads.contract import QualityMetric

ACCURACY = QualityMetric("accuracy", higher_is_better=True)
LOSS = QualityMetric("loss", higher_is_better=False)


def record(rank: int = 0, world_size: int = 2, step: int = 10, **metrics: float) -> RankRecord:
    return RankRecord(
        rank=rank, world_size=world_size, step=step, samples=step * 32, metrics=metrics, zero_stage=1,
        data_digest="d", files=(Written(name=f"state/{rank}.pt", sha256=digest(b"weights"), size_bytes=7),),
    )  # fmt: skip


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def checkpoint(step: int, start: int = 1, **metrics: float) -> Checkpoint:
    return Checkpoint(start, step, name_of(step, start, "0" * 8), record(step=step, **metrics))


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects((tmp_path / "run").as_uri())


def write(objects: Objects, step: int, start: int = 1, *, ranks: int = 2, **metrics: float) -> str:
    """A checkpoint of two ranks, of which `ranks` have come to their end; its name."""
    name = name_of(step, start, "0" * 8)
    for rank in range(2):
        objects.write(f"checkpoints/{name}/state/{rank}.pt", b"weights")
    for rank in range(ranks):
        content = record(rank, step=step, **metrics).model_dump_json().encode()
        objects.write(f"checkpoints/{name}/{record_name(rank, 2)}", content)
    return name


def test_a_checkpoint_is_complete_when_each_rank_has_left_its_record() -> None:
    files = [record_name(0, 2), "state/0.pt"]
    assert not is_complete(files)
    assert not is_complete([*files, record_name(1, 3)])  # of another number of ranks
    assert is_complete([*files, record_name(1, 2)])
    assert not is_complete([])


def test_what_is_not_complete_is_never_taken(objects: Objects) -> None:
    found = Checkpoints(objects, "checkpoints")
    assert found.last() is None
    write(objects, 10)
    write(objects, 20, ranks=1)
    last = found.last()
    assert last is not None
    assert (last.step, last.world_size, last.lead.standing.samples) == (10, 2, 320)


def test_a_later_start_counts_also_at_a_lower_step(objects: Objects) -> None:
    """After a roll back, or when a worker of an attempt that was given up still uploads."""
    write(objects, 30, start=1)
    write(objects, 20, start=2)
    found = Checkpoints(objects, "checkpoints")
    assert [(each.start, each.step) for each in found.complete()] == [(1, 30), (2, 20)]
    assert found.next_start() == 3


def test_a_start_that_left_only_pieces_has_taken_its_number(objects: Objects) -> None:
    write(objects, 30, start=4, ranks=0)
    assert Checkpoints(objects, "checkpoints").next_start() == 5


def test_other_objects_are_no_checkpoints(objects: Objects) -> None:
    objects.write("checkpoints/snapshot.json", b"{}")
    objects.write("checkpoints/checkpoint_1/state/model.pt", b"Ray Train's")
    assert Checkpoints(objects, "checkpoints").complete() == []


def test_a_record_that_is_none_makes_its_checkpoint_refused_once(objects: Objects) -> None:
    told: list[str] = []
    write(objects, 10)
    name = write(objects, 20)
    objects.write(f"checkpoints/{name}/{record_name(0, 2)}", b"{}")
    found = Checkpoints(objects, "checkpoints", told.append)
    assert [each.step for each in found.complete()] == [10]
    assert [each.step for each in found.complete()] == [10]
    assert len(told) == 1
    assert name in told[0]


def test_a_refused_checkpoint_counts_no_more(objects: Objects) -> None:
    told: list[str] = []
    names = [write(objects, step) for step in (10, 20, 30)]
    found = Checkpoints(objects, "checkpoints", told.append)
    found.refuse(names[2], "a file is damaged")
    found.refuse(names[1], None)  # another rank says it
    assert [each.name for each in found.complete()] == names[:1]
    assert len(told) == 1


def test_a_file_is_brought_only_with_the_bytes_of_its_digest(objects: Objects, tmp_path: Path) -> None:
    name = write(objects, 10)
    found = Checkpoints(objects, "checkpoints")
    (chosen,) = found.complete()
    (file,) = found.record(chosen, 1).files
    found.fetch(chosen, file, tmp_path / "here" / file.name)
    assert (tmp_path / "here" / file.name).read_bytes() == b"weights"
    for damaged in (b"WEIGHTS", b"weights and more", b"weigh"):
        objects.write(f"checkpoints/{name}/{file.name}", damaged)
        with pytest.raises(IntegrityError):
            found.fetch(chosen, file, tmp_path / "new.pt")
        with pytest.raises(IntegrityError):
            found.check(chosen, file, tmp_path / "run" / "checkpoints" / name / file.name)
    objects.delete(f"checkpoints/{name}/{file.name}")
    with pytest.raises(IntegrityError):
        found.fetch(chosen, file, tmp_path / "new.pt")
    assert list(tmp_path.glob("new*")) == []
    found.delete(name)
    with pytest.raises(IntegrityError):
        found.record(chosen, 1)


@pytest.mark.parametrize(
    ("quality", "best"), [(ACCURACY, 20), (LOSS, 10), (QualityMetric("other", higher_is_better=True), None)]
)
def test_the_best_is_chosen_by_the_workloads_metric(quality: QualityMetric, best: int | None) -> None:
    found = [
        checkpoint(10, accuracy=0.5, loss=1.0),
        checkpoint(20, accuracy=0.7, loss=2.0),
        checkpoint(30, accuracy=0.7, loss=3.0),
        checkpoint(35, accuracy=float("nan"), loss=float("nan")),
        checkpoint(40),
    ]
    chosen = best_of(found, quality)
    assert (chosen and chosen.step) == best


def test_the_last_evaluated_need_not_be_the_last() -> None:
    chosen = last_evaluated(
        [checkpoint(10, accuracy=0.9), checkpoint(20, accuracy=0.1), checkpoint(30)], ACCURACY
    )
    assert chosen is not None
    assert chosen.step == 20


def test_the_newest_the_best_and_what_is_on_its_way_stay() -> None:
    complete = [checkpoint(step, accuracy=1.0 / step) for step in (10, 20, 30, 40)]
    pieces = [name_of(step, 1, "0" * 8) for step in (15, 45)]
    names = [each.name for each in complete] + pieces
    assert superfluous(complete, names, 2, ACCURACY) == [name_of(15, 1, "0" * 8), name_of(20, 1, "0" * 8)]
    assert superfluous(complete, names, 1, None) == sorted(
        name_of(step, 1, "0" * 8) for step in (10, 15, 20, 30)
    )
    assert superfluous([], pieces, 1, None) == []  # nothing is known to be better


def test_what_is_deleted_stops_to_be_a_checkpoint_with_its_first_object(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write(objects, 10)
    found = Checkpoints(objects, "checkpoints")
    delete, deleted = objects.delete, []

    def killed_after_one(key: str) -> None:
        if deleted:
            raise KeyboardInterrupt
        deleted.append(key)
        delete(key)

    monkeypatch.setattr(objects, "delete", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
        found.delete(name)
    assert found.complete() == []


def test_pruning_deletes_whole_folders(objects: Objects) -> None:
    names = [write(objects, step, accuracy=0.1) for step in (10, 20, 30, 40)]
    assert Checkpoints(objects, "checkpoints").prune(2, ACCURACY) == [names[1]]
    assert objects.folders("checkpoints") == [names[0], names[2], names[3]]
