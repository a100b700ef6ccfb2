"""Puts the totals of dead processes together: else each that ends would leave files to read for ever.

They stand in `past-7` of the metrics folder, the number being that of the gathering. It moves the files of
the dead there, writes `past-8` from all of it, and once that has its name `past-7` counts no more: whatever
is killed in the middle, nothing is lost or counted twice. Readers and the one that gathers keep each other
out with a lock.

No total falls. What names a training run is dropped an hour after the run, for their number has no bound.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mizzen.liveness import dead_of, forget, pid_of
from mizzen.series import is_absent

MANY = 60
"""So many files of dead processes are put together; a process has about four."""
RUN_KEPT_S = 3600.0
_RUN = "run"
_LOCK = "gathering.lock"
_PAST = "past-"
_NEW = ".new"


@contextmanager
def reading(folder: Path) -> Iterator[list[Path]]:
    """The files with values; none of them is put together with others meanwhile."""
    with _locked(folder, fcntl.LOCK_SH):
        yield [file for file in (*folder.glob("*.db"), *_past(folder).glob("*.db")) if _has_begun(file)]


def gather(folder: Path) -> bool:
    """Put the dead together if there are many and nobody reads; says whether it did."""
    lasting = (file for file in folder.glob("*.db") if not file.name.startswith("gauge_live"))
    dead = dead_of(folder, lasting)
    if len(dead) < MANY:
        return False
    with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_ours:
        if is_ours:
            _put_together(folder, [file for file in dead if file.exists()])
    return is_ours


def delete(folder: Path) -> None:
    """Delete what has been put together."""
    for past in folder.glob(f"{_PAST}*"):
        shutil.rmtree(past, ignore_errors=True)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[bool]:
    """Hold the lock; False if it is not to be had, or cannot be written: then nobody here gathers."""
    try:
        lock = (folder / _LOCK).open("a")
    except OSError:
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, how)
            is_ours = True
        except BlockingIOError:
            is_ours = False
        yield is_ours


def _past(folder: Path) -> Path:
    """What counts of the past; it need not be there."""
    done = [path for path in folder.glob(f"{_PAST}*") if not path.name.endswith(_NEW)]
    return max(done, key=_number, default=folder / f"{_PAST}0")


def _number(past: Path) -> int:
    return int(past.name.removeprefix(_PAST))


def _put_together(folder: Path, dead: Iterable[Path]) -> None:
    old = _past(folder)
    old.mkdir(exist_ok=True)
    unlike = itertools.count(time.time_ns())
    pids = {pid_of(file) for file in dead}
    for file in dead:
        file.rename(old / f"{_kind(file)}_-{next(unlike)}.db")
    new = folder / f"{_PAST}{_number(old) + 1}"
    unfinished = new.with_name(new.name + _NEW)
    shutil.rmtree(unfinished, ignore_errors=True)  # of one that was killed
    unfinished.mkdir()
    by_kind: dict[str, list[Path]] = defaultdict(list)
    for file in filter(_has_begun, old.glob("*.db")):
        by_kind[_kind(file)].append(file)
    running = _runs(folder.glob("*.db"))
    for kind, files in by_kind.items():
        _merge(kind, files, unfinished / f"{kind}_0.db", running)
    unfinished.rename(new)
    for past in folder.glob(f"{_PAST}*"):
        if past != new:
            shutil.rmtree(past, ignore_errors=True)
    for pid in pids:
        forget(folder, pid)


def _merge(kind: str, files: Iterable[Path], target: Path, running: set[str]) -> None:
    """Write what `files` say together to `target`; buckets of histograms are not cumulative in files."""
    from prometheus_client.mmap_dict import MmapedDict

    found: dict[str, tuple[float, float]] = {}
    for file in files:
        is_old = time.time() - file.stat().st_mtime > RUN_KEPT_S
        for key, value, at_s in _values(file):
            run = json.loads(key)[2].get(_RUN) if is_old else None
            if is_absent(value) or (run is not None and run not in running):
                continue
            before = found.get(key)
            found[key] = (value, at_s) if before is None else _both(kind, before, (value, at_s))
    into = MmapedDict(str(target))  # type: ignore[no-untyped-call] # it has no types
    for key, (value, at_s) in found.items():
        into.write_value(key, value, at_s)  # type: ignore[no-untyped-call]
    into.close()  # type: ignore[no-untyped-call]


def _both(kind: str, one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Value and moment of a line that two processes have written."""
    if kind == "gauge_mostrecent":
        return max(one, other, key=lambda written: written[1])
    if kind == "gauge_max":
        return max(one, other)
    return one[0] + other[0], 0.0


def _runs(files: Iterable[Path]) -> set[str]:
    """The runs that lines of living processes name."""
    keys = (key for file in files if _has_begun(file) for key, _, _ in _values(file))
    return {run for key in keys if (run := json.loads(key)[2].get(_RUN)) is not None}


def _values(file: Path) -> Iterator[tuple[str, float, float]]:
    from prometheus_client.mmap_dict import MmapedDict

    for key, value, at_s, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
        yield key, value, at_s


def _kind(file: Path) -> str:
    return file.stem.rpartition("_")[0]


def _has_begun(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False
