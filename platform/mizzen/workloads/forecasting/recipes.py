"""The ready job files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mizzen.workloads.contract import Recipe

_JOBS = Path(__file__).parent / "jobs"


def recipes() -> Mapping[str, Recipe]:
    """Job files by name."""
    return {
        "quickstart": Recipe(_JOBS / "quickstart.yaml", "M1 yearly series, a minute on two cores"),
        "benchmark": Recipe(_JOBS / "benchmark.yaml", "M1 yearly series, test MASE at most 3.30"),
        "taylor": Recipe(_JOBS / "taylor.yaml", "half-hourly electricity demand, two seasonalities"),
    }
