"""Runs one contender as a process of its own, and tells what it has cost: wall time, and CPU time.

CPU time can be compared between runs of a busy machine, wall time cannot. It knows nothing of forecasts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

LOOK_EVERY_S = 0.2
GRACE_S = 60.0
SAME_FOR_ALL = {
    "OMP_WAIT_POLICY": "passive",  # threads that wait for others do not count as work
    "CUDA_VISIBLE_DEVICES": "",
    # Without these, glibc gives every large tensor back to the system, and the system clears it anew.
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "10000000000",
}


@dataclass(frozen=True)
class Cost:
    """What a process, and all that it has started, has used."""

    wall_s: float
    cpu_s: float | None
    """None: not measured."""
    ended: bool
    """False: it was ended at its limit."""


def run(command: Sequence[str], log: Path, limit_cpu_s: float, num_threads: int) -> Cost:
    """Run `command` until it ends or has used `limit_cpu_s`. Raises `RuntimeError` if it fails.

    At the limit it gets SIGTERM, and may still end well within a minute; then it has ended by itself.
    """
    environment = {**os.environ, **SAME_FOR_ALL, "OMP_NUM_THREADS": str(num_threads)}
    started_s, used = time.monotonic(), Used()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        watched, told_s = psutil.Process(process.pid), None
        try:
            while process.poll() is None:
                used.look(watched)
                now_s = time.monotonic()
                if told_s is None and used.total_s > limit_cpu_s:
                    process.terminate()
                    told_s = now_s
                if told_s is not None and now_s - told_s > GRACE_S:
                    os.killpg(process.pid, signal.SIGKILL)
                time.sleep(LOOK_EVERY_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    cost = Cost(time.monotonic() - started_s, used.total_s, ended=process.returncode == 0)
    if process.returncode != 0 and told_s is None:
        raise RuntimeError(f"{' '.join(command)} failed ({process.returncode}):\n{log.read_text()[-2000:]}")
    return cost


class Used:
    """CPU seconds of a process and its descendants, those that have ended too, up to the last look."""

    def __init__(self) -> None:
        self._by_process: Mapping[tuple[int, float], float] = {}

    @property
    def total_s(self) -> float:
        """Of all of them."""
        return sum(self._by_process.values())

    def look(self, root: psutil.Process) -> None:
        """Read the clocks of those that are there."""
        seen = dict(self._by_process)
        try:
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for one in family:
            try:
                times = one.cpu_times()
                seen[one.pid, one.create_time()] = times.user + times.system
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        self._by_process = seen
