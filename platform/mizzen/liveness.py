"""Which of the processes that keep or show series of a folder are alive: process numbers are used again.

Whoever takes files of the dead away holds the folder's lock alone, and who comes to life signs in with it: so
a process that gets the number of a dead one never loses its files. It reads no series.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

SHARED, ALONE_OR_NOT = fcntl.LOCK_SH, fcntl.LOCK_EX | fcntl.LOCK_NB
_LOCK = "gathering.lock"


@contextmanager
def locked(folder: Path, how: int) -> Iterator[bool]:
    """Hold the folder's lock, `SHARED` or `ALONE_OR_NOT`; False if it is not to be had, or not to be opened.

    Whoever may not write in the folder can still keep others from taking files away that are being read.
    """
    try:
        lock = _opened(folder / _LOCK)
    except OSError:
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, how)
        except OSError:  # another has it, or the file system knows no locks
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # a child that was forked meanwhile would keep it


def _opened(lock: Path) -> IO[str]:
    try:
        return lock.open("a")
    except OSError:
        return lock.open()


def sign_in(folder: Path, pid: int) -> None:
    """Note which process goes by `pid`, for the number may be another's some day, or in another pod.

    Gauges that a process before us left under our number would be taken for ours; its counters may go on.
    """
    with locked(folder, SHARED):
        if _signed_in(folder, pid):
            return  # it shows series, and begins to keep some itself, or the other way round
        for file in folder.glob(f"gauge_live*_{pid}.db"):
            file.unlink(missing_ok=True)
        _record(folder, pid).write_text(_identity(pid) or "")


def others(folder: Path) -> list[int]:
    """Numbers of the live processes that have signed in, but for this one."""
    pids = (pid_of(file) for file in folder.glob("process_*.txt"))
    return [pid for pid in pids if pid != os.getpid() and is_alive(folder, pid)]


def _signed_in(folder: Path, pid: int) -> bool:
    identity = _identity(pid)
    try:
        return identity is not None and _record(folder, pid).read_text() == identity
    except FileNotFoundError:
        return False


def _record(folder: Path, pid: int) -> Path:
    return folder / f"process_{pid}.txt"


def _identity(pid: int) -> str | None:
    """The namespace in which `pid` is a number, and when its process has started, in clock ticks.

    None where the system does not tell, which only Linux does, or if there is no such process any more.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 # not a file's path
        state, *more = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in ("Z", "X") else f"{namespace} {more[18]}"


def forget_the_dead(folder: Path) -> None:
    """Delete what only a living process can say: its gauges, and the exemplars of its last values.

    Not while somebody reads, and not where this process may not: readers pass over them anyway.
    """
    if not _sayings_of_the_dead(folder):
        return
    with suppress(OSError), locked(folder, ALONE_OR_NOT) as is_ours:
        if is_ours:
            for file in _sayings_of_the_dead(folder):  # they may have been taken over before
                file.unlink(missing_ok=True)


def _sayings_of_the_dead(folder: Path) -> list[Path]:
    return dead_of(folder, (*folder.glob("gauge_live*.db"), *folder.glob("exemplars_*.json")))


def dead_of(folder: Path, files: Iterable[Path]) -> list[Path]:
    """Those of `files` whose process has died; each process is looked at once."""
    by_pid: dict[int, list[Path]] = {}
    for file in files:
        by_pid.setdefault(pid_of(file), []).append(file)
    return [file for pid, of_it in by_pid.items() if not is_alive(folder, pid) for file in of_it]


def sign_out_the_dead(folder: Path) -> None:
    """Forget the processes that have died and left no values; to be called with the lock, alone."""
    for record in dead_of(folder, folder.glob("process_*.txt")):
        if not any(folder.glob(f"*_{pid_of(record)}.db")):
            record.unlink(missing_ok=True)


def pid_of(file: Path) -> int:
    """The number of the process that wrote `file`."""
    return int(file.stem.rpartition("_")[2])


def is_alive(folder: Path, pid: int) -> bool:
    """Whether the process that wrote under `pid` lives; where that cannot be told, it is taken to live."""
    if pid <= 0:  # what `gathering` has put together
        return False
    try:
        then = _record(folder, pid).read_text()
    except FileNotFoundError:
        then = ""
    ours, now = _identity(os.getpid()), _identity(pid)
    if then and ours:
        # Numbers of another container, unless the pod shares its processes, say nothing here.
        return now == then or then.split()[0] != ours.split()[0]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
