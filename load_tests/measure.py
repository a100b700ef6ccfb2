"""Runs one scenario against one server, and makes figures of what Locust has seen and the server has used.

It does not compare: `verdicts` does.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from servers import Server, Usage

SCENARIOS = Path(__file__).parent / "scenarios"
GRACE_S = 90.0


@dataclass(frozen=True)
class Figures:
    """One measurement of one server; times in milliseconds."""

    units_per_s: float
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    first_p50_ms: float | None
    first_p99_ms: float | None
    """To the first piece of a stream."""
    num_requests: int
    num_errors: int
    errors: Mapping[str, int]
    server_cpu_ms: float
    """CPU time of all processes of the server for each request."""
    client_cpu_share: float
    """Of one core, by the process that sends: near 1, it is what limits."""
    memory_bytes: int
    """Resident memory of all processes of the server at the end."""
    pss_bytes: int
    other_cpu_share: float | None
    """Of all cores, by neither the server nor the client: if it is much, the machine was busy."""


class Locust:
    """Locust in its own environment."""

    def __init__(self, python: Path, scratch: Path) -> None:
        self.python, self.scratch = python, scratch
        self._num_runs = 0

    def run(self, scenario: str, inputs: Path, server: Server, arrivals: Mapping[str, Any]) -> Figures:
        """One measurement; `arrivals` are the options of `scenarios/traffic.py`."""
        self._num_runs += 1
        result = self.scratch / f"run-{self._num_runs}.json"
        log = self.scratch / f"run-{self._num_runs}.log"
        options = {**arrivals, "inputs": inputs, "result": result, "host": server.url}
        command = [str(self.python), "-m", "locust", "-f", str(SCENARIOS / f"{scenario}.py")]
        command += ["--headless", "--users", "1", "--only-summary", "--loglevel", "WARNING"]
        command += ["--exit-code-on-error", "0"]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        limit_s = arrivals["warm_up"] + arrivals["measure"] + GRACE_S
        with log.open("w") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
            killer = threading.Timer(limit_s, process.kill)
            killer.start()
            try:
                moments = _watch(process, server)
            finally:
                killer.cancel()
        if process.returncode != 0 or not result.exists() or len(moments) != 2:
            raise RuntimeError(f"Locust has failed ({process.returncode}):\n{log.read_text()[-2000:]}")
        return _figures(json.loads(result.read_text()), *moments)


@dataclass(frozen=True)
class Moment:
    """Who has used how much CPU time up to now."""

    at_s: float
    server: Usage
    client_s: float
    machine_s: float

    @classmethod
    def now(cls, server: Server, client_s: float) -> Moment:
        """This moment; `client_s` is what the client has used."""
        machine = psutil.cpu_times()
        busy_s = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0)
        return cls(time.monotonic(), server.usage(), client_s, busy_s)

    def costs(self, before: Moment, num_answered: int) -> dict[str, Any]:
        """The fields of `Figures` that tell what the time since `before` has cost."""
        took_s, client_s = self.at_s - before.at_s, self.client_s - before.client_s
        server_s = self.server.cpu_s - before.server.cpu_s
        other_s = max(0.0, self.machine_s - before.machine_s - server_s - client_s)
        return {
            "server_cpu_ms": server_s / max(1, num_answered) * 1e3,
            "client_cpu_share": client_s / took_s,
            "memory_bytes": self.server.rss_bytes,
            "pss_bytes": self.server.pss_bytes,
            "other_cpu_share": other_s / took_s / (psutil.cpu_count() or 1),
        }


def _watch(process: subprocess.Popen[str], server: Server) -> list[Moment]:
    """When Locust began to measure, and when it ended."""
    moments = []
    locust = psutil.Process(process.pid)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() in ("measuring", "measured"):
            client = locust.cpu_times()
            moments.append(Moment.now(server, client.user + client.system))
    process.wait()
    return moments


def _figures(seen: Any, before: Moment, after: Moment) -> Figures:
    latencies, first = sorted(seen["latencies_s"]), sorted(seen["first_s"])
    errors = {kind: count for kind, count in seen["errors"].items() if count}
    if not latencies:
        raise RuntimeError(f"no request was answered; errors: {errors}")
    return Figures(
        units_per_s=seen["units"] / seen["window_s"],
        requests_per_s=seen["answered"] / seen["window_s"],
        p50_ms=percentile(latencies, 50) * 1e3,
        p95_ms=percentile(latencies, 95) * 1e3,
        p99_ms=percentile(latencies, 99) * 1e3,
        first_p50_ms=percentile(first, 50) * 1e3 if first else None,
        first_p99_ms=percentile(first, 99) * 1e3 if first else None,
        num_requests=seen["begun"],
        num_errors=sum(errors.values()),
        errors=errors,
        **after.costs(before, seen["answered"]),
    )


def percentile(ordered: list[float], percent: float) -> float:
    """The smallest of the values (rising) that at least `percent` of them do not exceed."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]
