"""A small job on real data."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mizzen.training import job as jobs
from mizzen.training.job import TrainJob

SMALL: dict[str, Any] = {
    "name": "digits",
    "workload": "digits",
    "training": {"steps": 24, "micro_batch_size": 16, "learning_rate": 3e-3, "evaluate_every_steps": 8},
    "scaling": {"workers": 2, "cpus_per_worker": 0.5},
}


def small_job(name: str = "digits", **sections: dict[str, Any]) -> TrainJob:
    """`SMALL` by the name `name`, with fields of sections changed."""
    content = {
        **SMALL,
        "name": name,
        **{section: {**SMALL.get(section, {}), **fields} for section, fields in sections.items()},
    }
    return jobs.parse(content, "the test's job")


@pytest.fixture(scope="session")
def job() -> Callable[..., TrainJob]:
    return small_job


MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
"""Blocks from 128 KiB on come from the kernel and go back to it, so resident memory is what tensors hold."""


@pytest.fixture
def steps_of(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Lets so many workers take two steps of each job, without Ray; what each of them saw, job by job."""

    def start(rank: int, workers: int, folder: Path) -> subprocess.Popen[str]:
        script = Path(__file__).with_name("steps_of_a_worker.py")
        files = (folder / name for name in ("meeting", "jobs.json", f"rank-{rank}.json"))
        return subprocess.Popen(
            [sys.executable, str(script), str(rank), str(workers), *map(str, files)],
            env={**os.environ, **MALLOC, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        wanted: dict[str, Any], workers: int, warm_up: list[dict[str, Any]] | None = None
    ) -> list[dict[str, Any]]:
        folder = tmp_path / f"{workers}-workers"
        folder.mkdir()
        (folder / "jobs.json").write_text(json.dumps({"warm_up": warm_up or [], "jobs": wanted}))
        ranks = [start(rank, workers, folder) for rank in range(workers)]
        try:
            for rank in ranks:
                _, errors = rank.communicate(timeout=900)
                assert rank.returncode == 0, errors[-2000:]
        finally:
            for rank in ranks:
                rank.kill()
        return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(workers)]

    return run


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"
