"""The launcher that closes HAProxy's statistics and metrics."""

from __future__ import annotations

import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from mizzen.serving.haproxy_launcher import closed

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
