"""The totals of the dead, put together: nothing is lost or counted twice, whatever dies in the middle."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mizzen import gathering, liveness, totals

FIRST_DEAD = 5_000_000
"""Above every number that Linux gives."""
WRITE = """
import sys
from mizzen import metrics
from mizzen.recording import Recorder
r = Recorder(app="shop", model="m", version="1", train_job="j", run="run-1")
r.count(metrics.REJECTED, 3, reason="invalid")
r.count(metrics.TRAINING_STEPS, 2)
r.observe(metrics.BATCH_SIZE, 3)
r.observe(metrics.BATCH_SIZE, 1000)
r.set(metrics.STORE_VERSION_BYTES, float(sys.argv[1]))
r.set(metrics.REQUESTS_IN_FLIGHT, 1)
"""


def write(home: Path, version_bytes: int) -> None:
    environ = {**os.environ, "MIZZEN_HOME": str(home)}
    subprocess.run([sys.executable, "-c", WRITE, str(version_bytes)], env=environ, check=True, timeout=60)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process has left: a counter, a histogram, and a gauge that outlives it."""
    home = tmp_path_factory.mktemp("home")
    write(home, 7)
    totals.exposition(home / "metrics")
    return home / "metrics"


@pytest.fixture
def many(one_process: Path, tmp_path: Path) -> Path:
    """A folder that 30 such processes have left."""
    bury(one_process, tmp_path, range(30))
    return tmp_path


def bury(one_process: Path, folder: Path, numbers: range) -> None:
    for file in one_process.glob("*.db"):
        for number in numbers:
            shutil.copy(file, folder / f"{file.stem.rpartition('_')[0]}_{FIRST_DEAD + number}.db")
    for number in numbers:
        (folder / f"process_{FIRST_DEAD + number}.txt").write_text("")


def lines(folder: Path) -> list[str]:
    text = totals.exposition(folder).decode()
    return sorted(line for line in text.splitlines() if not line.startswith(("#", "mizzen_disk")))


def test_the_dead_are_put_together_and_the_totals_stay(one_process: Path, many: Path) -> None:
    shown = lines(many)
    assert len([*many.glob("*.db"), *many.glob("process_*")]) == 0
    assert sorted(file.name for file in (many / "past-1").iterdir()) == [
        *("counter_0.db", "gauge_mostrecent_0.db", "histogram_0.db")
    ]
    served = 'app="shop",model="m",version="1"'
    assert 'mizzen_requests_rejected_total{app="shop",model="m",reason="invalid",version="1"} 90.0' in shown
    assert 'mizzen_batch_size_bucket{app="shop",le="4.0",model="m",version="1"} 30.0' in shown
    assert f"mizzen_batch_size_count{{{served}}} 60.0" in shown
    assert 'mizzen_store_version_bytes{model="m"} 7.0' in shown
    bury(one_process, many, range(30))  # the numbers are used again
    again = lines(many)
    assert f"mizzen_batch_size_count{{{served}}} 120.0" in again
    assert [path.name for path in many.glob("past-*")] == ["past-2"]
    assert again == lines(many)
    assert totals.clean(many)
    assert [path.name for path in many.glob("*.*")] == ["gathering.lock"]
    assert not list(many.glob("past-*"))


def test_few_stay_as_they_are(one_process: Path, tmp_path: Path) -> None:
    bury(one_process, tmp_path, range(3))
    assert not gathering.gather(tmp_path)
    assert not list(tmp_path.glob("past-*"))


class Killed(BaseException):
    """Stands for a `kill -9`."""


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("what", "step"),
    # Of 90 files each is renamed, and at last the folder; an unfinished one is removed, and the old one.
    [
        ("rename", 0),
        ("rename", 50),
        ("rename", 90),
        ("rmtree", 0),
        ("rmtree", 1),
        ("_merge", 0),
        ("_merge", 2),
    ],
)
def test_one_that_is_killed_in_the_middle_loses_nothing_and_counts_nothing_twice(
    many: Path, one_process: Path, monkeypatch: pytest.MonkeyPatch, what: str, step: int, late: bool
) -> None:
    where = {"rename": Path, "rmtree": shutil, "_merge": gathering}[what]
    does = getattr(where, what)
    steps = itertools.count()

    def instead(*arguments: object, **more: object) -> object:
        dies = next(steps) == step
        if not dies or late:
            does(*arguments, **more)
        if dies:
            raise Killed
        return None

    expected = [line for line in lines(one_process) if "batch_size_count" in line]
    assert expected[0].endswith(" 2.0")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(where, what, instead)
        gathering.gather(many)
    for _ in range(2):
        assert expected[0].replace(" 2.0", " 60.0") in lines(many)
    bury(one_process, many, range(30, 60))
    assert expected[0].replace(" 2.0", " 120.0") in lines(many)
    assert len(list(many.glob("past-*"))) == 1


CROWD = """
import os, signal
from mizzen import gathering, metrics, recording, settings, totals
gathering.MANY = 8
r = recording.Recorder(app="a", model="m", version="1")
def count(times):
    for _ in range(times):
        r.count(metrics.REJECTED, reason="invalid")
def total():
    return sum(n for _, n in totals.samples(metrics.REJECTED))
def read_until(ended):
    last = 0
    while True:
        last, before = total(), last
        assert last >= before, (before, last)
        if last >= ended:
            return
count(1)
readers = []
for _ in range(2):
    readers.append(os.fork())
    if not readers[-1]:
        signal.alarm(60)
        read_until(1 + 80 * 20)
        os._exit(0)
for n in range(80):
    child = os.fork()
    if not child:
        count(20)
        os.kill(os.getpid(), signal.SIGKILL)
    if n % 4 == 3:
        os.waitpid(child, 0)
        total()
assert [os.waitpid(one, 0)[1] for one in readers] == [0, 0]
assert total() == 1 + 80 * 20, total()
number = int(gathering._past(settings.current().metrics_dir).name.removeprefix("past-"))
assert number > 1, number
"""


def test_while_several_read_and_gather_and_many_are_killed_no_total_falls_and_none_is_lost(
    tmp_path: Path,
) -> None:
    environ = {**os.environ, "MIZZEN_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", CROWD], env=environ, check=True, timeout=90)


def test_nobody_gathers_what_somebody_reads(many: Path) -> None:
    with gathering.reading(many) as files:
        assert len(files) == 90
        assert not gathering.gather(many)
        assert all(file.exists() for file in files)
    assert gathering.gather(many)


def test_a_living_process_keeps_its_files_and_the_last_that_was_set_is_shown(many: Path) -> None:
    code = WRITE + "print('ready', flush=True); sys.stdin.read()"
    (many / "metrics").mkdir()
    for file in many.glob("*.*"):
        file.rename(many / "metrics" / file.name)
    with subprocess.Popen(
        [sys.executable, "-c", code, "9"],
        env={**os.environ, "MIZZEN_HOME": str(many)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == b"ready\n"
        shown = lines(many / "metrics")
        assert len(list((many / "metrics").glob(f"*_{living.pid}.db"))) == 4
        living.kill()
    assert 'mizzen_store_version_bytes{model="m"} 9.0' in shown
    assert 'mizzen_requests_in_flight{app="shop",model="m",version="1"} 1.0' in shown
    assert 'mizzen_batch_size_count{app="shop",model="m",version="1"} 62.0' in shown


def test_lines_of_a_run_go_an_hour_after_it_unless_it_goes_on(
    one_process: Path, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def after(hours: float) -> str | None:
        monkeypatch.setattr(time, "time", lambda: began_s + 3600 * hours)
        monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * time.time()))
        name = "mizzen_training_steps_total{"
        return next((line.split()[-1] for line in lines(many) if line.startswith(name)), None)

    began_s = time.time()
    assert after(0) == "60.0"  # it has just ended
    bury(one_process, many, range(30))
    assert after(0.9) == "120.0"
    bury(one_process, many, range(30))
    assert after(1.8) == "180.0"  # it goes on
    for number in (1, 2):  # others end, often
        for name in ("histogram", "gauge_mostrecent"):
            (kept,) = one_process.glob(f"{name}_*.db")
            for other in range(30):
                shutil.copy(kept, many / f"{name}_{FIRST_DEAD + other}.db")
        assert after(1.8 + 0.9 * number) == ("180.0" if number == 1 else None)
    assert 'mizzen_batch_size_count{app="shop",model="m",version="1"} 300.0' in lines(many)


def test_who_gets_the_number_of_a_dead_process_meanwhile_keeps_its_files(
    one_process: Path, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, real = os.getpid(), liveness.locked
    for file in one_process.glob("*.db"):
        shutil.copy(file, many / f"{file.stem.rpartition('_')[0]}_{ours}.db")
    gauge = many / f"gauge_livesum_{ours}.db"

    def late(folder: Path, how: int) -> AbstractContextManager[bool]:
        monkeypatch.setattr(liveness, "locked", real)  # for `sign_in`
        liveness.sign_in(folder, ours)
        gauge.write_bytes(b"ours")
        return real(folder, how)

    for module, take_away in ((liveness, liveness.forget_the_dead), (gathering, gathering.gather)):
        gauge.write_bytes(b"of the dead")
        (many / f"process_{ours}.txt").write_text("{} 1".format(*str(liveness._identity(ours)).split()))
        assert liveness.dead_of(many, [gauge]) == [gauge]
        monkeypatch.setattr(module, "locked", late)
        take_away(many)
        assert gauge.read_bytes() == b"ours"
    assert (many / "past-1" / "counter_0.db").exists()
    assert (many / f"counter_{ours}.db").exists()


def test_who_comes_to_life_waits_for_the_one_that_gathers(tmp_path: Path) -> None:
    comes = threading.Thread(target=liveness.sign_in, args=(tmp_path, os.getpid()))
    with liveness.locked(tmp_path, liveness.ALONE_OR_NOT) as is_ours:
        assert is_ours
        comes.start()
        comes.join(0.1)
        assert not list(tmp_path.glob("process_*"))
    comes.join(10)
    assert len(list(tmp_path.glob("process_*"))) == 1


def test_a_lock_ends_with_its_holder_though_a_child_was_forked_meanwhile(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with liveness.locked(tmp_path, liveness.ALONE_OR_NOT):
        child = os.fork()
        if not child:
            os.close(writer)
            os.read(reader, 1)  # until the test is done
            os._exit(0)
    with liveness.locked(tmp_path, liveness.ALONE_OR_NOT) as is_ours:
        assert is_ours
    os.close(writer)
    os.close(reader)
    os.waitpid(child, 0)


def test_a_dead_process_has_no_gauges_though_they_cannot_be_deleted_now(
    one_process: Path, many: Path
) -> None:
    kept = next(one_process.glob("counter_*.db"))
    gauge = many / f"gauge_livesum_{FIRST_DEAD}.db"
    shutil.copy(kept, gauge)
    with gathering.reading(many) as files:
        liveness.forget_the_dead(many)
        assert gauge.exists()
        assert gauge not in files
    liveness.forget_the_dead(many)
    assert not gauge.exists()


MAY_ONLY_READ = """
import os, pathlib
from mizzen import gathering, liveness, totals
totals.exposition(pathlib.Path("nowhere"))  # what is imported late may be out of reach for nobody
if os.geteuid() == 0:
    os.seteuid(65534)
folder = pathlib.Path()
try:
    (folder / "here").touch()
except PermissionError:
    print(totals.exposition(folder).decode())
with gathering.reading(folder) as files, liveness.locked(folder, liveness.ALONE_OR_NOT) as is_ours:
    assert files and not is_ours  # nobody takes away what is being read
"""


def test_who_may_only_read_shows_all_of_it_and_keeps_it_from_being_taken_away(
    one_process: Path, many: Path
) -> None:
    shutil.copy(next(one_process.glob("counter_*.db")), many / f"gauge_livesum_{FIRST_DEAD}.db")
    (many / "gathering.lock").touch()
    before = sorted(many.iterdir())
    for path in (*before, many):
        path.chmod(0o555 if path == many else 0o444)
    asked = subprocess.run(
        [sys.executable, "-c", MAY_ONLY_READ],
        cwd=many,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert 'mizzen_batch_size_count{app="shop",model="m",version="1"} 60.0' in asked.stdout
    assert sorted(many.iterdir()) == before
    many.chmod(0o755)


def test_where_there_are_no_locks_nobody_takes_anything_away(many: Path) -> None:
    (many / "gathering.lock").mkdir()
    before = lines(many)
    assert 'mizzen_batch_size_count{app="shop",model="m",version="1"} 60.0' in before
    assert not gathering.gather(many)
    assert not totals.clean(many)
    assert lines(many) == before


def test_a_full_disk_costs_no_total_and_no_answer(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for _ in range(2):
        assert 'mizzen_batch_size_count{app="shop",model="m",version="1"} 60.0' in lines(many)
    assert not (many / "past-1").exists()


@pytest.mark.parametrize("damage", [b"\0" * 4096, b"\x7f", b"\x10\0\0\0\0\0\0\0\xff\0\0\0"])
def test_a_damaged_file_costs_its_own_values_alone(one_process: Path, many: Path, damage: bytes) -> None:
    used = (4000).to_bytes(8, "little")  # as a crash of the machine leaves it: its pages were not written
    broken = used + damage[8:] if len(damage) == 4096 else damage
    for number in (FIRST_DEAD + 40, 1):  # the first process lives
        (many / f"counter_{number}.db").write_bytes(broken)
    for _ in range(2):
        assert 'mizzen_batch_size_count{app="shop",model="m",version="1"} 60.0' in lines(many)
    assert (many / "past-1").exists()
