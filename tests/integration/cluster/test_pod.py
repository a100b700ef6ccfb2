"""Serving in what a kubelet makes of the chart's pods: a user without privileges, and nothing to write to.

The serve port and all others of Ray Serve's are those of a pod: the network is its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
KEY = "a-key-that-is-long-enough"
UNSHARE = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]


def can_unshare() -> bool:
    """Whether we are let to make namespaces: root on a machine of one's own is, a container usually not."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "ip"))):
        return False
    mount = ["sh", "-c", "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt"]
    return subprocess.run([*UNSHARE, *mount], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="needs root and the right to make namespaces")


@pytest.fixture
def pod(home, site: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The pod, in which `in_pod.py` runs; the store has a version already."""
    home.publish({"constant": 100})
    store, keys = Path(home.settings.store_url.removeprefix("file://")), tmp_path / "keys"
    keys.mkdir()
    (keys / "team").write_text(KEY)
    file = tmp_path / "serve.yaml"
    app = {"name": "adder", "model": "adder@production", "route_prefix": "/adder", "num_cpus": 0.5}
    arguments = {"app": app, "store_url": f"file://{store}", "watch_every_s": 1}
    application = {"name": "adder", "route_prefix": "/adder", "import_path": "mizzen.serving.app:build"}
    file.write_text(yaml.safe_dump({"applications": [{**application, "args": arguments}]}))
    kept = {Path(sys.prefix), Path(sys.base_prefix), REPOSITORY, site, store, tmp_path}
    for folder in (site, store, tmp_path):
        folder.chmod(0o755)
    environ = {
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "KEEP": ":".join(map(str, sorted(kept))),
        "PYTHONPATH": str(site),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MIZZEN_API_KEYS": str(keys),
        "MIZZEN_STORE": f"file://{store}",
        "MIZZEN_TEST_SESSION": os.environ["MIZZEN_TEST_SESSION"],
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "t" * 64,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    inside = [sys.executable, str(HERE / "in_pod.py"), str(file), "http://127.0.0.1:8000/adder"]
    process = subprocess.Popen(
        [*UNSHARE, "sh", str(HERE / "pod.sh"), *inside], env=environ, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()  # the first process of the namespace dies with it, and all others with that
    process.communicate()


def seen(pod: subprocess.Popen[str], what: str) -> dict[str, Any]:
    """The next thing that the pod has seen, which must be `what`."""
    assert pod.stdout is not None
    line = pod.stdout.readline()
    assert f'"{what}"' in line, line
    found: dict[str, Any] = json.loads(line)
    return found


def test_serving_needs_no_privilege_and_writes_only_where_a_pod_lets_it(home, pod) -> None:
    assert seen(pod, "user") == {"user": 1000, "writable": []}
    (trial,) = seen(pod, "tried")["tried"]
    assert (trial["model"], trial["version"], trial["path"]) == ("adder", 1, "/v1/add")
    home.publish({"constant": 200})
    found = seen(pod, "version")
    assert (found["version"], found["elsewhere"]) == (2, [])
    assert re.search(r'^mizzen_model_info\{.*app="adder",.* 1\.0$', found["series"], re.MULTILINE)
    assert pod.wait(timeout=60) == 0
