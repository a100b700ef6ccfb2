"""The order of examples: each once an epoch, the same at any number of workers, resumable anywhere."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizzen.training.batches import EvaluationBatches, Length, MicroBatches, SampleStream


def consumed(n: int, micro: int, world: int, num_batches: int, start: int = 0) -> list[int]:
    ranks = [
        list(islice(MicroBatches(SampleStream(n, 7), micro, rank, world, start), num_batches))
        for rank in range(world)
    ]
    return [i for batches in zip(*ranks, strict=True) for batch in batches for i in batch]


@given(st.integers(1, 50), st.integers(1, 5), st.integers(1, 4))
def test_each_example_is_taken_exactly_once_in_each_epoch(n: int, micro: int, world: int) -> None:
    order = consumed(n, micro, world, num_batches=-(-3 * n // (micro * world)))
    for epoch in range(3):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_epochs_differ_and_a_seed_repeats_them() -> None:
    order = consumed(100, 10, 1, 20)
    assert order[:100] != order[100:]
    assert order == consumed(100, 10, 1, 20)


def test_the_global_order_does_not_depend_on_the_number_of_workers() -> None:
    assert consumed(40, 8, 1, 10) == consumed(40, 4, 2, 10) == consumed(40, 2, 4, 10)


def test_a_run_goes_on_where_it_stopped_also_with_other_workers() -> None:
    whole = consumed(30, 6, 1, 10)
    assert whole[24:] == consumed(30, 3, 2, 6, start=24)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 5))
def test_evaluation_sees_each_example_once_with_equal_batches_on_all_ranks(
    n: int, size: int, world: int
) -> None:
    per_rank = [list(EvaluationBatches(n, size, rank, world)) for rank in range(world)]
    assert len({tuple(len(indices) for indices, _ in batches) for batches in per_rank}) == 1
    counted = [
        i
        for batches in per_rank
        for indices, weights in batches
        for i, weight in zip(indices, weights, strict=True)
        if weight
    ]
    assert sorted(counted) == list(range(n))


@pytest.mark.parametrize(
    ("epochs", "steps", "expected_steps", "expected_every"),
    [(2, None, 7, 3), (None, 5, 5, 5), (1, None, 4, 3), (None, 0, 0, 1)],
)
def test_the_length_follows_from_epochs_or_steps(
    epochs: int | None, steps: int | None, expected_steps: int, expected_every: int
) -> None:
    length = Length.of(
        num_samples=100, global_batch_size=32, epochs=epochs, steps=steps, evaluate_every_steps=None
    )
    assert (length.num_steps, length.evaluate_every) == (expected_steps, expected_every)


def test_the_last_step_is_always_evaluated() -> None:
    length = Length(num_steps=10, evaluate_every=4)
    assert [step for step in range(1, 11) if length.evaluates_after(step)] == [4, 8, 10]
