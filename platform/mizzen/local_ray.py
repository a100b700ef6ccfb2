"""Starts Ray on this machine so that nobody else can reach it, and stops all that it started.

Everything that has a setting for it listens on 127.0.0.1, and every call needs a random token that is made
for this process, lies in a file that only this user can read, and is never logged. It is shared by training
and serving; it does not know what runs on Ray.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from mizzen.errors import MizzenError
from mizzen.settings import Settings

LOOPBACK = "127.0.0.1"
_LONGEST_FOLDER = 40
"""Ray makes sockets below its folder, and the path of a socket must not have more than 107 characters."""


_environ_before: dict[str, str | None] = {}
"""Variables that `init` has changed in this process, with their values before, until `shutdown`."""


@dataclass(frozen=True)
class Instance:
    """What the Ray of this process has on disk, readable for this user alone."""

    folder: Path
    token_file: Path


@cache
def instance() -> Instance:
    """The folder and the token of this process, made at the first call and deleted at its end."""
    parent = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="mz-", dir=parent if len(parent) <= _LONGEST_FOLDER else "/tmp"))
    token_file = folder / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(secrets.token_hex(32))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Instance(folder, token_file)


def environment(settings: Settings) -> dict[str, str]:
    """Variables that every process of our Ray needs."""
    variables = {
        "MIZZEN_HOME": str(settings.home),
        "MIZZEN_STORE": settings.store_url,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(instance().token_file),
        # The name notwithstanding, 0 makes Ray use 127.0.0.1 as the node's address on any system, and all
        # its servers bind to that.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Fixed ports otherwise, which a second Ray on this machine would fight for.
        "AUTOSCALER_METRIC_PORT": "0",
        "DASHBOARD_METRIC_PORT": "0",
        # Else Ray hides the GPUs from a replica that reserves none, and `auto` could never choose one.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if sys.platform == "linux":
        variables["GLOO_SOCKET_IFNAME"] = "lo"
    return variables


def init(
    settings: Settings,
    *,
    num_cpus: int,
    object_store_bytes: int | None = None,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Start Ray here with `num_cpus` logical CPUs; `variables` are for its processes, beside `environment`.

    Raises `MizzenError` if it cannot start, with the reason.
    """
    for name, value in {**environment(settings), **(variables or {})}.items():
        _environ_before.setdefault(name, os.environ.get(name))
        os.environ[name] = value
    import ray
    from ray._private import ray_constants
    from ray._raylet import Config  # type: ignore[attr-defined] # its stub does not have it

    # Both are read when ray is imported, which somebody else may have done before.
    ray_constants.ENABLE_RAY_CLUSTER = False
    Config.initialize("")
    logging.getLogger("ray").setLevel(logging.ERROR)
    with _without_metrics_folder():
        try:
            ray.init(
                num_cpus=num_cpus,
                _node_ip_address=LOOPBACK,
                dashboard_host=LOOPBACK,
                include_dashboard=False,
                _temp_dir=str(instance().folder / "ray"),
                object_store_memory=object_store_bytes,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as cause:  # Ray's own is a bare one, where its node is not up within 30 s
            shutdown()
            logs = keep_logs(settings)
            raise MizzenError(f"Ray does not start: {cause}", remedy=f"Its logs are in {logs}.") from None


def is_running() -> bool:
    """Whether this process is on a Ray that `init` has started, so that all of it is on this machine."""
    import ray

    return ray.is_initialized() and bool(processes())


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on, below those that the system hands out by itself.

    So no other program that takes any free port (Ray takes dozens) gets it before we bind it.
    """
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def shutdown() -> None:
    """Stop the Ray of this process with everything that it started, and restore its environment."""
    import ray

    ours = processes()
    ray.shutdown()
    _end(ours)
    _end(processes())
    for name, value in _environ_before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _environ_before.clear()


def keep_logs(settings: Settings) -> Path:
    """Copy the logs of this process's Ray to a folder that stays; returns it."""
    target = settings.run_dir / f"ray-logs-{os.getpid()}"
    for logs in sorted(instance().folder.glob("ray/session_2*/logs")):
        shutil.copytree(logs, target, dirs_exist_ok=True)
    return target


def processes() -> list[psutil.Process]:
    """Every process of our Ray: what was started with our folder, and what those have started."""
    folder = str(instance().folder)
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(folder in part for part in process.cmdline()):
                found.update({child.pid: child for child in (process, *process.children(recursive=True))})
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return list(found.values())


def _end(processes: list[psutil.Process], patience_s: float = 3.0) -> None:
    deadline_s = time.monotonic() + patience_s
    for signal in ("terminate", "kill"):
        for process in processes:
            with _gone():
                getattr(process, signal)()
        _, processes = psutil.wait_procs(processes, timeout=max(0.0, deadline_s - time.monotonic()))
        deadline_s += 1.0


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except psutil.NoSuchProcess:
        return


@contextmanager
def _without_metrics_folder() -> Iterator[None]:
    # Ray's agents use prometheus-client too: with this variable they would write among our series.
    folder = os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    try:
        yield
    finally:
        if folder is not None:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
