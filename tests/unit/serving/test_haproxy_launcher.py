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


def test_the_sections_are_those_of_the_ray_that_is_installed():
    ray = find_spec("ray")
    assert ray and ray.origin
    module = runpy.run_path(str(Path(ray.origin).parent / "serve/_private/haproxy_templates.py"))
    plain = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "1", module["HAPROXY_CONFIG_TEMPLATE"])
    assert closed(plain, "/tmp/x").count("unix@/tmp/x/") == 2


@pytest.mark.parametrize("lost", ["frontend prometheus", "listen stats", "bind :9101"])
def test_a_configuration_that_is_not_understood_is_refused(lost):
    with pytest.raises(ValueError, match=r"section"):
        closed(CONFIGURATION.replace(lost, "# gone"), "/tmp/x")
