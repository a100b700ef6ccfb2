"""What a process costs, counted in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BURN = """
import json, time
from mizzen import metrics, totals
from mizzen.resources import Resources
def seen():
    found = {}
    for series in (metrics.RESERVED_CPU, metrics.RESERVED_GPU, metrics.USED_CPU, metrics.RESIDENT_MEMORY,
                   metrics.RESERVED_CPUS, metrics.RESERVED_GPUS):
        for labels, value in totals.samples(series):
            assert labels == {"owner_kind": "app", "owner": "shop"}, labels
            found[series.name] = value
    return found
begun = time.monotonic()
resources = Resources("app", "shop", cpus=2, gpus=0.5)
first = seen()
until = time.process_time() + 0.1
while time.process_time() < until:
    pass
resources.tick()
elapsed_s, second = time.monotonic() - begun, seen()
resources.close()
print(json.dumps([first, second, elapsed_s, seen()]))
"""


def test_reserved_and_used_time_and_memory_are_counted_for_their_owner(tmp_path: Path) -> None:
    out = subprocess.run(
        [sys.executable, "-c", BURN],
        env={**os.environ, "MIZZEN_HOME": str(tmp_path)},
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    ).stdout
    first, second, elapsed_s, after = json.loads(out)
    # All lines are there from the start, so that no increase is missed.
    assert set(first) == set(second)
    assert first["mizzen_reserved_cpu_seconds_total"] < 0.5
    assert second["mizzen_reserved_cpu_seconds_total"] == pytest.approx(2 * elapsed_s, rel=0.5)
    assert second["mizzen_reserved_cpu_seconds_total"] <= 2 * elapsed_s
    assert second["mizzen_reserved_gpu_seconds_total"] == pytest.approx(
        second["mizzen_reserved_cpu_seconds_total"] / 4
    )
    assert 0.08 <= second["mizzen_used_cpu_seconds_total"] <= elapsed_s + 0.1
    assert second["mizzen_resident_memory_bytes"] > 5 * 2**20
    assert (second["mizzen_reserved_cpus"], second["mizzen_reserved_gpus"]) == (2, 0.5)
    assert not {"mizzen_resident_memory_bytes", "mizzen_reserved_cpus", "mizzen_reserved_gpus"} & set(after)
    assert after["mizzen_reserved_cpu_seconds_total"] > second["mizzen_reserved_cpu_seconds_total"]
