"""Which steps of a run become points."""

from __future__ import annotations

import itertools

import pytest

from mizzen.training.history import ALL_UP_TO, Thinning
from mizzen.training.mailbox import Progress


def places(thinning: Thinning, steps: list[int], num_steps: int) -> list[int]:
    kept = []
    for step in steps:
        kept += thinning.take(Progress(step, num_steps, loss=1.0), float(step))
    return [point.step for point in kept]


def test_a_long_run_leaves_a_few_thousand_points() -> None:
    thinning, num_steps = Thinning(), 200_000
    kept = places(thinning, list(range(1, num_steps + 1)), num_steps)
    assert kept[:ALL_UP_TO] == list(range(1, ALL_UP_TO + 1))
    assert kept[-1] == num_steps
    assert 3000 < len(kept) < 4000
    assert sum(step > num_steps // 2 for step in kept) > 400  # fine at its end too
    gaps = [after - before for before, after in itertools.pairwise(kept)]
    assert max(gaps) <= num_steps / 1000


def test_a_short_run_is_kept_whole() -> None:
    steps = list(range(1, 401))
    assert places(Thinning(), steps, 400) == steps


def test_a_validation_is_kept_with_the_step_before_it() -> None:
    thinning = Thinning()
    places(thinning, list(range(1, 9_999)), 1_000_000)
    passed_over = thinning.take(Progress(10_001, 1_000_000, loss=0.25), 2.0)
    found = thinning.take(Progress(10_001, 1_000_000, metrics={"mase": 0.5}), 3.0)
    assert passed_over == []
    assert [(point.step, point.loss, dict(point.metrics)) for point in found] == [
        (10_001, 0.25, {}),
        (10_001, None, {"mase": 0.5}),
    ]


def test_the_last_step_of_a_run_that_ends_early_is_kept_once() -> None:
    thinning = Thinning()
    kept = places(thinning, list(range(1, 20_000)), 1_000_000)
    assert kept[-1] != 19_999
    assert [point.step for point in thinning.rest()] == [19_999]
    assert thinning.rest() == []


def test_after_it_went_back_to_a_checkpoint_the_first_step_is_kept() -> None:
    thinning = Thinning()
    places(thinning, list(range(1, 20_000)), 1_000_000)
    assert places(thinning, [19_001, 19_002], 1_000_000) == [19_001]


@pytest.mark.parametrize("value", [1 / 3, 123_456_789.0, 1e-7 / 3])
def test_figures_are_as_exact_as_a_float_of_the_model(value: float) -> None:
    (point,) = Thinning().take(Progress(1, 9, loss=value, figures={"learning_rate": value}), 1.0)
    assert point.loss == pytest.approx(value, rel=1e-5)
    assert point.figures["learning_rate"] == point.loss
    assert len(str(point.loss)) <= 13
