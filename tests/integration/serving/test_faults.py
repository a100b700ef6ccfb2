"""What clients see when something breaks under load: a replica is killed, readers are slow or go away.

Every answer is checked by its sum, so one that was given to another request, or by another version, shows.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.multiprocess import MultiProcessCollector

from mizzen import metrics

CONSTANT = 100
NUM_CLIENTS = 16
APPS = [{"name": "pair", "model": "adder@production", "num_cpus": 0.1, "replicas": 2}]
LARGE = 64 * 2**20
"""Bytes of a stream that a slow reader does not read."""


@pytest.fixture(scope="module")
def server(home, launch):
    home.publish({"constant": CONSTANT})
    server = launch(home, {"apps": APPS})
    server.wait_for("serving at")
    return server


@dataclass
class Askers:
    """Clients that ask without a pause, each something else, and check what they get."""

    url: str
    delay_s: float = 0.05
    answered: list[int] = field(default_factory=list)
    """The replica that gave each right answer, by its process."""
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Requests that got no answer, or one that says so."""
    _news: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> Askers:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=90)
        assert not self._thread.is_alive(), "a request hangs"

    def wait_until(self, holds: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(holds, timeout=90), (self.lost, len(self.answered))

    def wait_for_more(self, count: int = 200) -> None:
        goal = len(self.answered) + count
        self.wait_until(lambda: len(self.answered) >= goal)

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask(number) for number in range(NUM_CLIENTS)))

    async def _ask(self, number: int) -> None:
        async with httpx.AsyncClient(timeout=60.0, trust_env=False) as client:
            turn = 0
            while not self._stop.is_set():
                turn += 1
                value = number * 1_000_000 + turn
                body = {"values": [value], "delay_s": self.delay_s}
                try:
                    response = await client.post(f"{self.url}/v1/add", json=body)
                except httpx.HTTPError as error:
                    self.lost.append(repr(error))
                    continue
                self._judge(value, response)

    def _judge(self, value: int, response: httpx.Response) -> None:
        with self._news:
            if not response.is_success:
                self.lost.append(f"{response.status_code} {response.text[:200]}")
            elif response.json()["total"] != value + CONSTANT:
                self.wrong.append(f"{value}: {response.text}")
            else:
                self.answered.append(response.json()["pid"])
            self._news.notify_all()


def in_flight_at_its_end(folder: Path, pid: int, copy: Path) -> float:
    """How many requests a killed replica had: its own count, which lies in a file that outlives it."""
    file = shutil.copy(folder / f"gauge_livesum_{pid}.db", copy)
    merge: Any = MultiProcessCollector.merge
    found = [metric for metric in merge([file]) if metric.name == metrics.REQUESTS_IN_FLIGHT.name]
    return sum(sample.value for metric in found for sample in metric.samples)


def test_a_killed_replica_loses_at_most_what_it_was_working_on(server, home, tmp_path):
    with Askers(f"{server.url}/pair") as askers:
        askers.wait_until(lambda: len(set(askers.answered)) == 2)
        askers.wait_for_more()
        victim, other = set(askers.answered)
        processes = [psutil.Process(victim)]
        os.kill(victim, signal.SIGKILL)
        psutil.wait_procs(processes, timeout=10)
        had = in_flight_at_its_end(home.settings.metrics_dir, victim, tmp_path / f"gauge_livesum_{victim}.db")
        askers.wait_for_more()
        # And another one takes its place, so that a second loss can be borne too.
        askers.wait_until(lambda: len(set(askers.answered)) == 3)
        newcomer = (set(askers.answered) - {victim, other}).pop()
        askers.wait_until(lambda: askers.answered[-50:].count(newcomer) > 0)
    assert askers.wrong == []
    assert len(askers.lost) <= had, askers.lost
    assert had <= NUM_CLIENTS
    assert victim not in askers.answered[-50:]
