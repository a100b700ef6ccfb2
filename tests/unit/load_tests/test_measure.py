"""Figures out of what Locust has seen and what the server has used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

import report
from chat_plan import engine_figures
from measure import Figures, percentile
from mizzen import local_ray
from servers import Server


@pytest.mark.parametrize(("percent", "expected"), [(50, 5.0), (95, 10.0), (99, 10.0), (90, 9.0), (1, 1.0)])
def test_a_percentile_is_a_value_that_was_seen(percent: float, expected: float) -> None:
    assert percentile([float(n) for n in range(1, 11)], percent) == expected


def figures(**changes: Any) -> Figures:
    seen = {
        "took_s": [2.0, 4.0],
        "first_s": [0.1, 0.2, 0.3, 0.4],
        "num_tokens": 192,
        "cpu_s": 8.0,
        "rss_bytes": 2**20,
    }
    return engine_figures({**seen, **changes}, num_streams=2)


def test_the_engines_tokens_a_second_are_of_whole_waves() -> None:
    found = figures()
    assert found.units_per_s == pytest.approx(32.0)
    assert found.first_p50_ms == pytest.approx(200.0)
    assert found.num_requests == 4
    assert found.server_cpu_ms == pytest.approx(2000.0)


def test_rounds_become_medians_and_errors_are_added_up() -> None:
    rounds = [{"genai": {"streams": figures(num_tokens=tokens)}} for tokens in (60, 600, 120)]
    found = report.summarise(rounds)["genai"]["streams"]
    assert found["units_per_s"] == pytest.approx(20.0)
    assert found["num_requests"] == 12


def test_a_server_is_found_with_all_that_it_started_and_leaves_nothing_behind(tmp_path: Path) -> None:
    child = "import time; time.sleep(60)"
    parent = (
        "import http.server, subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)\n"
        "handler = http.server.SimpleHTTPRequestHandler\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), handler).serve_forever()\n"
    )
    port = local_ray.free_port()
    command = [sys.executable, "-c", parent, str(port)]
    with Server("fake", command, f"http://127.0.0.1:{port}", "/", tmp_path / "log") as server:
        usage = server.usage()
        assert usage.num_processes == 2
        assert usage.rss_bytes > 2 * 2**20
        pids = [process.pid for process in server.processes()]
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_server_that_ends_at_once_is_told_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no model')"]
    server = Server("broken", command, "http://127.0.0.1:1", "/", tmp_path / "log")
    with pytest.raises(RuntimeError, match="no model"), server:
        pass
