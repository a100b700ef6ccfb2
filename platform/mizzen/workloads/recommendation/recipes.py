"""The ready job files of the recommendation workload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mizzen.workloads.contract import Recipe

_JOBS = Path(__file__).parent / "jobs"

RECIPES: Mapping[str, Recipe] = {
    "quickstart": Recipe(_JOBS / "quickstart.yaml", "MovieLens-100K in about a minute of training"),
    "benchmark": Recipe(_JOBS / "benchmark.yaml", "MovieLens-100K until validation stops improving"),
}
