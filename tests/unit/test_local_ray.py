"""What Ray on this machine is given: a private folder, a token, and settings that close it."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

from mizzen import local_ray
from mizzen.settings import read

SHOW = """
import json, sys
from mizzen import local_ray
from mizzen.settings import current
print(json.dumps([str(local_ray.instance().folder), local_ray.environment(current())]), flush=True)
sys.stdin.read()
"""


def test_a_process_has_a_folder_and_a_token_of_its_own_that_end_with_it(tmp_path: Path):
    environ = {"MIZZEN_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    shown = []
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHOW], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        folder, variables = json.loads(process.stdout.readline())
        token_file = Path(variables["RAY_AUTH_TOKEN_PATH"])
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        assert token_file.parent == Path(folder)
        token = token_file.read_text()
        assert len(bytes.fromhex(token)) == 32
        assert token not in json.dumps(variables)
        shown.append((folder, token))
    assert len({folder for folder, _ in shown}) == len({token for _, token in shown}) == 2
    for process, (folder, _) in zip(processes, shown, strict=True):
        process.communicate(timeout=30)
        assert process.returncode == 0
        assert not Path(folder).exists()


def test_sockets_fit_below_the_folder():
    longest = "ray/session_2026-11-22_06-34-10_272645_1234567/sockets/plasma_store.1"
    assert len(str(local_ray.instance().folder / longest)) <= 107


def test_ray_is_closed_quiet_and_finds_the_same_home(tmp_path: Path):
    settings = read({"MIZZEN_HOME": str(tmp_path), "MIZZEN_STORE": "memory://"})
    variables = local_ray.environment(settings)
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert variables["RAY_USAGE_STATS_ENABLED"] == "0"
    assert read(variables) == settings
