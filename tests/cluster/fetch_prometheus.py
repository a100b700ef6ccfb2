"""Brings Prometheus and Alertmanager for the tests: `fetch_prometheus.py FOLDER`.

`FOLDER/bin` then holds `prometheus`, `promtool`, `alertmanager` and `amtool`: links to programs on PATH if
they are there and new enough, else to Debian's, which apt fetches and dpkg unpacks into FOLDER without
installing them, as any user. Where neither can be had it says in one sentence what to install and ends with
status 0, but without the file FOLDER/.installed: the tests that need the programs say the same then. It uses
the standard library alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OLDEST = {"prometheus": (2, 42), "promtool": (2, 42), "alertmanager": (0, 25), "amtool": (0, 25)}
"""The programs, and the versions that the tests were written with: Debian 12's."""
ALSO_CALLED = {"alertmanager": "prometheus-alertmanager"}
"""Debian's name for a program."""
PACKAGES = ("prometheus", "prometheus-alertmanager")
OPTIONS = (
    *("-q", "-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=30"),
    *("-o", "APT::Sandbox::User="),  # apt's own user could not write into our folder
)
TIMEOUT_S = 300
MISSING = (
    "Prometheus 2.42 and Alertmanager 0.25 or newer are missing: install them (on Debian and Ubuntu `apt-get"
    " install prometheus prometheus-alertmanager`) and run `make .tools/prometheus/.installed`."
)


def main() -> None:
    """Fill the folder that is named on the command line."""
    folder = Path(sys.argv[1]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    programs = folder / "bin"
    programs.mkdir(parents=True)
    found = {name: on_path(name) for name in OLDEST}
    if not all(found.values()):
        print(f"Fetching Prometheus and Alertmanager into {sys.argv[1]}", flush=True)
        trouble = unpack_packages(folder)
        found = {name: found[name] or in_packages(name, folder) for name in OLDEST}
        if not all(found.values()):
            print(f"{MISSING} The tests that need them do not run.\n{trouble}".rstrip(), file=sys.stderr)
            return
    for name, program in found.items():
        assert program is not None, "all were found"
        if name == "alertmanager" and not program.is_absolute():
            start_in_folder(programs / name, folder)
        else:
            (programs / name).symlink_to(program)
    (folder / ".installed").touch()


def on_path(name: str) -> Path | None:
    """The program on PATH, if its version will do."""
    names = [ALSO_CALLED.get(name), name]
    programs = [shutil.which(one) for one in names if one]
    return next((Path(program) for program in programs if program and will_do(name, Path(program))), None)


def in_packages(name: str, folder: Path) -> Path | None:
    """The program among what was unpacked, as a path from `folder/bin`."""
    program = Path("usr/bin", ALSO_CALLED.get(name, name))
    return Path("..", program) if will_do(name, folder / program) else None


def will_do(name: str, program: Path) -> bool:
    """Whether it runs and is new enough."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30)
    except OSError:
        return False
    version = re.search(r"version (\d+)\.(\d+)", said.stdout + said.stderr)
    return version is not None and (int(version[1]), int(version[2])) >= OLDEST[name]


def start_in_folder(script: Path, folder: Path) -> None:
    """Make `script` start Debian's Alertmanager so that it finds its templates, which are not installed.

    It is built to read them where its package puts them, and nothing else can be said to it. So the path is
    replaced in the program, by one as long that begins in the working directory.
    """
    program = folder / "usr" / "bin" / ALSO_CALLED["alertmanager"]
    installed, unpacked = b"/usr/share/prometheus/alertmanager", b"usr/share/prometheus//alertmanager"
    program.write_bytes(program.read_bytes().replace(installed, unpacked))
    script.write_text(f'#!/bin/sh\ncd "$(dirname "$0")/.." && exec usr/bin/{program.name} "$@"\n')
    script.chmod(0o755)


def unpack_packages(folder: Path) -> str:
    """Fetch Debian's packages and unpack them into `folder`; what went wrong, if anything did."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return "There is no apt-get here to fetch them with."
    with tempfile.TemporaryDirectory() as temporary:
        said = download(Path(temporary))
        for package in Path(temporary).glob("*.deb"):
            said += run(["dpkg", "-x", str(package), str(folder)], folder)[1]
    return said


def download(folder: Path) -> str:
    """Download the packages into `folder`; what apt said if it could not.

    With the machine's lists of packages if they will do, else with lists of our own, which need no
    privileges either.
    """
    apt = ["apt-get", *OPTIONS]
    done, said = run([*apt, "download", *PACKAGES], folder)
    if done:
        return ""
    for part in ("lists/partial", "archives/partial"):
        (folder / part).mkdir(parents=True)
    apt += ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder}"]
    _, of_lists = run([*apt, "update"], folder)
    done, of_packages = run([*apt, "download", *PACKAGES], folder)
    return "" if done else said + of_lists + of_packages


def run(command: list[str], folder: Path) -> tuple[bool, str]:
    """Whether the command succeeded in `folder`, and its last words on the error stream."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return False, f"{command[0]} took more than {TIMEOUT_S} s.\n"
    return done.returncode == 0, "" if done.returncode == 0 else done.stderr[-600:]


if __name__ == "__main__":
    main()
