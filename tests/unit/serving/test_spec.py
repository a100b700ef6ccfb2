"""The serve file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import NotFoundError, ServeFileError
from mizzen.serving.spec import App, Autoscaling, ServeSpec, default, load, parse


def spec(**app: Any) -> ServeSpec:
    return parse({"apps": [{"name": "a", "model": "m@production", **app}]}, "serve.yaml")


def test_the_smallest_file_serves_on_loopback_below_the_apps_name(tmp_path: Path):
    file = tmp_path / "serve.yaml"
    file.write_text("apps:\n  - {name: recommendation, model: recommendation@production}\n")
    loaded = load(file)
    assert (loaded.http.host, loaded.http.port) == ("127.0.0.1", 8000)
    assert loaded.apps[0].route_prefix == "/recommendation"
    assert loaded.apps[0].max_ongoing_requests >= loaded.apps[0].batching.capacity


def test_every_field_can_be_set():
    app = spec(
        route_prefix="/v2/m",
        replicas={"min": 1, "max": 3, "target_ongoing_requests": 4},
        num_cpus=0.5,
        num_gpus=1,
        max_ongoing_requests=128,
        max_queued_requests=0,
        max_request_bytes=2048,
        batching={"max_batch_size": 64, "wait_s": 0.01, "max_concurrent_batches": 2},
        execution_provider="cuda",
        num_threads=2,
        options={"anything": [1]},
    ).apps[0]
    assert app.replicas == Autoscaling(min=1, max=3, target_ongoing_requests=4)
    assert App.model_validate(app.model_dump(mode="json")) == app


def test_service_levels_have_defaults_and_a_canary_and_a_shadow_are_opt_in():
    app = spec().apps[0]
    assert (app.slo.availability, app.slo.latency_s, app.slo.latency) == (0.99, 2.0, 0.95)
    assert (app.canary, app.shadow) == (None, None)
    beside = spec(canary={"model": "m@candidate", "weight": 0.1}, shadow={"model": "n@3", "share": 1}).apps[0]
    assert beside.canary is not None and beside.canary.weight == 0.1
    assert beside.shadow is not None and beside.shadow.max_ongoing_requests == 4
    assert App.model_validate(beside.model_dump(mode="json")) == beside
    assert beside.of("m@candidate").model == "m@candidate"


def test_an_app_may_go_to_nothing_when_idle_but_not_be_nothing_at_most():
    app = spec(replicas={"min": 0, "max": 2}).apps[0]
    assert app.replicas == Autoscaling(min=0, max=2, idle_s=300)
    with pytest.raises(ServeFileError, match=r"replicas"):
        spec(replicas={"min": 0, "max": 0})


@pytest.mark.parametrize(
    ("host", "is_loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:8000"),
        ("localhost", True, "http://127.0.0.1:8000"),
        ("127.0.0.2", True, "http://127.0.0.2:8000"),
        ("::1", True, "http://[::1]:8000"),
        ("0.0.0.0", False, "http://127.0.0.1:8000"),
        ("::", False, "http://127.0.0.1:8000"),
        ("192.168.1.7", False, "http://192.168.1.7:8000"),
        ("fd00::7", False, "http://[fd00::7]:8000"),
    ],
)
def test_an_address_says_who_reaches_it(host, is_loopback, url):
    http = parse({"http": {"host": host}, "apps": [{"name": "a", "model": "m"}]}, "serve.yaml").http
    assert (http.is_loopback, http.url) == (is_loopback, url)


@pytest.mark.parametrize("host", ["example.com", "", "1.2.3", "*", "10.0.0.0/8"])
def test_a_host_that_is_no_address_is_refused_with_what_is_one(host):
    with pytest.raises(ServeFileError, match=r"http\.host.*IP address.*127\.0\.0\.1.*0\.0\.0\.0"):
        parse({"http": {"host": host}, "apps": [{"name": "a", "model": "m"}]}, "serve.yaml")


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ({"batching": {"max_batch_size": 65}}, "max_ongoing_requests (64) must be at least"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": {"min": 3, "max": 2}}, "max (2) must not be below min (3)"),
        ({"route_prefix": "noslash"}, "route_prefix must be a path"),
        ({"route_prefix": "/slash/"}, "route_prefix must be a path"),
        ({"route_prefix": "/-/routes"}, "route_prefix must be a path"),
        ({"model": "Not A Name"}, "apps.0.model"),
        ({"execution_provider": "quantum"}, "execution_provider"),
        ({"replica": 2}, "apps.0.replica: no such field"),
        ({"num_threads": -1}, "num_threads"),
        ({"slo": {"availability": 1}}, "slo.availability"),
        ({"slo": {"latency": 0}}, "slo.latency"),
        ({"slo": {"latency_s": 0}}, "slo.latency_s"),
        ({"canary": {"model": "m@candidate"}}, "canary.weight"),
        ({"canary": {"model": "m@candidate", "weight": 1.1}}, "canary.weight"),
        ({"canary": {"model": "m@production", "weight": 0.1}}, "canary.model must not be model itself"),
        ({"shadow": {"model": "m@candidate", "share": 0}}, "shadow.share"),
    ],
)
def test_a_wrong_field_is_named(app, said):
    with pytest.raises(ServeFileError) as caught:
        spec(**app)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"name": "a"}, {"name": "a", "route_prefix": "/b"}, "name 'a'"),
        ({"name": "a"}, {"name": "b", "route_prefix": "/a"}, "route_prefix '/a'"),
    ],
)
def test_two_apps_with_one_name_or_prefix_are_refused(first, second, said):
    with pytest.raises(ServeFileError) as caught:
        parse({"apps": [{"model": "m", **first}, {"model": "m", **second}]}, "serve.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"apps": []}, {"apps": "all"}, {"apps": [1]}])
def test_a_file_without_apps_is_refused(content):
    with pytest.raises(ServeFileError):
        parse(content, "serve.yaml")


class Catalogue:
    """A store that knows only names and aliases."""

    url = "memory://"

    def __init__(self, aliases: Mapping[str, Mapping[str, int]]) -> None:
        self._aliases = aliases

    def models(self) -> list[str]:
        return sorted(self._aliases)

    def aliases(self, name: str) -> Mapping[str, int]:
        return self._aliases[name]


def test_without_a_file_every_model_in_production_is_served():
    store = Catalogue({"b": {"production": 2}, "a": {"production": 1, "candidate": 2}, "c": {"candidate": 1}})
    assert [(app.name, app.model) for app in default(store).apps] == [
        ("a", "a@production"),
        ("b", "b@production"),
    ]


def test_nothing_in_production_is_an_error_that_says_what_to_do():
    with pytest.raises(NotFoundError, match="mizzen train"):
        default(Catalogue({"c": {"candidate": 1}}))
