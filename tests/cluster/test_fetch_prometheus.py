"""Where the tests' Prometheus comes from: programs on PATH, or else a sentence about what to install.

What apt fetches is proved by every run of `make test` on a machine without them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fetch_prometheus.py")
NAMES = ("prometheus", "promtool", "alertmanager", "amtool")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder for PATH, empty as yet."""
    folder = tmp_path / "on-path"
    folder.mkdir()
    return folder


def program(path: Path, name: str, version: str) -> None:
    """A program that says its version."""
    file = path / name
    file.write_text(f"#!/bin/sh\necho '{name}, version {version} (branch: HEAD)'\n")
    file.chmod(0o755)


def fetch(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Fill a folder, with nothing but `path` on PATH."""
    command = [sys.executable, str(SCRIPT), str(folder)]
    return subprocess.run(command, env={"PATH": str(path)}, capture_output=True, text=True, timeout=60)


def test_programs_on_path_are_taken(path: Path, tmp_path: Path) -> None:
    for name in NAMES:
        program(path, name, "3.5.0")
    done = fetch(path, tmp_path / "tools")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "tools" / ".installed").is_file()
    for name in NAMES:
        assert (tmp_path / "tools" / "bin" / name).resolve() == path / name


def test_debian_s_name_for_alertmanager_is_known(path: Path, tmp_path: Path) -> None:
    for name in ("prometheus", "promtool", "prometheus-alertmanager", "amtool"):
        program(path, name, "2.42.0+ds")
    assert fetch(path, tmp_path / "tools").returncode == 0
    assert (tmp_path / "tools" / "bin" / "alertmanager").resolve() == path / "prometheus-alertmanager"


@pytest.mark.parametrize("version", ["2.41.9", "nothing"])
def test_what_is_too_old_is_not_taken_and_it_is_said_what_to_install(
    path: Path, tmp_path: Path, version: str
) -> None:
    for name in NAMES:
        program(path, name, "3.5.0")
    program(path, "promtool", version)
    done = fetch(path, tmp_path / "tools")
    assert done.returncode == 0, "the tests that need them tell"
    assert "apt-get install prometheus prometheus-alertmanager" in done.stderr
    assert "There is no apt-get here" in done.stderr
    assert not (tmp_path / "tools" / ".installed").exists()
