"""Keeps the list that Prometheus discovers this machine by: one target for a MIZZEN_HOME, never two.

The metrics folder holds everybody's series, so any process that shows it shows all of them, and a second
target would count everything twice. Whoever holds a lock is the target; the kernel hands the lock to the next
in line when its holder is gone, also after a `kill -9`. A MIZZEN_HOME is of one machine, for process numbers
and the address are; on a network's file system locks may not be known, which is said, and nobody is listed.
It does not decide how often Prometheus asks.

https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mizzen.errors import MizzenError
from mizzen.exporter import LOOPBACK, Exporter

FILE = "prometheus-targets.json"
_LOCK = "prometheus-targets.lock"


@contextmanager
def shown(
    metrics_dir: Path, run_dir: Path, *, port: int = 0, say: Callable[[str], None] = lambda _: None
) -> Iterator[int]:
    """Show the series of `metrics_dir` on loopback meanwhile, and take part in being the target.

    Yields the port: `port`, or another one if that is taken. Nobody's work fails because the list cannot be
    written: `say` hears of it.
    """
    with Exporter.near(metrics_dir, port) as exporter:
        found = exporter.in_background()
        try:
            with announced(run_dir, LOOPBACK, found, say):
                yield found
        finally:
            exporter.shutdown()


@contextmanager
def announced(
    run_dir: Path, host: str, port: int, say: Callable[[str], None] = lambda _: None
) -> Iterator[Announcement | None]:
    """Meanwhile be the target of this MIZZEN_HOME or next in line; None if the list cannot be written."""
    try:
        announcement = Announcement(run_dir, address(host, port))
    except OSError as cause:
        say(f"warning: {run_dir / FILE} cannot be written, so Prometheus does not find this: {cause}")
        yield None
        return
    try:
        yield announcement
    finally:
        announcement.withdraw()


def address(host: str, port: int) -> str:
    """Where Prometheus on this machine reaches what listens on `host`."""
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return f"{host}:{port}"
    if parsed.is_unspecified:
        parsed = ipaddress.ip_address("::1" if parsed.version == 6 else LOOPBACK)
    return f"[{parsed}]:{port}" if parsed.version == 6 else f"{parsed}:{port}"


class Announcement:
    """This process's wish to be the target, until `withdraw`."""

    def __init__(self, run_dir: Path, address: str) -> None:
        """Raises `OSError` if the folder cannot be written or locked."""
        self.leads = threading.Event()
        """Set once this process is the target."""
        self._run_dir, self._address = run_dir, address
        self._withdrawn = False
        self._mutex = threading.Lock()
        run_dir.mkdir(parents=True, exist_ok=True)
        self._lock = (run_dir / _LOCK).open("a")
        try:
            is_ours = _taken(self._lock)
            if is_ours:
                self._lead()
        except OSError:
            self._lock.close()
            raise
        if not is_ours:
            threading.Thread(target=self._wait, name="mizzen-targets", daemon=True).start()

    def withdraw(self) -> None:
        """Stop being the target; the next in line is it at once, or nobody."""
        with self._mutex:
            self._withdrawn = True
            if self.leads.is_set():
                with self._lock, suppress(OSError):  # what ends must not fail for it
                    _write(self._run_dir, [])

    def _wait(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        with self._mutex:
            try:
                if not self._withdrawn:
                    self._lead()
            except OSError:
                self._withdrawn = True  # the disk is full, say: the next in line may try
            if self._withdrawn:
                self._lock.close()

    def _lead(self) -> None:
        _write(self._run_dir, [{"targets": [self._address], "labels": {"instance": socket.gethostname()}}])
        self.leads.set()


def read(run_dir: Path) -> tuple[Path, list[Any]]:
    """The list's path and content, mended if the process that was the target has been killed.

    Raises `MizzenError` if the folder cannot be read or written.
    """
    file = run_dir / FILE
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with (run_dir / _LOCK).open("a") as lock:
            if _taken(lock):
                _write(run_dir, [])
        return file, json.loads(file.read_text())
    except OSError as cause:
        raise MizzenError(
            f"{file} cannot be used: {cause.strerror or cause}",
            remedy="Point MIZZEN_HOME at a folder of your own.",
        ) from None


def _taken(lock: Any) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(run_dir: Path, targets: list[Any]) -> None:
    """Replace the list whole, for Prometheus may read it at any moment."""
    file = run_dir / FILE
    new = file.with_suffix(f".{os.getpid()}.new")
    new.write_text(json.dumps(targets, indent=2) + "\n")
    new.replace(file)
