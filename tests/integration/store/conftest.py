"""Stores on disk and on an S3 server, and publishers in processes of their own."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mizzen.store.manifest import Draft

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
SERVER = """
import sys
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.port, flush=True)
server.serve_forever()
"""


@dataclass(frozen=True)
class S3Server:
    """An S3 server of moto's on this machine, in a process of its own."""

    endpoint: str
    moto_python: Path

    def environment(self, key: str = "anybody", secret: str = "anything") -> dict[str, str]:
        """What obstore needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
        }


StartS3 = Callable[..., S3Server]


def moto_python() -> Path:
    """The Python of the environment that moto lives in: its dateutil is too old for ours."""
    python = Path(os.environ.get("MIZZEN_MOTO_PYTHON") or REPOSITORY / ".venv-moto" / "bin" / "python")
    if not python.exists():
        pytest.fail(
            f"{python} is not there: `make test` makes the environment with the S3 server (moto) that these "
            "tests need; or set MIZZEN_MOTO_PYTHON to a Python that has moto[server]."
        )
    return python


@pytest.fixture(scope="session")
def start_s3() -> Iterator[StartS3]:
    """Starts servers, with more environment variables if wanted; stops them all at the end."""
    processes: list[subprocess.Popen[str]] = []

    def start(**environment: str) -> S3Server:
        python = moto_python()
        process = subprocess.Popen(
            [python, "-c", SERVER],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
        )
        processes.append(process)
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not re.fullmatch(r"\d+", port):
            pytest.fail(f"moto's server did not start with {python}")
        return S3Server(f"http://127.0.0.1:{port}", python)

    yield start
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="session")
def s3(start_s3: StartS3) -> S3Server:
    """One server without access control, shared by all tests."""
    return start_s3()


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket; the environment has what it takes to reach it."""
    name = f"test-{uuid.uuid4().hex}"
    with urllib.request.urlopen(urllib.request.Request(f"{s3.endpoint}/{name}", method="PUT")):
        pass
    for variable, value in s3.environment().items():
        monkeypatch.setenv(variable, value)
    return f"s3://{name}/a/prefix"


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    found: str = request.getfixturevalue("bucket")
    return found


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_publisher() -> Iterator[Start]:
    """Starts `publisher.py`, which waits for a line before it publishes."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, HERE / "publisher.py", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Three files; the last is large enough to be sent in parts."""
    folder = tmp_path / "export"
    (folder / "below").mkdir(parents=True)
    (folder / "a.onnx").write_bytes(b"first" * 1000)
    (folder / "below" / "b.json").write_text('{"second": 2}')
    (folder / "c.data").write_bytes(os.urandom(20_000_000))
    return folder


@pytest.fixture
def draft() -> Draft:
    """The draft that `publisher.py` publishes too."""
    script: dict[str, Any] = runpy.run_path(str(HERE / "publisher.py"))
    made: Draft = script["draft"]("films", "run-1")
    return made
