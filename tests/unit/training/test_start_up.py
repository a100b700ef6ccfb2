"""What passes between the command and the first step is told in parts that add up."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mizzen.training import start_up
from mizzen.training.start_up import Laps


@pytest.fixture(autouse=True)
def nothing_begun() -> Iterator[None]:
    start_up.go_on(None)
    yield
    start_up.go_on(None)


def test_parts_follow_each_other_without_a_gap_and_add_up_to_the_whole() -> None:
    times = iter([11.0, 14.5, 15.0])
    laps = Laps(10.0, clock_s=lambda: next(times))
    laps.done("python")
    laps.done("ray")
    laps.done("python")
    assert laps.parts == {"python": 1.5, "ray": 3.5}
    assert sum(laps.parts.values()) == laps.last_s - 10.0


def test_a_clock_that_goes_back_makes_no_part_negative() -> None:
    laps = Laps(10.0, clock_s=lambda: 8.0)
    laps.done("workers")
    assert laps.parts == {"workers": 0.0}


def test_the_second_run_of_a_process_does_not_count_the_first() -> None:
    start_up.begin(0.0)
    start_up.begin(0.0)
    start_up.done("python")
    handed = start_up.handed_on()
    assert handed is not None
    assert handed["parts"]["python"] < 1e6  # and not since 1970


def test_a_worker_goes_on_where_the_driver_was_and_tells_it_once() -> None:
    start_up.begin(0.0)
    start_up.done("python")
    handed = json.loads(json.dumps(start_up.handed_on()))
    start_up.go_on(handed)
    start_up.done("workers")
    told = start_up.over()
    assert list(told) == ["python", "workers", "first step"]
    assert told["python"] == handed["parts"]["python"]
    assert start_up.over() == {}
    start_up.done("model")
    assert start_up.handed_on() is None


def test_where_no_run_has_begun_nothing_is_told() -> None:
    start_up.done("model")
    assert start_up.handed_on() is None
    assert start_up.over() == {}


def test_the_sentence_names_each_part_in_its_order() -> None:
    parts = {"first step": 1.2, "ray": 4.04, "python": 1.1}
    assert start_up.sentence(parts) == "start-up: 6.3 s (python 1.1, ray 4.0, first step 1.2)"
