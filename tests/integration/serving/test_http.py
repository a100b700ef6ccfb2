"""What a client sees of a served model, over the real ingress."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

APPS = [
    {
        "name": "adder",
        "model": "adder@production",
        "replicas": 2,
        "num_cpus": 0.1,
        # Adding is done before the next request is read: only who waits for others meets them.
        "batching": {"wait_s": 0.05},
    },
    {
        "name": "first",
        "model": "adder@1",
        "route_prefix": "/old/adder",
        "options": {"scale": 10},
        "num_cpus": 0.1,
        "max_request_bytes": 2048,
    },
    {
        "name": "narrow",
        "model": "adder",
        "num_cpus": 0.1,
        "max_ongoing_requests": 1,
        "max_queued_requests": 1,
        "batching": {"max_batch_size": 1},
    },
]


@pytest.fixture(scope="module")
def server(home, launch):
    home.publish({"constant": 100})
    home.publish({"constant": 200})
    server = launch(home, {"apps": APPS})
    server.wait_for("serving at")
    return server


def error_of(response: httpx.Response) -> dict[str, object]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, object] = body["error"]
    return error


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of the lines of `name` that have these labels."""
    total = 0.0
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line)
        if found and all(f'{key}="{value}"' in found[1] for key, value in labels.items()):
            total += float(found[2])
    return total


def test_two_versions_are_served_side_by_side_and_every_answer_names_its_own(server, client):
    new = client.post(f"{server.url}/adder/v1/add", json={"values": [1, 2]})
    old = client.post(f"{server.url}/old/adder/v1/add", json={"values": [1, 2]})
    assert (new.status_code, new.json()["total"], new.headers["mizzen-version"]) == (200, 203, "2")
    assert (old.status_code, old.json()["total"], old.headers["mizzen-version"]) == (200, 130, "1")
    assert new.headers["mizzen-model"] == old.headers["mizzen-model"] == "adder"
    assert len({new.headers["mizzen-digest"], old.headers["mizzen-digest"]}) == 2


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "param", "code"),
    [
        ("POST", "/v1/add", b'{"values": [1', 400, None, "malformed_json"),
        ("POST", "/v1/add", b"{}", 400, "values", "invalid_value"),
        ("POST", "/v1/add", b'{"values": [1, "x"]}', 400, "values.1", "invalid_value"),
        ("POST", "/v1/add", b'{"values": [1], "more": 1}', 400, "more", "invalid_value"),
        ("POST", "/v1/add", b'{"values": [-1]}', 400, "values", "invalid_request"),
        ("POST", "/v1/add", b"[]", 400, None, "invalid_value"),
        ("GET", "/v1/items/x", b"", 400, "item", "invalid_value"),
        ("GET", "/nothing/here", b"", 404, None, "not_found"),
        ("GET", "/v1/add", b"", 405, None, "method_not_allowed"),
        ("GET", "/v1/fail/overloaded", b"", 429, None, "overloaded"),
        ("GET", "/v1/fail/unexpectedly", b"", 500, None, "internal_error"),
    ],
)
def test_a_bad_request_gets_one_shape_of_error_that_names_the_field(
    server, client, method, path, content, status, param, code
):
    response = client.request(
        method, f"{server.url}/adder{path}", content=content, headers={"content-type": "application/json"}
    )
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert response.headers["mizzen-model"] == "adder"
    assert response.headers["mizzen-request-id"]
    assert "secret" not in response.text
    assert "Traceback" not in response.text


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_answered_with_413(server, client, chunked):
    body = b'{"values": [' + b"1," * 2000 + b"1]}"
    content = iter([body[:1500], body[1500:]]) if chunked else body
    response = client.post(f"{server.url}/old/adder/v1/add", content=content)
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
    assert response.headers["mizzen-version"] == "1"


def test_a_stream_names_the_model_and_arrives_in_pieces(server, client):
    with client.stream("GET", f"{server.url}/adder/v1/stream", params={"pieces": 5}) as response:
        pieces = [piece for piece in response.iter_text() if piece]
    assert response.headers["mizzen-version"] == "2"
    assert "".join(pieces).count("data: ") == 5
    assert len(pieces) > 1


def test_a_stream_that_fails_halfway_breaks_off_instead_of_looking_whole(server, client):
    with (
        pytest.raises(httpx.RemoteProtocolError),
        client.stream("GET", f"{server.url}/adder/v1/stream", params={"break_after": 1}) as response,
    ):
        list(response.iter_text())


def test_a_request_keeps_the_id_that_its_client_gave_it(server, client):
    response = client.get(f"{server.url}/adder/readyz", headers={"mizzen-request-id": "my-id-7"})
    assert response.headers["mizzen-request-id"] == "my-id-7"


@pytest.mark.parametrize("prefix", ["/adder", "/old/adder"])
def test_probes_and_documentation_work_below_the_route_prefix(server, client, prefix):
    assert client.get(f"{server.url}{prefix}/healthz").json()["status"] == "alive"
    assert client.get(f"{server.url}{prefix}/readyz").json()["status"] == "ready"
    assert f"'{prefix}/openapi.json'" in client.get(f"{server.url}{prefix}/docs").text
    schema = client.get(f"{server.url}{prefix}/openapi.json").json()
    assert "/v1/add" in schema["paths"]
    assert schema["servers"] == [{"url": prefix}]


def test_requests_that_come_together_share_a_call_and_each_gets_its_own_answer(server):
    limits = httpx.Limits(max_connections=24)
    with httpx.Client(timeout=30.0, limits=limits, trust_env=False) as client, ThreadPoolExecutor(24) as pool:

        def ask(number: int) -> httpx.Response:
            value = -1 if number % 6 == 0 else number
            return client.post(f"{server.url}/adder/v1/add", json={"values": [value], "delay_s": 0.2})

        responses = list(pool.map(ask, range(24)))
    for number, response in enumerate(responses):
        if number % 6 == 0:
            assert (response.status_code, error_of(response)["param"]) == (400, "values")
        else:
            assert response.json()["total"] == 200 + number
    sizes = [response.json()["batch_size"] for response in responses if response.is_success]
    assert max(sizes) > 1


def test_metrics_are_exact_totals_over_all_replicas_at_once(server, client):
    def totals() -> tuple[float, float]:
        text = client.get(f"{server.url}/adder/metrics").text
        labels = {"app": "adder", "route": "/v1/items/{item}"}
        return (
            metric(text, "mizzen_requests_total", **labels, code="200"),
            metric(text, "mizzen_request_duration_seconds_count", **labels),
        )

    before = totals()
    limits = httpx.Limits(max_connections=8)
    with httpx.Client(timeout=30.0, limits=limits, trust_env=False) as many, ThreadPoolExecutor(8) as pool:
        for response in pool.map(lambda n: many.get(f"{server.url}/adder/v1/items/{n}"), range(200)):
            assert response.is_success
    assert [after - start for after, start in zip(totals(), before, strict=True)] == [200, 200]
    text = client.get(f"{server.url}/old/adder/metrics").text
    assert metric(text, "mizzen_model_info", app="adder", version="2") == 2
    assert metric(text, "mizzen_model_info", app="first", version="1") == 1


def test_an_unknown_path_or_method_does_not_make_a_new_series(server, client):
    client.get(f"{server.url}/adder/some/path/nobody/has")
    client.request("PROPFIND", f"{server.url}/adder/v1/add")
    text = client.get(f"{server.url}/adder/metrics").text
    assert "nobody" not in text
    assert "PROPFIND" not in text
    assert metric(text, "mizzen_requests_total", route="unknown", code="404") >= 1
    assert metric(text, "mizzen_requests_total", method="other", code="405") >= 1


def test_a_full_queue_refuses_with_429_while_probes_are_answered(server, client):
    url = f"{server.url}/narrow"
    limits = httpx.Limits(max_connections=6)
    with httpx.Client(timeout=30.0, limits=limits, trust_env=False) as many, ThreadPoolExecutor(6) as pool:
        pending = [
            pool.submit(many.post, f"{url}/v1/add", json={"values": [n], "delay_s": 1.0}) for n in range(5)
        ]
        refused = next(f.result() for f in pending if f.result().status_code == 429)
        probe = client.get(f"{url}/readyz", timeout=5.0)
        responses = [future.result() for future in pending]
    assert probe.status_code == 200
    assert int(refused.headers["retry-after"]) >= 1
    assert (error_of(refused)["type"], error_of(refused)["code"]) == ("rate_limit_error", "overloaded")
    assert refused.headers["mizzen-model"] == "adder"
    assert sorted(response.status_code for response in responses) == [200, 200, 429, 429, 429]


def test_only_replicas_write_series_and_none_of_rays_own_processes(server):
    replicas = {p.pid for p in server.tree() if (p.cmdline() or [""])[0].startswith("ray::ServeReplica")}
    writers = {int(f.stem.rpartition("_")[2]) for f in server.home.settings.metrics_dir.glob("*.db")}
    assert writers
    assert writers <= replicas
