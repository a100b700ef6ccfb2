"""What is said when workers fail, or when there is no place for them."""

from __future__ import annotations

from typing import Any

import pytest

from mizzen.training.job import TrainJob, parse
from mizzen.training.launch import shortages


def job(**scaling: Any) -> TrainJob:
    content = {"name": "digits", "workload": "digits", "training": {"steps": 1}, "scaling": scaling}
    return parse(content, "the test's job")


@pytest.mark.parametrize(
    ("scaling", "present", "expected"),
    [
        ({"workers": 2, "cpus_per_worker": 2}, {"CPU": 4.0}, []),
        ({"workers": 3, "cpus_per_worker": 2}, {"CPU": 4.0}, ["6 CPUs and the cluster has 4"]),
        ({"workers": 2, "gpus_per_worker": 1}, {"CPU": 4.0}, ["2 GPUs and the cluster has 0"]),
    ],
)
def test_a_run_that_must_wait_for_machines_says_so(
    scaling: dict[str, Any], present: dict[str, float], expected: list[str]
) -> None:
    said = shortages(job(**scaling), present)
    assert len(said) == len(expected)
    assert all(part in line for part, line in zip(expected, said, strict=True))
