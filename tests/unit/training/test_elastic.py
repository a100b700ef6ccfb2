"""What the number of workers changes: who may give which, and what becomes of batch and learning rate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mizzen.errors import JobError
from mizzen.training import elastic
from mizzen.training.batches import Division, Length
from mizzen.training.engine import readjust
from mizzen.training.job import TrainJob, parse


def job(scaling: dict[str, Any], **training: Any) -> TrainJob:
    content = {
        "name": "digits",
        "workload": "digits",
        "training": {"epochs": 1, **training},
        "scaling": scaling,
    }
    return parse(content, "job.yaml")


@pytest.mark.parametrize(
    ("workers", "least", "most", "is_elastic", "said"),
    [(3, 3, 3, False, "3"), ([2, 4], 2, 4, True, "2 to 4"), ([2, 2], 2, 2, False, "2")],
)
def test_workers_are_a_number_or_two(
    workers: Any, least: int, most: int, is_elastic: bool, said: str
) -> None:
    scaling = job({"workers": workers}).scaling
    assert (scaling.min_workers, scaling.max_workers, scaling.is_elastic) == (least, most, is_elastic)
    assert str(scaling) == said


def test_the_two_numbers_survive_the_way_to_a_worker() -> None:
    wanted = job({"workers": [1, 2]})
    assert parse(wanted.model_dump(mode="json", exclude_unset=True), "job") == wanted


@pytest.mark.parametrize("workers", [0, [0, 2], [3, 2], [1], [1, 2, 3], "2", [1, "2"], 1.5, True, None])
def test_other_workers_are_refused_with_what_is_allowed(workers: Any) -> None:
    with pytest.raises(JobError, match=r"scaling\.workers: must be a number of 1 or more, or \[min, max\]"):
        job({"workers": workers})


def test_the_batch_behind_a_step_is_kept_at_any_number_of_workers() -> None:
    wanted = job({"workers": [1, 4]}, micro_batch_size=8)
    assert [elastic.division(wanted, n) for n in (1, 2, 3, 4)] == [
        Division(32, 1, 4),
        Division(32, 2, 2),
        Division(32, 3, 2),
        Division(32, 4, 1),
    ]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.data())
def test_no_worker_takes_more_at_a_time_than_the_job_says_nor_nothing(
    most: int, micro: int, accumulation: int, data: st.DataObject
) -> None:
    workers = data.draw(st.integers(1, most))
    wanted = job({"workers": [1, most]}, micro_batch_size=micro, gradient_accumulation_steps=accumulation)
    divided = elastic.division(wanted, workers)
    assert divided.global_batch_size == wanted.global_batch_size
    assert divided.micro_batch_size <= micro
    for replica in range(workers):
        assert sum(divided.weight(micro_step, replica) for micro_step in range(divided.micro_steps)) > 0
    # As few micro-steps as can be.
    assert (divided.micro_steps - 1) * workers * micro < divided.global_batch_size
    if workers == most:
        assert divided == Division(wanted.global_batch_size, most, accumulation)


def test_workers_that_share_a_replica_count_once() -> None:
    content: dict[str, Any] = {"name": "chat", "workload": "chat", "data": {"dataset": "chatterbot-corpus"}}
    content |= {"model": {"base": "elsewhere"}}
    content |= {"scaling": {"workers": 4}, "deepspeed": {"tensor_parallel": 2}}
    content |= {"training": {"epochs": 1, "micro_batch_size": 4}}
    assert elastic.division(parse(content, "job"), 4) == Division(8, 2, 1)


SCALED = {"workers": [1, 4], "elastic": "scale_learning_rate"}


def test_or_each_workers_share_is_kept_and_adam_follows_the_batch() -> None:
    wanted = job(SCALED, micro_batch_size=8, gradient_accumulation_steps=2, betas=[0.9, 0.99])
    divided = elastic.division(wanted, 1)
    assert divided == Division(16, 1, 2)
    assert elastic.betas(wanted, divided) == pytest.approx((0.975, 0.9975))
    assert elastic.betas(wanted, elastic.division(wanted, 4)) == (0.9, 0.99)


def test_its_learning_rate_is_asked_by_examples_and_goes_on_where_others_stopped() -> None:
    wanted = job(SCALED, micro_batch_size=8)
    length = Length(num_steps=10, evaluate_every=10, global_batch_size=32)
    asked: list[float] = []

    def schedule(step: float) -> float:
        asked.append(step)
        return 1 - step / 10

    alone = elastic.Origin()
    factor = elastic.learning_rate_factor(wanted, schedule, length, elastic.division(wanted, 1), alone)
    assert factor(4) == pytest.approx(0.5 * 0.9)  # 32 examples: as far as one step of four workers
    alone.step, alone.samples = 4, 160  # a checkpoint of four workers' fourth step, and one more by hand
    assert factor(6) == pytest.approx(0.5 * (1 - (160 + 16) / 320))
    assert asked == [1.0, 5.5]


def test_with_the_batch_kept_the_learning_rate_is_that_of_the_job() -> None:
    wanted = job({"workers": [1, 4]}, micro_batch_size=8)
    length = Length(num_steps=10, evaluate_every=10, global_batch_size=32)
    divided = elastic.division(wanted, 1)
    schedule = {0: 1.0, 1: 0.5}.__getitem__
    assert elastic.learning_rate_factor(wanted, schedule, length, divided, elastic.Origin()) is schedule  # type: ignore[arg-type]
    assert elastic.betas(wanted, divided) == wanted.training.betas


def test_a_resize_comes_after_all_workers_stand_still() -> None:
    resize = elastic.Resize(longest_wait_s=60)
    assert resize.next(wanted=False, still=False, now_s=0) == "go_on"
    assert resize.next(wanted=True, still=False, now_s=1) == "ask"
    assert resize.next(wanted=True, still=False, now_s=59) == "go_on"
    assert resize.next(wanted=True, still=True, now_s=61) == "resize"
    assert resize.asked_s is None


@pytest.mark.parametrize(
    ("wanted", "still", "now_s"), [(True, False, 61.5), (False, True, 10), (False, False, 10)]
)
def test_it_is_called_off_if_the_checkpoint_does_not_come_or_the_room_is_gone(
    wanted: bool, still: bool, now_s: float
) -> None:
    resize = elastic.Resize(longest_wait_s=60)
    resize.next(wanted=True, still=False, now_s=1)
    assert resize.next(wanted=wanted, still=still, now_s=now_s) == "call_off"
    assert resize.next(wanted=True, still=False, now_s=now_s + 1) == "ask"


def test_what_a_checkpoint_of_other_workers_says_of_the_learning_rate_is_put_right() -> None:
    """As when four workers' checkpoint of step 4 is loaded by one."""
    wanted = job(SCALED, micro_batch_size=8, learning_rate=0.1, betas=[0.9, 0.99])
    length = Length(num_steps=10, evaluate_every=10, global_batch_size=32)

    def begun(workers: int) -> tuple[elastic.Origin, SimpleNamespace]:
        divided, origin = elastic.division(wanted, workers), elastic.Origin()
        factor = elastic.learning_rate_factor(wanted, lambda step: 1 - step / 10, length, divided, origin)
        optimiser = torch.optim.AdamW([torch.zeros(1)], lr=0.1, betas=elastic.betas(wanted, divided))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return origin, SimpleNamespace(optimizer=optimiser, lr_scheduler=scheduler)

    _, four = begun(4)
    for _ in range(4):
        four.optimizer.step()
        four.lr_scheduler.step()
    origin, one = begun(1)
    one.optimizer.load_state_dict(four.optimizer.state_dict())
    one.lr_scheduler.load_state_dict(four.lr_scheduler.state_dict())
    origin.step, origin.samples = 4, 128
    readjust(one, elastic.betas(wanted, elastic.division(wanted, 1)))
    [group] = one.optimizer.param_groups
    assert group["lr"] == pytest.approx(0.1 * 0.5 * 0.6)
    assert group["betas"] == pytest.approx((0.975, 0.9975))
    for _ in range(4):  # as far as one step of four
        one.optimizer.step()
        one.lr_scheduler.step()
    assert group["lr"] == pytest.approx(0.1 * 0.5 * 0.5)
