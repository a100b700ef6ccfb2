"""A new version takes over while requests are being answered."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

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


def test_no_request_is_dropped_when_a_new_version_takes_over(server, home, client, load_on):
    urls = [f"{server.url}/{app['name']}" for app in APPS]
    with load_on(urls) as load:
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


def test_a_canary_comes_changes_its_share_and_goes_while_nobody_notices(server, home, client, load_on):
    first = int(client.get(f"{server.url}/double/readyz").json()["version"])
    constant = client.post(f"{server.url}/double/v1/add", json={"values": [0]}).json()["total"]
    second = home.publish({"constant": 900}, alias="candidate").version
    file = Path(server.process.args[-1])
    kept = file.read_text()

    def reload_with(**more: object) -> str:
        double = {**APPS[1], **more}
        file.write_text(yaml.safe_dump({**server.spec, "apps": [APPS[0], double]}))
        return server.reload()

    def met(num: int) -> dict[int, int]:
        """Which versions answer, and how many of `num` visitors each."""
        versions = Counter()
        for n in range(num):
            answer = client.post(
                f"{server.url}/double/v1/add",
                json={"values": [1]},
                headers={"mizzen-session": f"visitor-{n}"},
            )
            version = int(answer.headers["mizzen-version"])
            assert answer.json()["total"] == {first: constant, second: 900}[version] + 1
            versions[version] += 1
        return dict(versions)

    def shown(name: str) -> list[tuple[dict[str, str], float]]:
        text = client.get(f"{server.url}/double/metrics").text
        lines = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
        found = [(dict(re.findall(r'(\w+)="([^"]*)"', inside)), float(value)) for inside, value in lines]
        return [(labels, value) for labels, value in found if labels["app"] == "double"]

    def weights() -> dict[tuple[str, str], float]:
        return {(of["role"], of["version"]): value for of, value in shown("mizzen_traffic_weight_ratio")}

    def answered(version: str) -> float:
        return sum(value for of, value in shown("mizzen_requests_total") if of["version"] == version)

    before = replicas(server)
    candidate = {"model": "adder@candidate", "weight": 0.3}
    answered_by_the_shadow = answered("1")
    with load_on([f"{server.url}/double"]) as load:
        load.wait_for_more()
        assert f"adder@{second}" in reload_with(canary=candidate, shadow={"model": "adder@1", "share": 1})
        parts = met(100)
        assert 15 <= parts[second] <= 45
        assert met(100) == parts  # the same visitors meet the same version, in both replicas
        shares = weights()
        assert shares.pop(("shadow", "1"), 1.0) == 1.0
        assert shares == {("primary", str(first)): 0.7, ("canary", str(second)): 0.3}
        assert reload_with(canary={**candidate, "weight": 0}).startswith("reloaded")
        assert met(30) == {first: 30}
        load.wait_for_more()
    assert load.problems == []
    assert {status for _, status, _, _ in load.answers} == {200}
    copies = shown("mizzen_shadow_requests_total")
    assert {labels["version"] for labels, _ in copies} == {"1"}
    assert sum(value for labels, value in copies if labels["outcome"] in ("same", "different")) > 0
    assert answered("1") == answered_by_the_shadow
    file.write_text(kept)
    assert server.reload().startswith("reloaded")
    assert met(30) == {first: 30}
    assert weights() == {("primary", str(first)): 1.0}
    assert replicas(server) == before  # none was started anew


FOLLOWS = """
import asyncio
from mizzen import metrics, settings, totals
from mizzen.serving.app import Replica
from mizzen.store.store import ModelStore

app = {"name": "follower", "model": "follow@production", "canary": {"model": "follow@candidate", "weight": 1}}
store = ModelStore(settings.current().store_url)

async def version(replica):
    sent = []
    async def send(message):
        sent.append(message)
    scope = {"type": "http", "method": "GET", "path": "/v1/items/3", "query_string": b"", "headers": []}
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    await replica.__serve_build_asgi_app__()(scope, receive, send)
    return dict(sent[0]["headers"])[b"mizzen-version"].decode()

async def until(replica, wanted):
    async with asyncio.timeout(60):
        while await version(replica) != wanted:
            await asyncio.sleep(0.01)
    print(wanted, end=" ", flush=True)

async def main():
    replica = Replica({"app": app, "watch_every_s": 0.05})
    await replica.reconfigure({})
    await until(replica, "2")
    store.set_alias("follow", 1, "candidate")  # rolled back
    await until(replica, "1")
    store.set_alias("follow", 3, "candidate")  # which cannot be loaded
    async with asyncio.timeout(60):
        while not sum(value for _, value in totals.samples(metrics.RELOAD_FAILURES)):
            await asyncio.sleep(0.01)
    await until(replica, "1")
    store.set_alias("follow", 2, "candidate")
    await until(replica, "2")
    store.set_alias("follow", 2, "production")  # promoted
    async with asyncio.timeout(60):
        while replica.roles.first.version != 2:
            await asyncio.sleep(0.01)
    store.set_alias("follow", 1, "candidate")
    await until(replica, "1")
    print(replica.roles.first.version)

asyncio.run(main())
"""


def test_on_a_cluster_a_replica_follows_the_canarys_alias_too(home):
    """Without Ray: as in a pod, where nobody but the replica looks at the store."""
    home.publish({"constant": 1}, name="follow")
    home.publish({"constant": 2}, alias="candidate", name="follow")
    home.publish({"nothing": "of use"}, alias=None, name="follow")
    own = {"MIZZEN_HOME": str(home.folder / "follower"), "MIZZEN_STORE": home.settings.store_url}
    own["MIZZEN_API_KEYS"] = "none"
    done = subprocess.run(
        [sys.executable, "-c", FOLLOWS],
        env={**home.environ, **own},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stdout.split() == ["2", "1", "1", "2", "1", "2"], done.stderr


def replicas(server) -> set[int]:
    """Processes of the replicas."""
    names = [(process.pid, (process.cmdline() or [""])[0]) for process in server.tree()]
    return {pid for pid, name in names if name.startswith("ray::ServeReplica")}
