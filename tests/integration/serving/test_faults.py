"""What clients see when something breaks under load: a replica is killed, the store is away, readers are slow
or go away.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

from mizzen.store.keys import Keys, Rights
from mizzen.store.objects import Objects

CONSTANT = 100
NUM_CLIENTS = 16
NUM_STUCK = 8
APPS = [
    {"name": "pair", "model": "adder@production", "num_cpus": 0.1, "replicas": 2},
    {"name": "solo", "model": "adder@production", "num_cpus": 0.1},
]
LARGE = 64 * 2**20
"""Bytes of a stream that a slow reader does not read."""


AWAY_S = 10.0
"""For how long the store is not there."""


@pytest.fixture(scope="module")
def headers(home) -> dict[str, str]:
    """With a key of the store's, so that the store is asked all the time."""
    key = Keys(Objects(home.settings.store_url)).create("askers", Rights())
    return {"authorization": f"Bearer {key.token}"}


@pytest.fixture(scope="module")
def server(home, launch, headers):
    home.publish({"constant": CONSTANT})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIZZEN_API_KEYS", "store")
        server = launch(home, {"apps": APPS})
    server.wait_for("serving at")
    return server


@pytest.fixture
def client(headers) -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30.0, trust_env=False, headers=headers) as client:
        yield client


@dataclass
class Askers:
    """Clients that ask without a pause, each something else, and check what they get."""

    url: str
    headers: dict[str, str]
    delay_s: float = 0.05
    answered: list[int] = field(default_factory=list)
    """The replica that gave each right answer, by its process."""
    wrong: list[str] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)
    """What got no answer, or one that says so: by what was asked, and why."""
    in_flight: set[int] = field(default_factory=set)
    """What is asked at this moment."""
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
        async with httpx.AsyncClient(timeout=60.0, trust_env=False, headers=self.headers) as client:
            turn = 0
            while not self._stop.is_set():
                turn += 1
                value = number * 1_000_000 + turn
                body = {"values": [value], "delay_s": self.delay_s}
                self.in_flight.add(value)
                try:
                    response = await client.post(f"{self.url}/v1/add", json=body)
                except httpx.HTTPError as error:
                    self.lost[value] = repr(error)
                else:
                    self._judge(value, response)
                self.in_flight.discard(value)

    def _judge(self, value: int, response: httpx.Response) -> None:
        with self._news:
            if not response.is_success:
                self.lost[value] = f"{response.status_code} {response.text[:200]}"
            elif response.json()["total"] != value + CONSTANT:
                self.wrong.append(f"{value}: {response.text}")
            else:
                self.answered.append(response.json()["pid"])
            self._news.notify_all()


def test_a_killed_replica_loses_nothing_but_what_it_had_in_flight(server, headers):
    with Askers(f"{server.url}/pair", headers) as askers:
        askers.wait_until(lambda: len(set(askers.answered)) == 2)
        askers.wait_for_more()
        victim, other = set(askers.answered)
        processes = [psutil.Process(victim)]
        os.kill(victim, signal.SIGKILL)
        # Until its sockets are closed the kernel takes requests for it.
        psutil.wait_procs(processes, timeout=30)
        in_flight = askers.in_flight | set(askers.lost)
        askers.wait_for_more()
        # And another one takes its place, so that a second loss can be borne too.
        askers.wait_until(lambda: len(set(askers.answered)) == 3)
        newcomer = (set(askers.answered) - {victim, other}).pop()
        askers.wait_until(lambda: newcomer in askers.answered[-50:])
    assert askers.wrong == []
    # Of what was in flight, the other replica has answered its part; what was sent later is not lost.
    assert set(askers.lost) <= in_flight, askers.lost
    assert victim not in askers.answered[-50:]


def test_nobody_notices_that_the_store_is_away_for_a_while(server, home, client, headers):
    store = home.folder / "store"
    elsewhere = store.rename(home.folder / "store-elsewhere")
    try:
        with Askers(f"{server.url}/pair", headers, delay_s=0.2) as askers:
            away_until_s = time.monotonic() + AWAY_S
            askers.wait_for_more()
            after = len(server.lines)
            server.process.send_signal(signal.SIGHUP)
            assert server.wait_for("not reloaded", after=after)
            askers.wait_until(lambda: time.monotonic() > away_until_s)
        assert (askers.wrong, askers.lost) == ([], {})
        assert len(set(askers.answered)) == 2
        assert client.get(f"{server.url}/pair/readyz").status_code == 200
    finally:
        shutil.rmtree(store, ignore_errors=True)  # who opens a folder's store makes the folder
        elsewhere.rename(store)
    home.publish({"constant": CONSTANT}, alias=None)
    assert server.reload().startswith("reloaded")


def ask(client: httpx.Client, server: Any, path: str = "/solo") -> dict[str, Any]:
    body = {"values": [1]}
    reply: dict[str, Any] = client.post(f"{server.url}{path}/v1/add", json=body).raise_for_status().json()
    return reply


def begin_stream(server: Any, headers: dict[str, str], body: bytes = b"", **query: Any) -> socket.socket:
    """A connection on which a stream has begun, of which nothing more is read.

    The body comes after its head, in a segment of its own, as most clients send it.
    """
    connection = socket.create_connection(("127.0.0.1", server.spec["http"]["port"]), timeout=30)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    path = "/solo/v1/stream?" + "&".join(f"{name}={value}" for name, value in query.items())
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    fields = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": len(body), **headers}
    head = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
    connection.sendall("\r\n".join([*head, "", ""]).encode())
    time.sleep(0.05)
    connection.sendall(body)
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def wait_for(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come to that"
        time.sleep(0.05)


def test_readers_that_do_not_read_cost_little_memory_and_hold_up_nobody(server, client, headers):
    replica = psutil.Process(ask(client, server)["pid"])
    before = replica.memory_info().rss
    stuck = [
        begin_stream(server, headers, pieces=LARGE // 65536, piece_bytes=65536, pause_s=0)
        for _ in range(NUM_STUCK)
    ]
    try:
        wait_for(lambda: ask(client, server)["num_streams"] == NUM_STUCK)
        with Askers(f"{server.url}/solo", headers, delay_s=0) as askers:
            askers.wait_for_more(500)
        assert (askers.wrong, askers.lost) == ([], {})
        # The streams together are many times as large as what is kept of them.
        assert replica.memory_info().rss - before < LARGE
        assert ask(client, server)["num_streams"] == NUM_STUCK
    finally:
        for connection in stuck:
            connection.close()
    wait_for(lambda: ask(client, server)["num_streams"] == 0)


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_what_nobody_waits_for_any_more_is_not_made(server, client, headers, body):
    connection = begin_stream(server, headers, body, pieces=1_000_000)
    wait_for(lambda: ask(client, server)["num_streams"] == 1)
    connection.close()
    wait_for(lambda: ask(client, server)["num_streams"] == 0, timeout_s=10)
