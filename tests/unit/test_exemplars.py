"""Exemplars, kept by processes of their own, as OpenMetrics shows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from mizzen import exemplars, totals

SLOW, FAST = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"
BEGIN = f"""
import os
from mizzen import exemplars, metrics, totals
from mizzen.recording import Recorder, ServedMetrics
SLOW, FAST = {SLOW!r}, {FAST!r}
served = ServedMetrics("shop", "m", 1)
def answered(duration_s, trace_id=None):
    served.started()
    served.finished(route="/v1/x", method="POST", code=200, duration_s=duration_s, trace_id=trace_id)
def files():
    return [one for one in os.listdir(os.environ["MIZZEN_HOME"] + "/metrics") if one.startswith("exemplars")]
"""
SHOW = "\nprint(totals.exposition(openmetrics=True).decode(), end='')\n"


def run(home: Path, code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        env={**os.environ, "MIZZEN_HOME": str(home)},
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    ).stdout


def shown(text: str, name: str) -> dict[float, Any]:
    return {
        float(sample.labels["le"]): sample.exemplar
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"{name}_bucket" and sample.exemplar
    }


def test_each_bucket_shows_a_trace_that_fell_into_it(tmp_path: Path) -> None:
    before_s = time.time()
    text = run(
        tmp_path,
        f"""
answered(0.3, SLOW)
answered(0.004, FAST)
answered(99.0, SLOW)
answered(0.7)
served.recorder.observe(metrics.QUEUE_WAIT, 0.02, FAST, queue="batch"){SHOW}""",
    )
    found = shown(text, "mizzen_request_duration_seconds")
    assert {bound: (one.labels["trace_id"], one.value) for bound, one in found.items()} == {
        0.5: (SLOW, 0.3),
        0.005: (FAST, 0.004),
        float("inf"): (SLOW, 99.0),
    }
    assert all(before_s - 1 <= float(one.timestamp) <= time.time() + 1 for one in found.values())
    assert list(shown(text, "mizzen_queue_wait_seconds")) == [0.02]  # an upper bound belongs to its bucket


def test_nothing_is_written_when_nobody_gives_any_and_no_id_of_a_callers_own_is_kept(tmp_path: Path) -> None:
    code = """
answered(0.3)
assert files() == []
for given in ("", "x" * 32, SLOW.upper(), SLOW + "0", '"} 1', "a" * 100_000):
    answered(0.3, given)
assert files() == []
answered(0.3, SLOW)
assert files() == [f"exemplars_{os.getpid()}.json"]
"""
    run(tmp_path, code)


def test_their_number_and_how_often_they_are_written_have_limits(tmp_path: Path) -> None:
    code = """
written = []
exemplars._write = written.append
for n in range(3000):
    served.recorder.observe(metrics.QUEUE_WAIT, 0.02, SLOW, queue="batch")
assert len(written) == 1, len(written)
exemplars.EVERY_S = -1.0
served.recorder.observe(metrics.QUEUE_WAIT, 0.02, FAST, queue="batch")
assert len(written) == 2, len(written)
exemplars.MOST = 1
served.recorder.observe(metrics.QUEUE_WAIT, 1.0, SLOW, queue="batch")
(one,) = exemplars._kept.values()
assert one[1].value == 0.02
exemplars.UNUSED_S = -1.0
served.recorder.observe(metrics.QUEUE_WAIT, 1.0, SLOW, queue="batch")
(one,) = exemplars._kept.values()  # the oldest made room
assert one[1].value == 1.0
"""
    run(tmp_path, code)


def test_the_last_of_several_processes_is_shown_and_the_dead_have_none(tmp_path: Path) -> None:
    run(tmp_path, "answered(0.3, SLOW)")
    folder = tmp_path / "metrics"
    (file,) = folder.glob(exemplars.FILES)
    ((*bucket, trace_id, value, at_s),) = json.loads(file.read_text())
    rows = [
        [*bucket, FAST, value, at_s - 1],
        [*bucket[:2], 0.001, FAST, value, at_s - 2 * exemplars.OLDEST_S],
    ]
    (folder / "exemplars_1.json").write_text(json.dumps(rows))
    assert [one.trace_id for one in exemplars.read(folder).values()] == [trace_id] == [SLOW]
    text = totals.exposition(folder, openmetrics=True).decode()
    assert not file.exists()
    found = shown(text, "mizzen_request_duration_seconds")
    assert [one.labels["trace_id"] for one in found.values()] == [FAST]  # process 1 lives


def test_prometheus_own_format_has_none(tmp_path: Path) -> None:
    run(tmp_path, "answered(0.3, SLOW)\nassert SLOW not in totals.exposition().decode()")


@pytest.mark.parametrize("content", ["", "[", "{}", '[["a"]]'])
def test_a_file_that_cannot_be_read_costs_its_exemplars_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "exemplars_1.json").write_text(content)
    assert exemplars.read(tmp_path) == {}
