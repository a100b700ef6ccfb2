"""What is measured: which servers answer for a workload, with which requests, in which order.

Mizzen runs as users run it, `mizzen serve FILE` with HAProxy in front; a peer runs the same exported files. A
round measures each server once, one after another with nothing else running; the next round goes the other
way round, so that a machine that drifts does so for all of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import wrk
from measure import Figures, Locust
from mizzen import local_ray
from servers import Server

PEERS = Path(__file__).parent / "peers"
MIZZEN = "mizzen"
FASTAPI, LITSERVE = "fastapi", "litserve"
NUM_CLIENTS = 32
LOADED = 0.7
"""Of what a peer can do at most: the rate at which its latency is taken."""
Measured = dict[str, dict[str, Figures]]
"""By server and measurement."""


@dataclass(frozen=True)
class Times:
    """How long each measurement takes."""

    warm_up_s: float
    measure_s: float


@dataclass(frozen=True)
class TensorPlan:
    """One of the workloads that answer at once."""

    workload: str
    path: str
    folder: Path
    """The exported model."""
    inputs: Path
    more_inputs: Mapping[str, Path]
    """Other requests, of which the throughput is measured too, by the name of the measurement."""
    light_rate: float
    """Requests a second at which everybody's latency is taken."""
    carries: Mapping[str, float]
    """How many times a peer's load Mizzen must carry at the peer's p99; empty if nobody asks for that."""
    options: Mapping[str, Any]
    """Of Mizzen's application in its serve file."""

    def units_of(self, inputs: Path) -> int:
        """Requests, or series, that one request is."""
        with inputs.open() as file:
            return len(json.loads(file.readline()).get("inputs", [None]))


@dataclass(frozen=True)
class Bench:
    """What every plan needs."""

    locust: Locust
    scratch: Path
    times: Times
    pythons: Mapping[str, Path]
    say: Callable[[str], None]


def serve(bench: Bench, workload: str, options: Mapping[str, Any]) -> Server:
    """`mizzen serve` with one application."""
    port = local_ray.free_port()
    app = {"name": workload, "model": f"{workload}@production", **options}
    file = bench.scratch / f"serve-{workload}.yaml"
    file.write_text(yaml.safe_dump({"http": {"port": port}, "apps": [app]}))
    return Server(
        name=MIZZEN,
        command=[str(Path(sys.executable).with_name("mizzen")), "serve", str(file)],
        url=f"http://127.0.0.1:{port}/{workload}",
        ready="/readyz",
        log=bench.scratch / f"{MIZZEN}-{workload}.log",
        environ={"MIZZEN_API_KEYS": ""},
    )


def peer(bench: Bench, name: str, plan: TensorPlan) -> Server:
    """FastAPI or LitServe with the same files and as many threads."""
    port = local_ray.free_port()
    script = PEERS / f"{name}_app.py"
    threads = str(plan.options.get("num_threads", 0))
    return Server(
        name=name,
        command=[str(bench.pythons[name]), str(script), plan.workload, str(plan.folder), str(port), threads],
        url=f"http://127.0.0.1:{port}",
        ready={FASTAPI: "/openapi.json", LITSERVE: "/health"}[name],
        log=bench.scratch / f"{name}-{plan.workload}.log",
    )


class TensorRounds:
    """The rounds of one such workload."""

    def __init__(self, plan: TensorPlan, bench: Bench, check: Callable[[str, list[Any]], None]) -> None:
        """`check` is given each server's answers to the same requests, and raises if they differ."""
        self.plan, self.bench, self.check = plan, bench, check
        self.rates: dict[str, float] = {}
        """A peer's load, from the first round on, by its name."""

    def round(self, number: int) -> Measured:
        """Measure every server once."""
        # The peers come first in the first round: what they carry decides what Mizzen must.
        order = [FASTAPI, LITSERVE, MIZZEN] if number % 2 == 0 else [MIZZEN, LITSERVE, FASTAPI]
        return {name: self._measure(name) for name in order}

    def _measure(self, name: str) -> dict[str, Figures]:
        plan, bench = self.plan, self.bench
        server = serve(bench, plan.workload, plan.options) if name == MIZZEN else peer(bench, name, plan)
        with server:
            self.check(name, ask_some(server, plan.path, plan.inputs))
            found = {"saturated": self._run(server, plan.inputs, clients=NUM_CLIENTS)}
            for measurement, inputs in plan.more_inputs.items():
                found[measurement] = self._run(server, inputs, clients=NUM_CLIENTS)
            found["light"] = self._run(server, plan.inputs, rate=plan.light_rate)
            if name == MIZZEN:
                for other, times in plan.carries.items():
                    found[f"{times:g}x-{other}"] = self._run(
                        server, plan.inputs, rate=times * self.rates[other]
                    )
            elif name in plan.carries:
                rate = self.rates.setdefault(name, LOADED * found["saturated"].requests_per_s)
                found["loaded"] = self._run(server, plan.inputs, rate=rate)
        return found

    def _run(self, server: Server, inputs: Path, **how: float) -> Figures:
        times = self.bench.times
        if "clients" in how and wrk.installed():
            figures = wrk.saturate(
                server,
                self.plan.path,
                inputs,
                self.bench.scratch,
                clients=int(how["clients"]),
                warm_up_s=times.warm_up_s,
                measure_s=times.measure_s,
                units_a_request=self.plan.units_of(inputs),
            )
        else:
            arrivals = {**how, "warm_up": times.warm_up_s, "measure": times.measure_s}
            figures = self.bench.locust.run(self.plan.workload, inputs, server, arrivals)
        wanted = ", ".join(f"{name} {value:.0f}" for name, value in how.items())
        self.bench.say(
            f"  {server.name:9} {wanted:12} {figures.units_per_s:8.1f}/s  p50 {figures.p50_ms:7.2f} ms  p99"
            f" {figures.p99_ms:7.2f} ms  {figures.server_cpu_ms:6.3f} CPU-ms  {figures.num_errors} errors"
        )
        return figures


def ask_some(server: Server, path: str, inputs: Path, num: int = 20) -> list[Any]:
    """Answers to the first requests, one after another."""
    import urllib.request

    answers = []
    for line in inputs.read_bytes().splitlines()[:num]:
        request = urllib.request.Request(
            server.url + path, data=line, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            answers.append(json.loads(answer.read()))
    return answers
