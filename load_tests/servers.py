"""Starts a server as its users do, finds all its processes, reads what they cost, and stops them.

Processes are found by a mark in their environment, which everything that a server starts inherits: Ray's,
HAProxy and the workers of a peer too. It sends no load.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "MIZZEN_LOAD_TEST"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
NUM_STARTS = 2
SETTLE_S = 2.0
"""What a server still does when it is ready (Ray starts workers in stock) is not measured."""


@dataclass(frozen=True)
class Usage:
    """What the processes of a server have used at one moment."""

    cpu_s: float
    """User and system time of all of them since they started."""
    rss_bytes: int
    """Resident memory; what processes share is counted once for each."""
    pss_bytes: int
    """The same with shared memory divided among its users."""
    num_processes: int


@dataclass
class Server:
    """One server, ours or a peer."""

    name: str
    command: Sequence[str]
    url: str
    """What a scenario's paths are appended to."""
    ready: str
    """A path below `url` that answers 200 when it can be used."""
    log: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    _mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        for left in reversed(range(NUM_STARTS)):
            try:
                self._start()
            except RuntimeError:
                # Ray Serve gives its ingress few seconds to begin, too few if the machine hangs for a moment.
                if not left:
                    raise
            else:
                break
        return self

    def _start(self) -> None:
        environ = {**os.environ, **self.environ, MARK: self._mark}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, env=environ, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait_until_ready()
            time.sleep(SETTLE_S)
        except BaseException:
            self._stop()
            raise

    def __exit__(self, *_: object) -> None:
        self._stop()

    def usage(self) -> Usage:
        """What all its processes have used; those that have ended are not counted any more."""
        cpu_s, rss, pss, count = 0.0, 0, 0, 0
        for process in self.processes():
            try:
                times, memory = process.cpu_times(), process.memory_full_info()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            cpu_s += times.user + times.system
            rss, pss, count = rss + memory.rss, pss + memory.pss, count + 1
        return Usage(cpu_s, rss, pss, count)

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with urllib.request.urlopen(self.url + self.ready, timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (OSError, urllib.error.URLError):
                pass
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} has ended; its log is {self.log}:\n{self._last_lines()}")
            if time.monotonic() > deadline_s:
                raise RuntimeError(
                    f"{self.name} is not ready after {START_TIMEOUT_S:.0f} s; its log is {self.log}:\n"
                    + self._last_lines()
                )
            time.sleep(0.1)

    def _last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def processes(self) -> list[psutil.Process]:
        """All that it has started and that still run."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def _stop(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        # What a server leaves behind would disturb the next one.
        left = self.processes()
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=5)
        self._process.wait()
