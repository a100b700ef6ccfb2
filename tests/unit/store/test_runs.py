"""Records and logs of runs, in a folder and on an object store in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mizzen.errors import InputError, IntegrityError, NotFoundError
from mizzen.store.parts import PART_BYTES
from mizzen.store.runs import RunRecord, Runs

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(params=["file", "memory"])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> Runs:
    return Runs(f"file://{tmp_path}/store" if request.param == "file" else "memory://")


def record(run_id: str = "a-run", age_s: float = 0.0) -> RunRecord:
    created = NOW - timedelta(seconds=age_s)
    return RunRecord(run_id=run_id, place="local", state="running", created_at=created, updated_at=NOW)


def test_a_record_is_read_as_it_was_written_and_written_anew(runs: Runs) -> None:
    first = record().model_copy(update={"metrics": {"loss": float("inf")}})
    runs.write(first)
    assert runs.show("a-run") == first
    ended = first.model_copy(update={"state": "succeeded", "model": "m", "version": 3})
    runs.write(ended)
    assert runs.show("a-run") == ended
    assert ended.ended and not first.ended


def test_runs_are_listed_from_the_newest_to_the_oldest(runs: Runs) -> None:
    for name, age_s in (("b", 20), ("a", 30), ("c", 10)):
        runs.write(record(name, age_s))
    runs.writer("no-record-yet").add(["a line"])
    assert [one.run_id for one in runs.list()] == ["c", "b", "a"]


def test_a_run_that_is_not_there_is_named(runs: Runs) -> None:
    assert runs.find("nope") is None
    with pytest.raises(NotFoundError, match=r"nope.*mizzen jobs list"):
        runs.show("nope")
    assert list(runs.log("nope").new_lines()) == []


@pytest.mark.parametrize("name", ["../models", "a/b", "", "A", "1st", "a" * 48, "ends-"])
def test_what_cannot_be_a_runs_name_is_refused(runs: Runs, name: str) -> None:
    with pytest.raises(InputError, match="47 lower-case"):
        runs.delete(name)


def test_fields_of_a_later_mizzen_are_passed_over_and_nonsense_is_not(runs: Runs) -> None:
    text = record().model_dump_json()
    runs.objects.write("runs/a-run/record.json", text.replace("{", '{"brand_new":1,', 1).encode())
    assert runs.show("a-run") == record()
    runs.objects.write("runs/a-run/record.json", b"{")
    with pytest.raises(IntegrityError, match=r"runs/a-run/record\.json is no record"):
        runs.show("a-run")
    runs.write(record("another"))
    assert [one.run_id for one in runs.list()] == ["another"]


def test_a_log_is_read_as_far_as_it_is_written_and_then_what_is_new(runs: Runs) -> None:
    writer, reader = runs.writer("a-run"), runs.log("a-run")
    assert list(reader.new_lines()) == []
    writer.add(["one", "twö"])
    assert list(reader.new_lines()) == ["one", "twö"]
    assert list(reader.new_lines()) == []
    writer.add(["three"])
    assert list(reader.new_lines()) == ["three"]
    assert list(runs.log("a-run").new_lines()) == ["one", "twö", "three"]


def test_a_long_log_has_parts_and_only_the_last_is_written_anew(runs: Runs) -> None:
    writer, reader = runs.writer("a-run"), runs.log("a-run")
    said = []
    for number in range(8):
        lines = [f"{number} " + "x" * (PART_BYTES // 3)]
        writer.add(lines)
        said += lines
        if number % 3 == 0:
            assert list(reader.new_lines())[-1] == lines[0]
    assert len(runs.objects.names("runs/a-run/log")) == 3
    assert list(runs.log("a-run").new_lines()) == said


def test_a_second_attempt_writes_behind_the_first(runs: Runs) -> None:
    runs.writer("a-run").add(["first attempt"])
    runs.writer("a-run").add(["second attempt"])
    assert list(runs.log("a-run").new_lines()) == ["first attempt", "second attempt"]


def test_attempts_that_overlap_overwrite_nothing_of_each_other(runs: Runs) -> None:
    first, second = runs.writer("a-run"), runs.writer("a-run")
    first.add(["one"])
    second.add(["two"])
    full = "x" * PART_BYTES
    for writer in (first, second):
        writer.add([full])
        writer.add(["behind"])
    said = list(runs.log("a-run").new_lines())
    assert sorted(said) == sorted(["one", "two", full, full, "behind", "behind"])


def test_deleting_a_run_leaves_the_others_and_the_models(runs: Runs) -> None:
    for name in ("a-run", "a-run-2"):
        runs.write(record(name))
        runs.writer(name).add(["line"])
        runs.objects.write(f"runs/{name}/checkpoints/checkpoint_1/state/model.pt", b"weights")
    runs.objects.write("models/a-run/versions/00000001.json", b"{}")
    runs.delete("a-run")
    assert [one.run_id for one in runs.list()] == ["a-run-2"]
    assert runs.objects.folders("runs") == ["a-run-2"]
    assert list(runs.objects.sizes_bytes("runs")) == [
        "a-run-2/checkpoints/checkpoint_1/state/model.pt",
        "a-run-2/log/00000001.txt",
        "a-run-2/record.json",
    ]
    assert runs.objects.read("models/a-run/versions/00000001.json") == b"{}"
    runs.delete("a-run")  # twice does no harm


def test_two_may_delete_a_run_at_the_same_time(runs: Runs) -> None:
    for number in range(300):
        runs.objects.write(f"runs/a-run/checkpoints/checkpoint_{number}/model.pt", b"weights")
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(runs.delete, "a-run") for _ in range(4)]
        assert [one.result() for one in done] == [None] * 4
    assert runs.objects.sizes_bytes("runs") == {}
