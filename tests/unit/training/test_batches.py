"""The order of examples: each once an epoch, the same at any number of workers, resumable anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizzen.training.batches import Division, EvaluationBatches, Length, MicroBatches, SampleStream

DIVISIONS = st.builds(
    lambda replicas, micro_steps, more: Division(replicas + more, replicas, micro_steps),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 30),
)
"""Of any size, but for steps that leave a worker without an example."""


def consumed(n: int, division: Division, num_steps: int, start: int = 0) -> list[int]:
    """The examples that all workers take together and that count, step by step."""
    order: list[int] = []
    replicas = [
        iter(MicroBatches(SampleStream(n, 7), division, replica, start))
        for replica in range(division.replicas)
    ]
    for _ in range(num_steps):
        for replica, batches in enumerate(replicas):
            for micro_step in range(division.micro_steps):
                batch = next(batches)
                assert 1 <= len(batch) <= division.micro_batch_size
                order += batch if division.weight(micro_step, replica) else []
    return order


@given(st.integers(1, 50), DIVISIONS)
def test_each_example_is_taken_exactly_once_in_each_epoch(n: int, division: Division) -> None:
    order = consumed(n, division, num_steps=-(-3 * n // division.global_batch_size))
    for epoch in range(3):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(st.integers(1, 40), st.lists(st.tuples(DIVISIONS, st.integers(0, 3)), min_size=1, max_size=5))
def test_no_example_is_lost_or_doubled_whatever_workers_come_and_go(
    n: int, lives: list[tuple[Division, int]]
) -> None:
    order: list[int] = []
    for division, num_steps in lives:
        order += consumed(n, division, num_steps, start=len(order))
    stream = SampleStream(n, 7)
    assert order == [stream.at(i) for i in range(len(order))]


@given(DIVISIONS)
def test_pieces_are_even_and_each_example_of_a_step_counts_the_same(division: Division) -> None:
    each = [
        (len(division.piece(micro_step, replica)), division.weight(micro_step, replica))
        for micro_step in range(division.micro_steps)
        for replica in range(division.replicas)
    ]
    counting = [(size, weight) for size, weight in each if weight]
    sizes = [size for size, _ in counting]
    assert sum(sizes) == division.global_batch_size
    assert max(sizes) == division.micro_batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(counting) == len(each) or max(sizes) == 1
    counts = {round(weight / size / len(each) * division.global_batch_size, 9) for size, weight in counting}
    assert counts == {1.0}
    if len(counting) == len(each) and max(sizes) == min(sizes):
        assert {weight for _, weight in each} == {1.0}


def test_epochs_differ_and_a_seed_repeats_them() -> None:
    order = consumed(100, Division(10, 1, 1), 20)
    assert order[:100] != order[100:]
    assert order == consumed(100, Division(10, 1, 1), 20)


def test_the_global_order_does_not_depend_on_the_number_of_workers() -> None:
    whole = consumed(40, Division(8, 1, 1), 10)
    assert whole == consumed(40, Division(8, 2, 1), 10) == consumed(40, Division(8, 3, 2), 10)


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
    length = Length(num_steps=10, evaluate_every=4, global_batch_size=6)
    evaluated = [step for step in range(1, 11) if length.evaluates(6 * (step - 1), 6 * step)]
    assert evaluated == [4, 8, 10]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=40))
def test_steps_of_any_size_are_evaluated_as_often_as_those_of_the_job(sizes: list[int]) -> None:
    length, after, times = Length(num_steps=10, evaluate_every=2, global_batch_size=6), 0, 0
    for number, size in enumerate(sizes):
        if after >= length.num_samples:
            break
        before, after = after, after + size
        times += length.evaluates(before, after)
        last = after >= length.num_samples
        assert length.steps_at(number + 1, after, 1) == number + 1 + max(0, 60 - after)
        assert length.steps_at(number + 1, after, 6) > number + 1 or last
    assert times == min(after, 60) // 12
