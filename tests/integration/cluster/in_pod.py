"""What runs in a pod of the chart, all in one: Ray's head, `serve deploy`, what a sidecar and a user ask.

It prints JSON, a line for each thing that it has seen. Arguments: the serve file, the URL of the application.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil

WAIT_S = 240.0
HOME = Path("/var/lib/mizzen")


def say(**seen: Any) -> None:
    print(json.dumps(seen), flush=True)


class Head:
    """Ray's head; like a kubelet it starts it again if it ends, as it does where the machine is too busy."""

    COMMAND = ("ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2")

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        with (HOME / "ray.log").open("a") as log:
            command = [*self.COMMAND, "--object-store-memory=100000000"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def keep(self) -> None:
        if self.process.poll() is not None:
            self.start()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def run(head: Head, *command: str) -> str:
    """What a command prints; it is tried until it succeeds."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
        if time.monotonic() > deadline_s:
            say(failed=command, said=done.stdout + done.stderr, logs=logs())
            sys.exit(1)
        time.sleep(1)
        head.keep()


def logs() -> str:
    """The ends of Ray's and of Serve's logs."""
    found = [HOME / "ray.log", *sorted(Path("/tmp/ray/session_latest/logs/serve").glob("*.log"))]
    return "\n".join(file.read_text()[-2000:] for file in found)


def written_elsewhere() -> list[str]:
    """Files outside of the writable folders that a process here has open for writing."""
    found = set()
    for process in psutil.process_iter():
        try:
            found |= {file.path for file in process.open_files() if file.mode != "r"}
        except psutil.Error:
            continue
    return sorted(path for path in found if not path.startswith(("/tmp/", "/dev/", f"{HOME}/")))


def main(serve_file: str, url: str) -> None:
    say(
        user=os.getuid(), writable=[place for place in ("/", "/etc", sys.prefix) if os.access(place, os.W_OK)]
    )
    head = Head()
    run(head, "serve", "deploy", "--address", "http://127.0.0.1:8265", serve_file)
    say(tried=json.loads(run(head, "mizzen", "try", url, "--timeout", "60", "--json")))
    while True:  # until the one who reads this has moved the alias
        with urllib.request.urlopen(f"{url}/readyz", timeout=30) as answer:
            version = json.load(answer)["version"]
        if version > 1:
            break
        time.sleep(0.2)
    say(version=version, elsewhere=written_elsewhere(), series=run(head, "mizzen", "metrics", "--once"))
    head.stop()


main(*sys.argv[1:])
