"""Puts the totals of dead processes together: else each that ends would leave files to read for ever.

They stand in `past-7` of the metrics folder, the number being that of the gathering. It moves the files of
the dead there, writes `past-8` from all of it, and once that has its name `past-7` counts no more: whatever
is killed in the middle, nothing is lost or counted twice. Readers and the one that gathers keep each other
out with a lock (`liveness.locked`).

No total falls. What names a training run is dropped when that has written nothing for an hour, for the number
of runs has no bound. A file that a crash of the machine has damaged is left out, so that the rest is seen.
"""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mizzen.liveness import ALONE_OR_NOT, SHARED, dead_of, locked, pid_of, sign_out_the_dead
from mizzen.series import is_absent

MANY = 60
"""So many files of dead processes are put together; a process has about four."""
RUN_KEPT_S = 3600.0
_RUN = "run"
_LIVE = "gauge_live*.db"
_PAST = "past-"
_NEW = ".new"
_MOST_RECENT = "gauge_mostrecent"
_LONGEST_REST = 4 + 8 + 16
"""Bytes of an entry in prometheus-client's files besides its key, at most: length, padding, two doubles."""


@contextmanager
def reading(folder: Path) -> Iterator[list[Path]]:
    """The files with values that count; none of them is put together with others meanwhile."""
    with locked(folder, SHARED):
        unsaid = set(dead_of(folder, folder.glob(_LIVE)))
        files = [file for file in folder.glob("*.db") if file not in unsaid]
        yield [file for file in (*files, *_past(folder).glob("*.db")) if _has_begun(file)]


def gather(folder: Path) -> bool:
    """Put the dead together if there are many and nobody reads; says whether it did.

    Where this process may not, or the disk is full, they stay as they are and count as before.
    """
    if len(_lasting_of_the_dead(folder)) < MANY:
        return False
    with suppress(OSError), locked(folder, ALONE_OR_NOT) as is_ours:
        if is_ours:
            _put_together(folder, _lasting_of_the_dead(folder))  # one may have been taken over before
            return True
    return False


def _lasting_of_the_dead(folder: Path) -> list[Path]:
    live = set(folder.glob(_LIVE))
    return dead_of(folder, (file for file in folder.glob("*.db") if file not in live))


def delete(folder: Path) -> None:
    """Delete what has been put together."""
    for past in folder.glob(f"{_PAST}*"):
        shutil.rmtree(past, ignore_errors=True)


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
    for file in dead:
        file.rename(old / f"{_kind(file)}_-{next(unlike)}.db")
    new = folder / f"{_PAST}{_number(old) + 1}"
    unfinished = new.with_name(new.name + _NEW)
    shutil.rmtree(unfinished, ignore_errors=True)  # of one that was killed
    unfinished.mkdir()
    by_kind: dict[str, list[Path]] = defaultdict(list)
    for file in filter(is_whole, old.glob("*.db")):
        by_kind[_kind(file)].append(file)
    running = _runs(folder.glob("*.db"))
    for kind, files in by_kind.items():
        _merge(kind, files, unfinished / f"{kind}_0.db", running)
    unfinished.rename(new)
    for past in folder.glob(f"{_PAST}*"):
        if past != new:
            shutil.rmtree(past, ignore_errors=True)
    sign_out_the_dead(folder)


def _merge(kind: str, files: Iterable[Path], target: Path, running: set[str]) -> None:
    """Write what `files` say together to `target`; buckets of histograms are not cumulative in files."""
    from prometheus_client.mmap_dict import MmapedDict

    found: dict[str, tuple[float, float]] = {}
    for file in files:
        for key, value, set_at_s in _values(file):
            if is_absent(value):
                continue
            # Gauges have a moment of their own; of anything else we keep when it was last moved here.
            written = value, set_at_s if kind == _MOST_RECENT else set_at_s or _moved_at_s(file)
            found[key] = _both(kind, found[key], written) if key in found else written
    oldest_s = time.time() - RUN_KEPT_S
    for key, (_, at_s) in tuple(found.items()):
        if at_s < oldest_s and (run := _run(key)) is not None and run not in running:
            del found[key]
    # Its pages are there before they are mapped: else a full disk would kill this process (SIGBUS).
    target.write_bytes(bytes(8 + sum(len(key.encode()) + _LONGEST_REST for key in found)))
    into = MmapedDict(str(target))  # type: ignore[no-untyped-call] # it has no types
    for key, (value, at_s) in found.items():
        into.write_value(key, value, at_s)  # type: ignore[no-untyped-call]
    into.close()  # type: ignore[no-untyped-call]


def _both(kind: str, one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Value and moment of a line that two processes have written."""
    if kind == _MOST_RECENT:
        return max(one, other, key=lambda written: written[1])
    if kind == "gauge_max":
        return max(one, other)
    return one[0] + other[0], max(one[1], other[1])


def _runs(files: Iterable[Path]) -> set[str]:
    """The runs that lines of living processes name."""
    keys = (key for file in files if is_whole(file) for key, _, _ in _values(file))
    return {run for key in keys if (run := _run(key)) is not None}


def _run(key: str) -> str | None:
    found: str | None = json.loads(key)[2].get(_RUN)
    return found


def is_whole(file: Path) -> bool:
    """Whether a file has values and all of them can be read."""
    try:
        return _has_begun(file) and all(json.loads(key) for key, _, _ in _values(file))
    except (ValueError, RuntimeError, struct.error):
        return False


def _values(file: Path) -> Iterator[tuple[str, float, float]]:
    from prometheus_client.mmap_dict import MmapedDict

    for key, value, at_s, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
        yield key, value, at_s


def _kind(file: Path) -> str:
    return file.stem.rpartition("_")[0]


def _moved_at_s(file: Path) -> float:
    return -pid_of(file) / 1e9  # its name says so


def _has_begun(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False
