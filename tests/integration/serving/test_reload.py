"""A new version takes over while requests are being answered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import yaml

APPS = [
    {"name": "single", "model": "adder@production", "num_cpus": 0.1},
    {"name": "double", "model": "adder@production", "num_cpus": 0.1, "replicas": 2},
]


@pytest.fixture(scope="module")
def server(home, launch):
    home.publish({"constant": 100})
    server = launch(home, {"apps": APPS})
    server.wait_for("serving at")
    return server


@dataclass
class Load:
    """Clients that ask without a pause, some on one connection, some on a new one each time."""

    urls: list[str]
    answers: list[tuple[str, int, str, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    enough: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def wait_for_more(self, count: int = 100) -> None:
        """Return after `count` more answers."""
        goal = len(self.answers) + count
        while len(self.answers) < goal:
            self.enough.clear()
            assert self.enough.wait(60), "no answers come"

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask(url, kept) for url in self.urls for kept in (True, True, False)))

    async def _ask(self, url: str, kept: bool) -> None:
        client = httpx.AsyncClient(timeout=60.0, trust_env=False)
        while not self._stop.is_set():
            if not kept:
                await client.aclose()
                client = httpx.AsyncClient(timeout=60.0, trust_env=False)
            try:
                response = await client.post(f"{url}/v1/add", json={"values": [1], "delay_s": 0.05})
            except httpx.HTTPError as error:
                self.problems.append(repr(error))
                continue
            total = response.json().get("total", float("nan"))
            version = response.headers.get("mizzen-version", "")
            self.answers.append((url, response.status_code, version, total))
            self.enough.set()
        await client.aclose()


def test_no_request_is_dropped_when_a_new_version_takes_over(server, home, client):
    urls = [f"{server.url}/{app['name']}" for app in APPS]
    with Load(urls) as load:
        load.wait_for_more()
        for constant in (200, 300):
            manifest = home.publish({"constant": constant})
            said = server.reload()
            assert said == f"reloaded: adder@{manifest.version}, adder@{manifest.version}"
            load.wait_for_more()
    assert load.problems == []
    assert Counter(status for _, status, _, _ in load.answers) == {200: len(load.answers)}
    assert {(version, total) for _, _, version, total in load.answers} == {("1", 101), ("2", 201), ("3", 301)}
    for url in urls:
        response = client.post(f"{url}/v1/add", json={"values": [1]})
        assert response.headers["mizzen-version"] == "3"
        # Older versions go from memory soon after: Serve's frozen garbage would keep the first for ever.
        deadline_s = time.monotonic() + 30
        while response.json()["num_endpoints"] > 1 and time.monotonic() < deadline_s:
            response = client.post(f"{url}/v1/add", json={"values": [1], "delay_s": 0.2})
        assert response.json()["num_endpoints"] == 1


def test_a_version_that_cannot_be_loaded_leaves_the_one_before_in_place(server, home, client):
    before = client.post(f"{server.url}/single/v1/add", json={"values": [1]}).headers["mizzen-version"]
    broken = home.publish({"nothing": "of use"})
    said = server.reload()
    assert said.startswith("not reloaded")
    assert f"adder@{broken.version}" in said
    assert client.get(f"{server.url}/single/readyz").json()["version"] == int(before)
    mended = home.publish({"constant": 400})
    assert server.reload().startswith("reloaded")
    response = client.post(f"{server.url}/single/v1/add", json={"values": [1]})
    assert (response.json()["total"], response.headers["mizzen-version"]) == (401, str(mended.version))


def test_a_serve_file_with_an_unknown_model_changes_nothing(server, client):
    before = client.get(f"{server.url}/single/readyz").json()
    file = Path(server.process.args[-1])
    kept = file.read_text()
    third = {"name": "third", "model": "no-such-model"}
    file.write_text(yaml.safe_dump({**server.spec, "apps": [*APPS, third]}))
    said = server.reload()
    file.write_text(kept)
    assert said.startswith("not reloaded")
    assert "no-such-model" in said
    assert client.get(f"{server.url}/single/readyz").json() == before
