"""Lines of many files: in order, each once, whatever is renamed, deleted or started again in between."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mizzen import log_files
from mizzen.log_files import Tail, clean, merged
from mizzen.logs import LogFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


def line(second: int, text: str = "") -> str:
    return f'{{"time":"2026-11-22T16:00:{second:02}.000Z","message":"{text}"}}'


def test_files_are_merged_by_time_with_the_full_ones(folder: Path) -> None:
    (folder / "a-1.jsonl.1").write_text(f"{line(1)}\n{line(4)}\n")
    (folder / "a-1.jsonl").write_text(f"{line(6)}\n")
    (folder / "b-2.jsonl").write_text(f"{line(2)}\n{line(5)}\nhalf a li")
    (folder / "notes.txt").write_text("no log\n")
    assert list(merged(folder)) == [line(second) for second in (1, 2, 4, 5, 6)]
    assert list(merged(folder, since="2026-11-22T16:00:04.500Z")) == [line(5), line(6)]
    assert list(merged(folder / "nothing")) == []


def test_a_tail_tells_each_line_once_and_only_whole_ones(folder: Path) -> None:
    tail = Tail(folder)
    assert tail.new_lines() == []
    file = folder / "a-1.jsonl"
    file.write_text(f"{line(1)}\n{line(2)[:20]}")
    assert tail.new_lines() == [line(1)]
    with file.open("a") as stream:
        stream.write(f"{line(2)[20:]}\n")
    (folder / "b-2.jsonl").write_text(f"{line(0)}\n")
    assert tail.new_lines() == [line(0), line(2)]
    assert tail.new_lines() == []


def test_a_tail_reads_a_full_file_to_its_end_before_the_next(folder: Path) -> None:
    file, tail = LogFile(folder / "a-1.jsonl", max_bytes=3 * len(line(0)) + 3), Tail(folder)
    told = []
    for second in range(30):
        file.write(line(second))
        if second % 4 == 3:
            told += tail.new_lines()
    told += tail.new_lines()
    file.close()
    assert told == [line(second) for second in range(30)]


def test_a_new_file_with_a_deleted_ones_inode_is_read_from_its_beginning(folder: Path) -> None:
    file, tail = folder / "a-1.jsonl", Tail(folder)
    file.write_text(f"{line(1)}\n")
    old = folder / "a-1.jsonl.3"
    file.rename(old)
    assert tail.new_lines() == [line(1)]
    # The same inode under a newer name: as if the file system had given it away again.
    old.rename(file)
    file.write_text(f"{line(2)}\n{line(3)}\n")
    assert tail.new_lines() == [line(2), line(3)]


def test_who_starts_again_goes_on_where_it_was(folder: Path) -> None:
    state = folder.parent / "run" / "log-tail.json"
    (folder / "a-1.jsonl").write_text(f"{line(1)}\n")
    first = Tail(folder, state)
    assert first.new_lines() == [line(1)]
    first.keep()
    with (folder / "a-1.jsonl").open("a") as stream:
        stream.write(f"{line(2)}\n")
    assert Tail(folder, state).new_lines() == [line(2)]
    state.write_text("{ damaged")
    assert Tail(folder, state).new_lines() == [line(1), line(2)]


def test_very_many_lines_come_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "_CHUNK_BYTES", 100)
    (folder / "a-1.jsonl").write_text("".join(f"{line(second)}\n" for second in range(10)))
    tail, told = Tail(folder), []
    while new := tail.new_lines():
        assert len(new) <= 100 // len(line(0))
        told += new
    assert told == [line(second) for second in range(10)]


def test_old_files_of_processes_that_have_ended_go(folder: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old, new, alive = (
        folder / f"a-{ended.pid}.jsonl",
        folder / f"b-{ended.pid}.jsonl",
        folder / f"c-{os.getpid()}.jsonl",
    )
    for file in (old, new, alive):
        file.write_text(f"{line(1)}\n")
    long_ago = time.time() - log_files.KEPT_S - 60
    for file in (old, alive):
        os.utime(file, (long_ago, long_ago))
    clean(folder)
    assert sorted(folder.iterdir()) == [new, alive]


@pytest.mark.parametrize("bound", [{"KEPT_FILES": 3}, {"KEPT_BYTES": 3 * 61}])
def test_of_many_the_newest_stay(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bound: dict[str, int]
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name, value in bound.items():
        monkeypatch.setattr(log_files, name, value)
    for age in range(6):
        file = folder / f"a{age}-{ended.pid}.jsonl"
        file.write_text("x" * 61)
        os.utime(file, (time.time() - 10 * age, time.time() - 10 * age))
    clean(folder)
    assert sorted(file.name[:2] for file in folder.iterdir()) == ["a0", "a1", "a2"]


class Late(Tail):
    """Opens files when they have been renamed since it has listed them."""

    def __init__(self, folder: Path, file: LogFile) -> None:
        super().__init__(folder)
        self.file, self.lines = file, [""]

    def _files(self) -> list[Path]:
        files = super()._files()
        for text in self.lines:
            self.file.write(text)
        return files


def test_files_that_are_renamed_while_they_are_looked_for_are_told_once_and_in_order(folder: Path) -> None:
    one = len(line(0)) + 1
    file = LogFile(folder / f"app-{os.getpid()}.jsonl", max_bytes=one)  # a file a line
    file.write(line(0))
    tail, told = Late(folder, file), []
    for second in range(1, 30):
        tail.lines = [line(second)]
        told += tail.new_lines()
    tail.lines = []
    for _ in range(3):
        told += tail.new_lines()
    file.close()
    assert told == [line(second) for second in range(30)]
