"""What a run does when something goes wrong: decided from what is seen, without a run."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from mizzen.training.faults import (
    START_LIMIT_S,
    Failure,
    Faults,
    FiniteSteps,
    Retries,
    Sign,
    Stalls,
    collective_timeout_s,
)

NAN, INF = math.nan, math.inf


def finite(precision: str = "fp32", **fields: Any) -> FiniteSteps:
    return FiniteSteps(Faults(**fields), precision)


# --- steps ----------------------------------------------------------------------------------------


def test_a_finite_step_goes_on_under_every_policy() -> None:
    for policy in ("stop", "skip", "roll_back"):
        assert finite(on_nan=policy).after(0.5, 1.0) == "go_on"
        assert finite(on_nan=policy).after(0.5, None) == "go_on"


@pytest.mark.parametrize(("loss", "norm"), [(NAN, 1.0), (INF, 1.0), (0.5, NAN), (0.5, INF)])
def test_by_default_a_loss_or_a_gradient_that_is_not_finite_stops(loss: float, norm: float) -> None:
    assert finite().after(loss, norm) == "stop"


def test_what_changes_no_weights_is_judged_by_the_norm_alone_for_all_ranks_know_it() -> None:
    rank_with_nan, other = finite(on_nan="skip"), finite(on_nan="skip")
    assert rank_with_nan.after(NAN, NAN) == other.after(0.5, NAN) == "skip"
    assert finite(on_nan="roll_back").after(0.5, INF) == "roll_back"


def test_an_infinite_norm_is_an_overflow_in_fp16_and_no_fault() -> None:
    for policy in ("stop", "skip", "roll_back"):
        assert finite("fp16", on_nan=policy).after(0.5, INF) == "go_on"
    assert finite("fp16", on_nan="skip").after(0.5, NAN) == "skip"
    assert finite("fp16").after(NAN, INF) == "stop"


@pytest.mark.parametrize(
    ("policy", "limit"), [("skip", "max_skipped_steps"), ("roll_back", "max_roll_backs")]
)
def test_what_goes_wrong_too_often_stops(policy: str, limit: str) -> None:
    steps = finite(on_nan=policy, **{limit: 2})
    assert [steps.after(NAN, NAN) for _ in range(3)] == [policy, policy, "stop"]
    assert "2" in str(steps.error(7, NAN, NAN))


def test_the_error_names_the_step_what_was_not_finite_and_a_remedy() -> None:
    assert "loss is no longer a finite number at step 7" in str(finite().error(7, NAN, 1.0))
    assert "gradient is no longer a finite number" in str(finite().error(7, 0.5, INF))
    assert "training.learning_rate" in str(finite().error(7, NAN, 1.0))


def test_the_history_says_what_was_left_out_and_where_weights_are_from() -> None:
    steps = finite(on_nan="roll_back")
    steps.after(NAN, NAN)
    assert "weights are those of step 4 (1 of at most 3)" in steps.sentence(6, 4)
    assert "no checkpoint" in steps.sentence(6, None)


# --- failures -------------------------------------------------------------------------------------

KILLED = Failure("process", "worker 1 of the run failed: its process was killed")


def test_workers_start_again_as_often_as_is_allowed() -> None:
    retries = Retries(2)
    assert [retries.after(KILLED) is None for _ in range(3)] == [True, True, False]
    assert "max_failures is 0" in str(Retries(0).after(KILLED))


def test_a_machine_that_is_taken_away_with_notice_is_no_failure() -> None:
    retries = Retries(0)
    assert all(retries.after(Failure("notice", "told to end")) is None for _ in range(5))


def test_an_error_that_says_what_is_wrong_is_not_tried_again() -> None:
    assert Retries(5).after(Failure("ours", "a column is missing")) == "it would come again"


def test_a_store_that_is_still_away_at_the_next_try_is_tried_again() -> None:
    retries, away = Retries(max_failures=3), Failure("store", "the store cannot be reached", "after step 8")
    assert [retries.after(away) for _ in range(3)] == [None, None, None]
    assert retries.after(away) == "faults.max_failures is 3"


def test_the_same_error_at_the_same_step_twice_in_a_row_is_not_tried_again() -> None:
    at_8 = Failure("error", "IndexError: 9", "after step 8")
    retries = Retries(5)
    assert retries.after(at_8) is None
    assert "twice" in str(retries.after(at_8))
    again = Retries(5)
    assert again.after(at_8) is None
    assert again.after(Failure("error", "IndexError: 9", "after step 12")) is None
    assert again.after(KILLED) is None
    assert again.after(KILLED) is None, "a process that is killed says nothing of why"


# --- stalls ---------------------------------------------------------------------------------------


def sign(at_s: float, idle_s: float = 0.0, *, stepped: bool = True) -> Sign:
    return Sign(at_s, idle_s, stepped)


def test_a_rank_of_which_nothing_is_heard_has_stalled_with_the_time_since() -> None:
    stalls = Stalls(Faults(stall_timeout_s=10))
    stalls.heard(0, sign(100.0))
    stalls.heard(1, sign(100.0))
    stalls.heard(0, sign(111.0))
    assert stalls.stalled(now_s=111.0) == {1: 11.0}
    stalls.left(1)
    assert not stalls.stalled(now_s=111.0)


def test_a_process_that_lives_but_does_not_advance_has_stalled_too() -> None:
    stalls = Stalls(Faults(stall_timeout_s=10))
    stalls.heard(0, sign(20.0, idle_s=10.5))
    assert stalls.stalled(now_s=20.5) == {0: 11.0}


def test_a_rank_that_was_slow_has_time_to_say_that_it_goes_on() -> None:
    stalls = Stalls(Faults(stall_timeout_s=10))
    stalls.heard(0, sign(20.0, idle_s=9.0))
    assert not stalls.stalled(now_s=22.0)


def test_before_its_first_step_a_rank_may_take_its_time() -> None:
    stalls = Stalls(Faults(stall_timeout_s=10))
    stalls.heard(0, sign(0.0))
    stalls.heard(1, sign(0.0, stepped=False))
    assert stalls.stalled(now_s=START_LIMIT_S - 1).keys() == {0}
    assert stalls.stalled(now_s=START_LIMIT_S + 1).keys() == {0, 1}


def test_by_default_a_stall_is_many_usual_steps_and_ten_minutes_at_least() -> None:
    stalls = Stalls(Faults())
    assert stalls.limit_s(True) == 600
    stalls.took(0.01)
    assert stalls.limit_s(True) == 600
    for _ in range(9):
        stalls.took(100.0)
    assert stalls.limit_s(True) == 3000, "one slow or quick step does not count"


def test_nothing_is_expected_of_workers_that_have_ended() -> None:
    stalls = Stalls(Faults(stall_timeout_s=1))
    stalls.heard(0, sign(0.0))
    stalls.over()
    assert not stalls.stalled(now_s=1e9)


def test_collectives_wait_longer_than_it_takes_to_notice_a_stall() -> None:
    for fields in ({}, {"stall_timeout_s": 7200}):
        faults = Faults(**fields)
        assert collective_timeout_s(faults) >= max(START_LIMIT_S, faults.stall_timeout_s or 0)


@pytest.mark.parametrize("fields", [{"max_failures": -1}, {"on_nan": "ignore"}, {"stall_timeout_s": 0}])
def test_fields_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Faults(**fields)
