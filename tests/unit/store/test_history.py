"""Points of a run's history: what they are called, and how attempts become one curve."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mizzen.errors import IntegrityError
from mizzen.store.history import Point, one_curve, seconds_left, series, tag_of
from mizzen.store.runs import Runs


def step(number: int, loss: float = 0.5, time_s: float | None = None) -> Point:
    return Point(step=number, time_s=float(number) if time_s is None else time_s, loss=loss)


def validation(number: int, value: float = 0.5) -> Point:
    return Point(step=number, time_s=float(number), metrics={"mase": value})


@pytest.fixture(params=["file", "memory"])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> Runs:
    return Runs(f"file://{tmp_path}/store" if request.param == "file" else "memory://")


def write(runs: Runs, *points: Point) -> None:
    runs.history_writer("a-run").add([point.line() for point in points])


def test_a_history_is_read_as_it_was_written(runs: Runs) -> None:
    points = (
        validation(0, math.inf),
        Point(step=1, time_s=1.5, loss=2.0, figures={"learning_rate": 1e-4, "gradient_norm": math.inf}),
        Point(step=2, time_s=2.5, loss=math.nan),
    )
    write(runs, *points)
    found = runs.history("a-run")
    assert found[:2] == points[:2]
    assert found[2].loss is not None and math.isnan(found[2].loss)
    assert runs.history("another-run") == ()


def test_a_later_attempt_counts_for_the_steps_that_it_takes_again(runs: Runs) -> None:
    write(runs, validation(0), step(1), step(2), validation(2, 0.4), step(3), step(4), validation(4, 0.3))
    write(runs, step(3, 9.0), step(5, 9.0))  # from the checkpoint after step 2; step 4 became no point
    assert runs.history("a-run") == (
        *(validation(0), step(1), step(2), validation(2, 0.4)),
        *(step(3, 9.0), step(5, 9.0)),
    )


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ([step(1), step(2), validation(2)], 3),
        ([step(1), step(2), validation(2), step(2)], 2),
        ([step(1), step(2), validation(2), validation(2)], 3),
        ([validation(0), step(1), step(2), validation(0)], 1),
        ([step(5), step(6), step(7), step(6), step(7), step(8)], 4),
        ([], 0),
    ],
)
def test_steps_always_rise_and_the_validation_after_a_step_stays_with_it(
    written: list[Point], left: int
) -> None:
    curve = one_curve(written)
    places = [point.place for point in curve]
    assert (places, len(curve)) == (sorted(set(places)), left)
    assert not written or curve[-1] is written[-1]


def test_a_line_that_is_no_point_is_told_and_one_of_a_later_mizzen_is_read(runs: Runs) -> None:
    later = '{"step":1,"time_s":1.0,"loss":0.5,"brand_new":{"a":1}}'
    runs.history_writer("a-run").add([later])
    assert runs.history("a-run") == (step(1),)
    runs.history_writer("a-run").add(['{"step":2'])
    with pytest.raises(IntegrityError, match=r"runs/a-run/history holds a line.*Remove this folder"):
        runs.history("a-run")


def test_every_figure_has_a_tag_and_every_tag_a_short_name() -> None:
    one = Point(
        step=1, time_s=1.0, loss=2.0, figures={"step_seconds": 0.1, "learning_rate": 0.01, "memory_bytes": 7}
    )
    two = Point(step=1, time_s=1.0, metrics={"ndcg@10": 0.3})
    curves = series([one, two])
    assert curves == {
        "train/loss": [(1, 2.0)],
        "time/step_seconds": [(1, 0.1)],
        "train/learning_rate": [(1, 0.01)],
        "memory/bytes": [(1, 7.0)],
        "validation/ndcg@10": [(1, 0.3)],
    }
    assert tag_of("validation/ndcg@10", curves) == tag_of("ndcg@10", curves) == "validation/ndcg@10"
    assert tag_of("loss", curves) == "train/loss"
    assert tag_of("memory_bytes", curves) == tag_of("bytes", curves) == "memory/bytes"
    assert tag_of("los", curves) is tag_of("data_seconds", curves) is None


def test_the_time_left_is_that_of_lately_and_of_this_attempt() -> None:
    slow = [step(number, time_s=1000.0 * number) for number in range(1, 50)]
    quick = [step(number, time_s=100_000 + 2.0 * number) for number in range(50, 61)]
    assert seconds_left([*slow, *quick], 100, since_s=100_000) == 80.0
    assert seconds_left(quick, 60, since_s=0) == 0.0
    assert seconds_left(slow, 100, since_s=100_000) is None
    assert seconds_left(quick[:1], 100, since_s=0) is None
    assert seconds_left([], 100, since_s=0) is None
