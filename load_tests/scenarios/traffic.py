"""How requests are sent and measured in every scenario: at an arrival rate, by clients in a circle, in waves.

- `--rate R`: requests begin at the times of a Poisson process of R a second, whatever becomes of those before
  (an open system). Latency counts from the time at which a request was meant to begin, so a server that
  stalls cannot hold back the requests that would have seen it stall (coordinated omission).
- `--clients N`: N clients, each sending its next request when the last is answered (a closed system): the
  most that a server can do.
- `--waves N`: N requests at once, and the next N when all are answered.

What begins before `--warm-up` is over is sent, but not measured. Locust is the process around it: its users'
own loops cannot do the first and the third. All of it depends on `--seed` alone: two servers of one run get
the same requests at the same times. It judges nothing.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, constant, events, task

MAX_IN_FLIGHT = 1000
"""More than that at once are errors: this process could not keep the times that it promised."""
DRAIN_S = 15.0
"""How long answers are waited for when the last request has begun."""


@events.init_command_line_parser.add_listener
def _arguments(parser: Any) -> None:
    group = parser.add_argument_group("how requests arrive")
    group.add_argument("--rate", type=float, default=0.0, help="requests a second, as a Poisson process")
    group.add_argument("--clients", type=int, default=0, help="clients in a circle")
    group.add_argument("--waves", type=int, default=0, help="requests at once, again and again")
    group.add_argument("--inputs", default="", help="a file of JSON lines, one request body each")
    group.add_argument("--warm-up", type=float, default=2.0, help="seconds that are not measured")
    group.add_argument("--measure", type=float, default=10.0, help="seconds that are measured")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--result", default="", help="where the figures go, as JSON")


@dataclass
class Measured:
    """What one run has seen between the end of its warm-up and its end."""

    window_s: float = 0.0
    begun: int = 0
    units: int = 0
    """Of what was answered within the window: requests, series or tokens, as the scenario counts."""
    answered: int = 0
    """Within the window."""
    latencies_s: list[float] = field(default_factory=list)
    """Of requests that have begun within the window and were answered well."""
    first_s: list[float] = field(default_factory=list)
    """For streams: to the first piece of text, instead of to the end."""
    errors: dict[str, int] = field(default_factory=dict)


class Failed(Exception):
    """A request was answered wrongly or not at all; its text is the kind of error."""


@dataclass
class Answer:
    """What a scenario says of an answer that is right."""

    units: int = 1
    first_s: float | None = None
    """When the first piece came, on the clock of `time.perf_counter`."""


class Traffic(FastHttpUser):
    """One source of requests; a scenario says what one request is."""

    abstract = True
    wait_time = constant(0)
    network_timeout = 30.0
    connection_timeout = 10.0
    max_retries = 0
    max_redirects = 0
    concurrency = MAX_IN_FLIGHT

    def ask(self, body: str) -> Answer:
        """Send one request and look at its answer. Raises `Failed`."""
        raise NotImplementedError

    @task
    def run_once(self) -> None:
        """The whole measurement; then Locust ends."""
        _Run(self, self.environment.parsed_options).go()
        self.environment.runner.quit()
        gevent.sleep(3600)

    def post(self, path: str, body: str, **more: Any) -> Any:
        """The response; `Failed` unless it is 200."""
        response = self.client.post(path, data=body, headers={"content-type": "application/json"}, **more)
        if response.status_code != 200:
            raise Failed(f"status {response.status_code}")
        return response


class _Run:
    """One measurement."""

    def __init__(self, source: Traffic, options: Any) -> None:
        self.source, self.options = source, options
        self.bodies = _bodies(Path(options.inputs), None if options.waves else options.seed)
        self.measured = Measured(window_s=options.measure)
        self.errors: Counter[str] = Counter()
        self.begins_s = 0.0
        self.ends_s = 0.0

    def go(self) -> None:
        options = self.options
        self.begins_s = time.perf_counter() + options.warm_up
        self.ends_s = self.begins_s + options.measure
        if options.waves:
            self.waves(options.waves)
        else:
            told = [
                gevent.spawn_later(options.warm_up, _tell, "measuring"),
                gevent.spawn_later(options.warm_up + options.measure, _tell, "measured"),
            ]
            if options.rate:
                self.open(options.rate)
            else:
                self.closed(options.clients)
            gevent.joinall(told)
        self.measured.errors = dict(self.errors)
        Path(options.result).write_text(json.dumps(asdict(self.measured)))

    def open(self, rate: float) -> None:
        arrivals, pool = random.Random(self.options.seed), Pool()
        due_s = time.perf_counter()
        while due_s < self.ends_s:
            gevent.sleep(max(0.0, due_s - time.perf_counter()))
            if len(pool) >= MAX_IN_FLIGHT:
                self.errors["too many in flight"] += 1
            else:
                pool.spawn(self.one, due_s, next(self.bodies))
            due_s += arrivals.expovariate(rate)
        pool.join(timeout=DRAIN_S)
        self.errors["not answered in time"] += len(pool)
        pool.kill()

    def closed(self, num_clients: int) -> None:
        def client() -> None:
            while (now_s := time.perf_counter()) < self.ends_s:
                self.one(now_s, next(self.bodies))

        _together(client, num_clients)

    def waves(self, num_requests: int) -> None:
        """Whole waves, one at least: with all their tokens, and all the time that they took."""
        taken_s = 0.0
        while (now_s := time.perf_counter()) < self.ends_s or not taken_s:
            if now_s >= self.begins_s and not taken_s:
                _tell("measuring")
            bodies = [next(self.bodies) for _ in range(num_requests)]
            gevent.joinall([gevent.spawn(self.one, now_s, body) for body in bodies], raise_error=True)
            if now_s >= self.begins_s:
                taken_s += time.perf_counter() - now_s
        _tell("measured")
        self.measured.window_s = taken_s

    def one(self, due_s: float, body: str) -> None:
        """Send a request that was to begin at `due_s`."""
        whole = bool(self.options.waves)
        counts = self.begins_s <= due_s and (whole or due_s < self.ends_s)
        self.measured.begun += counts
        try:
            answer = self.source.ask(body)
        except Failed as failure:
            self.errors[str(failure)] += counts
            return
        except Exception as cause:
            # A connection that breaks shows itself in many ways; each is an error of the server's.
            self.errors[type(cause).__name__] += counts
            return
        done_s = time.perf_counter()
        if counts if whole else self.begins_s <= done_s < self.ends_s:
            self.measured.answered += 1
            self.measured.units += answer.units
        if counts:
            self.measured.latencies_s.append(done_s - due_s)
            if answer.first_s is not None:
                self.measured.first_s.append(answer.first_s - due_s)


def _tell(moment: str) -> None:
    """Whoever started this process looks at the server at this moment."""
    print(moment, flush=True)


def _together(function: Callable[[], None], times: int) -> None:
    gevent.joinall([gevent.spawn(function) for _ in range(times)], raise_error=True)


def _bodies(file: Path, seed: int | None) -> Iterator[str]:
    """The lines of `file` for ever, each time in another order unless `seed` is None."""
    lines = file.read_text().splitlines()
    order = random.Random(seed)
    while True:
        if seed is not None:
            order.shuffle(lines)
        yield from lines
