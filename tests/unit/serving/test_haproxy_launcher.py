"""The launcher that closes HAProxy's statistics and metrics."""

from __future__ import annotations

import json
import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from mizzen.serving import haproxy
from mizzen.serving.haproxy_launcher import ERRORS, careful, closed

CONFIGURATION = """global
    maxconn 4096
frontend prometheus
    bind :9101
    mode http
    no log
frontend http_frontend
    bind 127.0.0.1:8000

    acl routes path -i /-/routes
listen stats
  bind *:8404
  stats enable
"""


def test_only_the_ingress_keeps_a_port():
    result = closed(CONFIGURATION, "/tmp/x")
    assert re.findall(r"bind (\S+)", result) == [
        "unix@/tmp/x/metrics.sock",
        "127.0.0.1:8000",
        "unix@/tmp/x/stats.sock",
    ]
    assert result.count("mode 600") == 2
    assert (
        result.replace("unix@/tmp/x/metrics.sock mode 600", ":9101").replace(
            "unix@/tmp/x/stats.sock mode 600", "*:8404"
        )
        == CONFIGURATION
    )


@pytest.mark.parametrize(
    ("address", "binds"),
    [
        ("10.0.0.7", ["127.0.0.1:8000", "10.0.0.7:8000"]),
        ("fd00::7", ["127.0.0.1:8000", "[fd00::7]:8000"]),
        ("0.0.0.0", ["0.0.0.0:8000"]),
        ("::", ["[::]:8000"]),
    ],
)
def test_the_ingress_alone_is_opened_to_others(address: str, binds: list[str]):
    result = closed(CONFIGURATION, "/tmp/x", address)
    found = re.findall(r"bind (\S+)", result)
    assert found == ["unix@/tmp/x/metrics.sock", *binds, "unix@/tmp/x/stats.sock"]
    ingress = result[result.index("frontend http_frontend") : result.index("listen stats")]
    assert ingress.count("bind") == len(binds)
    assert "acl routes path -i /-/routes" in ingress


def test_an_ingress_that_is_not_found_is_not_opened():
    with pytest.raises(ValueError, match="http_frontend"):
        closed(CONFIGURATION.replace("frontend http_frontend", "frontend other"), "/tmp/x", "0.0.0.0")


def test_the_sections_are_those_of_the_ray_that_is_installed():
    ray = find_spec("ray")
    assert ray and ray.origin
    module = runpy.run_path(str(Path(ray.origin).parent / "serve/_private/haproxy_templates.py"))
    plain = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "1", module["HAPROXY_CONFIG_TEMPLATE"])
    assert closed(plain, "/tmp/x").count("unix@/tmp/x/") == 2
    plain = module["HAPROXY_CONFIG_TEMPLATE"].replace("{{ config.frontend_host }}", "127.0.0.1")
    plain = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "1", plain)
    assert "bind 127.0.0.1:1\n    bind 10.0.0.7:1\n" in closed(plain, "/tmp/x", "10.0.0.7")


@pytest.mark.parametrize("lost", ["frontend prometheus", "listen stats", "bind :9101"])
def test_a_configuration_that_is_not_understood_is_refused(lost):
    with pytest.raises(ValueError, match=r"section"):
        closed(CONFIGURATION.replace(lost, "# gone"), "/tmp/x")


BEHIND = """global
    maxconn 4096
defaults
    mode http
    # Serve would have them look like 500.
    errorfile 502 /tmp/ray/500.http
    errorfile 504 /tmp/ray/500.http
    balance leastconn
frontend http_frontend
    bind 127.0.0.1:8000
    use_backend shop if is_shop
    default_backend default_backend

backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \'%[path]\' not found."
backend shop
    option httpchk GET /-/healthz
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    haproxy.environment(tmp_path, 1)
    return tmp_path


def test_headers_by_which_clients_could_steer_serve_are_taken_off_at_the_ingress(folder):
    head, _, rest = careful(BEHIND, str(folder)).partition("frontend http_frontend\n")
    ingress = rest.partition("\nbackend ")[0]
    assert "http-request del-header x-request-timeout-seconds" in ingress
    assert "timeout http-request 30s" in ingress
    assert "http-request del-header x-request-id unless { req.hdr(x-request-id) -m reg" in ingress
    assert "http-after-response del-header server" in ingress
    assert "del-header" not in head


def test_what_haproxy_answers_by_itself_has_its_own_status_and_our_shape(folder):
    result = careful(BEHIND, str(folder))
    for status in (404, 502, 503, 504):
        assert f"errorfile {status} {folder}/{ERRORS}/{status}.http" in result
        head, _, body = (folder / ERRORS / f"{status}.http").read_bytes().partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert f"Content-Length: {len(body)}".encode() in head
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert b"Retry-After: 1" in (folder / ERRORS / "503.http").read_bytes()
    assert "/tmp/ray/500.http" not in result
    assert "http-request return status 404 default-errorfiles" in result
    assert "text/plain" not in result


def test_the_places_for_rules_are_those_of_the_ray_that_is_installed(folder):
    ray = find_spec("ray")
    assert ray and ray.origin
    module = runpy.run_path(str(Path(ray.origin).parent / "serve/_private/haproxy_templates.py"))
    plain = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "1", module["HAPROXY_CONFIG_TEMPLATE"])
    result = careful(plain, str(folder))
    assert "http-after-response del-header server" in result
    assert "option abortonclose" in result and "splice-request" not in result  # clients that go away are seen


@pytest.mark.parametrize("lost", ["defaults", "frontend http_frontend", "status 404"])
def test_a_configuration_without_a_place_for_rules_is_refused(folder, lost):
    with pytest.raises(ValueError, match="no place"):
        careful(BEHIND.replace(lost, "# gone"), str(folder))
