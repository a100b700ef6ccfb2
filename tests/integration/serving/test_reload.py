"""A new version takes over while requests are being answered."""

from __future__ import annotations

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
