"""API keys from the store, on two replicas of a `mizzen serve` that listens beyond loopback as well."""

from __future__ import annotations

import concurrent.futures
import ipaddress
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest

from mizzen.local_ray import LOOPBACK, free_port
from mizzen.serving.key_store import REFRESH_S
from mizzen.serving.limits import MINUTE_S
from mizzen.store.keys import Keys, NewKey, Rights
from mizzen.store.objects import Objects

OUTSIDE = "127.0.0.2"
"""Stands for another machine's way to us: what listens on 127.0.0.1 alone does not answer there."""
NUM_REPLICAS = 2
NUM_REQUESTS, NUM_TOKENS = 30, 50
PATIENCE_S = 60.0
"""For the machine; what takes effect within seconds is waited for as long as this."""
CANARY = "canary-7f3a-in-a-prompt"
BODY = {"values": [1]}


@dataclass(frozen=True)
class Given:
    """Keys that are there before the server starts, so that every replica knows them."""

    everything: NewKey
    reads: NewKey
    requests: NewKey
    tokens: NewKey
    short_lived: NewKey


@pytest.fixture(scope="module")
def keys(home) -> Keys:
    return Keys(Objects(home.settings.store_url))


@pytest.fixture(scope="module")
def given(keys: Keys) -> Given:
    soon = datetime.now(UTC) + timedelta(seconds=5)
    return Given(
        everything=keys.create("team", Rights()),
        reads=keys.create("reader", Rights(apps=("adder",), actions=("read",))),
        requests=keys.create("limited", Rights(requests_per_minute=NUM_REQUESTS)),
        tokens=keys.create("metered", Rights(tokens_per_minute=NUM_TOKENS)),
        short_lived=keys.create("guest", Rights(expires_at=soon)),
    )


@pytest.fixture(scope="module")
def server(home, launch, given):
    """Open to others, so it would not start without a key."""
    home.publish({"constant": 100})
    apps = [
        {"name": "adder", "model": "adder@production", "replicas": NUM_REPLICAS, "num_cpus": 0.1},
        {"name": "other", "model": "adder@production", "num_cpus": 0.1},
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIZZEN_API_KEYS", "store")
        server = launch(home, {"http": {"host": "0.0.0.0", "port": free_port()}, "apps": apps})
    server.wait_for("serving at")
    return server


Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(server, client) -> Ask:
    def ask(key: NewKey | None, path: str = "/adder/v1/add", **more) -> httpx.Response:
        headers = {"authorization": f"Bearer {key.token}"} if key else more.pop("headers", {})
        url = f"http://{more.pop('host', LOOPBACK)}:{server.spec['http']['port']}{path}"
        method = "GET" if more.get("json", BODY) is None else "POST"
        return client.request(method, url, headers=headers, **{"json": BODY, **more})

    return ask


def wait_until(is_so: Callable[[], bool]) -> float:
    """Seconds until it was so."""
    began_s = time.monotonic()
    while not is_so():
        assert time.monotonic() - began_s < PATIENCE_S
    return time.monotonic() - began_s


def test_it_says_that_there_is_no_tls(server):
    assert "no TLS" in server.wait_for("warning:")


def test_a_key_is_asked_for_at_every_address(ask, given):
    for host in (LOOPBACK, OUTSIDE):
        assert ask(None, host=host).status_code == 401
        assert ask(given.everything, host=host).json()["total"] == 101


def test_a_key_that_has_expired_says_so_to_whoever_has_it(ask, given):
    refused = ask(given.short_lived)
    assert refused.status_code == 401
    assert "has expired" in refused.json()["error"]["message"]
    assert "expired" not in ask(None).text


def test_a_key_that_is_made_later_is_accepted_and_one_that_is_revoked_is_refused(ask, keys):
    made = keys.create("late", Rights(actions=("infer",)))
    wait_until(lambda: all(ask(made).is_success for _ in range(6)))
    keys.revoke(made.record.id)
    took_s = wait_until(lambda: all(ask(made).status_code == 401 for _ in range(6)))
    assert took_s < 3 * REFRESH_S


def test_a_key_does_only_what_its_scope_says(ask, given):
    assert ask(given.reads, "/adder/examples", json=None).is_success
    refused = ask(given.reads)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert "--action infer" in refused.json()["error"]["message"]
    elsewhere = ask(given.reads, "/other/examples", json=None)
    assert elsewhere.status_code == 403
    assert "--app other" in elsewhere.json()["error"]["message"]


def test_replicas_together_answer_as_many_requests_as_the_key_may_make(ask, given):
    began_s = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ask(given.requests), range(3 * NUM_REQUESTS)))
    came_in = (time.monotonic() - began_s) * NUM_REQUESTS / MINUTE_S
    answered = [answer for answer in answers if answer.is_success]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert NUM_REQUESTS <= len(answered) <= NUM_REQUESTS + came_in
    assert len(answered) + len(refused) == len(answers)
    assert len({answer.json()["pid"] for answer in answered}) == NUM_REPLICAS
    for answer in refused:
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(answer.headers["retry-after"]) <= MINUTE_S / NUM_REQUESTS + 1
        assert answer.headers["x-ratelimit-limit-requests"] == str(NUM_REQUESTS)
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"


def test_tokens_are_charged_after_the_answer_and_refused_when_none_are_left(ask, given):
    cost = NUM_TOKENS // 2 - 5
    answers = []
    while not answers or answers[-1].is_success:
        answers.append(ask(given.tokens, json={"values": [1] * cost}))
        assert len(answers) < 20
    # Three of them empty it; each replica may have one more charge that it has not sent yet.
    assert 3 <= len(answers) - 1 <= 3 + NUM_REPLICAS
    assert answers[-1].status_code == 429
    assert "tokens a minute" in answers[-1].json()["error"]["message"]
    assert answers[-1].headers["x-ratelimit-remaining-tokens"] == "0"
    assert int(answers[-1].headers["retry-after"]) > 1


def test_nothing_but_the_ingress_listens_beyond_loopback(server):
    """Beside the ports that `test_closed` lists: Ray's, one a replica, which want Ray's token."""
    ports: dict[str, list[int]] = {}
    for process in server.tree():
        try:
            name = (process.cmdline() or [process.name()])[0]
            connections = process.net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            continue  # a worker that Ray had started in reserve
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN and not is_loopback(connection.laddr.ip):
                ports.setdefault(Path(name).name.partition(":model")[0], []).append(connection.laddr.port)
    assert ports.pop("haproxy") == [server.spec["http"]["port"]]
    assert {name: len(found) for name, found in ports.items()} == {
        "ray::ServeReplica:adder": NUM_REPLICAS,
        "ray::ServeReplica:other": 1,
    }


def test_neither_keys_nor_prompts_are_in_any_log_or_series(ask, given, server):
    prompt = {"values": [1], CANARY: CANARY}
    headers = {"x-api-key": given.everything.token}
    assert ask(None, json=prompt, headers=headers).status_code == 400
    assert ask(None, f"/adder/v1/add?api_key={given.everything.token}&prompt={CANARY}").status_code == 401
    assert ask(given.everything, f"/adder/v1/fail/{CANARY}", json=None).status_code == 500
    assert ask(given.everything, f"/adder/{CANARY}?x={CANARY}", json=None).status_code == 404
    series = ask(given.everything, "/adder/metrics", json=None).text
    secrets = [CANARY, *(key.token.rpartition("_")[2] for key in vars(given).values())]
    logs = [path for path in ray_folder(server).rglob("*") if path.is_file() and path.stat().st_size]
    assert any("replica" in path.name for path in logs)
    assert any("haproxy" in path.name for path in logs)
    for secret in secrets:
        assert secret not in series
        assert not any(secret in line for line in server.lines)
        for path in logs:
            assert secret.encode() not in path.read_bytes(), path


REPLICA = """
import asyncio
from mizzen.serving.app import Replica
replica = Replica({"app": {"name": "adder", "model": "adder@1"}})
asyncio.run(replica.reconfigure({"first": {"name": "adder", "version": 1, "digest": "0" * 64}}))
"""


def test_a_replica_that_is_told_nothing_of_keys_does_not_start(home):
    """As in a pod whose template lacks the variable: there the ingress listens on every interface."""
    environ = {**home.environ, "MIZZEN_API_KEYS": ""}
    done = subprocess.run(
        [sys.executable, "-c", REPLICA], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "ServingError: there are no API keys" in done.stderr.splitlines()[-1]


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def ray_folder(server) -> Path:
    """Everything that this server's Ray and HAProxy write."""
    (folder,) = {
        Path(part.removeprefix("--session-dir=")).parents[1]
        for process in server.tree()
        for part in process.cmdline()
        if part.startswith("--session-dir=")
    }
    return folder
