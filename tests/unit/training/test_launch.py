"""What is said when workers fail, or when there is no place for them."""

from __future__ import annotations

from typing import Any

import pytest

from mizzen.errors import DataError, TrainingError
from mizzen.training.job import TrainJob, parse
from mizzen.training.launch import MAX_TRACEBACK_LINES, explained, shortages


class Failed(Exception):
    """As Ray Train's: the errors of workers by their rank."""

    def __init__(self, **failures: Exception) -> None:
        super().__init__("Training failed due to worker errors")
        self.worker_failures = {int(rank.removeprefix("rank")): error for rank, error in failures.items()}


def test_an_error_of_ours_comes_out_of_the_worker_as_it_is() -> None:
    ours = DataError("a column is missing", saw="x")
    assert explained(Failed(rank3=ours)) is ours


def test_the_first_workers_error_is_a_sentence_with_its_traceback_below() -> None:
    frames = "\n".join(f'  File "model.py", line {n}, in forward' for n in range(40))
    text = f"Traceback (most recent call last):\n{frames}\nValueError: shapes do not fit"
    error = explained(Failed(rank1=RuntimeError("gloo: peer is gone"), rank0=RuntimeError(text)))
    assert isinstance(error, TrainingError)
    first, *below = str(error).splitlines()
    assert first == "worker 0 of the run failed: ValueError: shapes do not fit"
    assert len(below) == MAX_TRACEBACK_LINES
    assert 'File "model.py", line 39' in below[-2]


def test_a_worker_that_was_killed_is_told_in_a_sentence_with_what_to_do() -> None:
    said = (
        "The actor died unexpectedly before finishing this task.\n\tpid: 30387\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR ..."
    )
    error = explained(Failed(rank1=RuntimeError(said)))
    assert str(error).startswith("worker 1 of the run failed: its process was killed")
    assert "cluster.worker_memory" in str(error)
    assert "\n" not in str(error)


def test_a_failure_without_workers_is_told_too() -> None:
    assert "no room" in str(explained(RuntimeError("no room")))


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
