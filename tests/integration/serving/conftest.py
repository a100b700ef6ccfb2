"""A `mizzen serve` in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from mizzen.local_ray import free_port

PLUGIN = Path(__file__).parent / "plugin"
START_TIMEOUT_S = 240.0
"""Generous: the machine may be busy with other tests."""
END = "(the process has ended)"


@dataclass
class Server:
    """A process that serves a file."""

    home: Any
    """A home of adders."""
    spec: dict[str, Any]
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.spec['http']['port']}"

    def read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()
        with self._news:
            self.lines.append(END)
            self._news.notify_all()

    def wait_for(self, *words: str, after: int = 0) -> str:
        """The first line from number `after` on with all `words`; fails when the process ends before."""

        def found() -> str | None:
            lines = self.lines[after:]
            matching = (line for line in lines if all(word in line for word in words))
            return next(matching, END if END in lines else None)

        with self._news:
            assert self._news.wait_for(lambda: found() is not None, START_TIMEOUT_S), self.lines
            line = found()
        assert line and line != END, "\n".join(self.lines)
        return line

    def reload(self) -> str:
        """Send SIGHUP; what the process then says."""
        after = len(self.lines)
        self.process.send_signal(signal.SIGHUP)
        return self.wait_for("reloaded", after=after)

    def tree(self) -> list[psutil.Process]:
        """The process and everything that it started."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it with a signal; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        with self._news:
            assert self._news.wait_for(lambda: END in self.lines, timeout=10), self.lines
        return code


Launch = Callable[[Any, dict[str, Any]], Server]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Starts servers; those that still run at the end of the module are stopped."""
    started: list[Server] = []

    def start(home: Any, spec: dict[str, Any]) -> Server:
        file = tmp_path_factory.mktemp("spec") / "serve.yaml"
        spec = {"http": {"port": free_port()}, **spec}
        file.write_text(yaml.safe_dump(spec))
        process = subprocess.Popen(
            [sys.executable, str(PLUGIN / "serve_here.py"), str(file)],
            env=home.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        server = Server(home, spec, process)
        threading.Thread(target=server.read_lines, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()
        server.process.stdout.close() if server.process.stdout else None


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30.0, trust_env=False) as client:
        yield client
