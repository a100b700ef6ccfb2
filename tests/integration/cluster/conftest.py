"""A Ray cluster on this machine, started as KubeRay starts it: a head without CPUs, and workers that join it.

Each node has an address on loopback, a temporary folder and a `MIZZEN_HOME` of its own, so its programs share
nothing with those of another node but the store, as pods do.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from mizzen.local_ray import free_port

BIN = Path(sys.executable).parent
START_TIMEOUT_S = 120.0
"""Generous: the machine may be busy with other tests."""
STOP_TIMEOUT_S = 3.0
"""Ray waits much longer for what it has started; nothing is asserted of how it ends."""
OBJECT_STORE_BYTES = 100_000_000
STARTED = "Ray runtime started"


@dataclass(frozen=True)
class Node:
    """A pod, so to speak."""

    ip: str
    home: Path
    """Its `MIZZEN_HOME`."""
    process: subprocess.Popen[str]


@dataclass
class KubeRayCluster:
    """A running Ray cluster with token authentication."""

    token: str
    folder: Path
    """Below it lies all that its nodes write."""
    dashboard_port: int
    gcs_port: int
    variables: Mapping[str, str]
    nodes: list[Node] = field(default_factory=list)

    @property
    def head(self) -> Node:
        """The node with the dashboard, without CPUs."""
        return self.nodes[0]

    @property
    def workers(self) -> list[Node]:
        """The other nodes."""
        return self.nodes[1:]

    @property
    def address(self) -> str:
        """Of the dashboard: the Jobs API and Serve's."""
        return f"http://{self.head.ip}:{self.dashboard_port}"

    @property
    def gcs_address(self) -> str:
        """For `RAY_ADDRESS` of a driver on the head."""
        return f"{self.head.ip}:{self.gcs_port}"

    @property
    def client_environment(self) -> dict[str, str]:
        """What a client must have in its environment to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def get(self, path: str) -> object:
        """What the dashboard answers, for instance to `/api/version`."""
        request = urllib.request.Request(
            self.address + path, headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            found: object = json.load(answer)
        return found

    def add_node(self, *, num_cpus: int) -> Node:
        """Start a head if there is none yet, else a worker, and wait until it has joined."""
        number, ip = (
            len(self.nodes),
            f"127.{80 + os.getpid() % 100}.{self.gcs_port % 200 + 1}.{len(self.nodes) + 1}",
        )
        home, temp = self.folder / f"home{number}", self.folder / f"r{number}"
        home.mkdir()
        where = ["--address", f"{self.nodes[0].ip}:{self.gcs_port}"] if number else [
            "--head", f"--port={self.gcs_port}", f"--dashboard-host={ip}",
            f"--dashboard-port={self.dashboard_port}", f"--ray-client-server-port={free_port()}",
        ]  # fmt: skip
        process = subprocess.Popen(
            [
                BIN / "ray", "start", *where, "--block", f"--node-ip-address={ip}", f"--num-cpus={num_cpus}",
                f"--temp-dir={temp}", f"--dashboard-agent-listen-port={free_port()}",
                f"--metrics-export-port={free_port()}", f"--object-store-memory={OBJECT_STORE_BYTES}",
            ],
            env={**os.environ, **self.variables, **self._environment(home)},
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        self.nodes.append(Node(ip, home, process))
        _wait_for(STARTED, process)
        return self.nodes[-1]

    def _environment(self, home: Path) -> dict[str, str]:
        return {
            **self.client_environment,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(Path(BIN) / "mizzen-haproxy"),  # as in the image
            "HOME": str(home),
            "MIZZEN_HOME": str(home),
            # DeepSpeed's extension is compiled once for all nodes: an image has it built in.
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            # The nodes' addresses are on loopback.
            "GLOO_SOCKET_IFNAME": "lo",
            "AUTOSCALER_METRIC_PORT": "0",
            "DASHBOARD_METRIC_PORT": "0",
        }

    def drain(self, node: Node) -> None:
        """The cluster is told that the node will be taken away soon."""
        nodes: Any = self.get("/nodes?view=summary")
        [found] = [one for one in nodes["data"]["summary"] if one["ip"] == node.ip]
        subprocess.run(
            [
                BIN / "ray", "drain-node", "--address", self.gcs_address,
                "--node-id", found["raylet"]["nodeId"],
                "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the test's notice",
                "--deadline-remaining-seconds", "120",
            ],
            env={**os.environ, **self.client_environment},
            check=True,
        )  # fmt: skip

    def lose(self, node: Node) -> None:
        """The node is gone, without a word: every process of it is killed at once."""
        parent = psutil.Process(node.process.pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        node.process.wait()

    def stop(self) -> None:
        """End every process of the cluster; what it wrote stays until the fixture's end."""
        ours: dict[int, psutil.Process] = {}
        for node in self.nodes:
            if node.process.poll() is None:
                parent = psutil.Process(node.process.pid)
                ours |= {process.pid: process for process in (*parent.children(recursive=True), parent)}
        for node in reversed(self.nodes):
            node.process.terminate()
        _, alive = psutil.wait_procs(list(ours.values()), timeout=STOP_TIMEOUT_S)
        for process in alive:
            with suppress(psutil.NoSuchProcess):  # it has ended in this moment
                process.kill()
        for node in self.nodes:
            node.process.wait()


StartKubeRay = Callable[..., KubeRayCluster]


@pytest.fixture(scope="module")
def start_kuberay() -> Iterator[StartKubeRay]:
    """Starts clusters: `workers` nodes with `num_cpus` each besides the head; all have `variables`."""
    started: list[KubeRayCluster] = []

    def start(
        *,
        workers: int = 2,
        num_cpus: int = 2,
        head_cpus: int = 0,
        variables: Mapping[str, str] | None = None,
    ) -> KubeRayCluster:
        # Short, because Ray makes sockets below it.
        folder = Path(tempfile.mkdtemp(prefix="mzk-", dir="/tmp"))
        cluster = KubeRayCluster(
            token=secrets.token_hex(32),
            folder=folder,
            dashboard_port=free_port(),
            gcs_port=free_port(),
            variables=dict(variables or {}),
        )
        started.append(cluster)
        cluster.add_node(num_cpus=head_cpus)
        for _ in range(workers):
            cluster.add_node(num_cpus=num_cpus)
        return cluster

    yield start
    for cluster in started:
        cluster.stop()
        shutil.rmtree(cluster.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def kuberay_cluster(start_kuberay: StartKubeRay) -> KubeRayCluster:
    """A head and two workers with two CPUs each, as pods of the chart are: Serve behind HAProxy."""
    return start_kuberay(variables={"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"})


def _wait_for(text: str, process: subprocess.Popen[str]) -> None:
    """Until `process` has printed `text`; what it prints afterwards is read and dropped."""
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.append(line)
                if text in line:
                    ready.set()
        ready.set()  # it has ended

    threading.Thread(target=read, daemon=True).start()
    assert ready.wait(START_TIMEOUT_S) and process.poll() is None, "".join(lines)
