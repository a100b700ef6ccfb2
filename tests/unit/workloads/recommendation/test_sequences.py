"""Windows cover training exactly, and held-out items never leak into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mizzen.workloads.contract import Prepared
from mizzen.workloads.recommendation import workload
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.sequences import Questions, TrainingWindows, collate, pad_left

Prepare = Callable[..., Prepared]


@pytest.fixture
def two_users(prepare: Prepare) -> Prepared:
    """One who met a to i, one who met three items, which leaves nothing to train on."""
    letters = "abcdefghi"
    rows = pa.table(
        {
            "user": ["long"] * 9 + ["short"] * 3,
            "item": [*letters, *"abc"],
            "timestamp": [*range(9), *range(3)],
        }
    )
    return prepare({"met.csv": [rows]}, min_interactions=3)


def letters(prepared: Prepared, numbers: Any) -> str:
    ids = Catalogue.read(prepared.folder / "items.arrow").item_ids
    return "".join(ids[n - 1] if n else "." for n in np.asarray(numbers))


def test_windows_hold_each_training_step_once(two_users: Prepared) -> None:
    windows = TrainingWindows(two_users, max_length=4)
    shown = {
        (letters(two_users, w.history), letters(two_users, w.target))
        for w in map(windows.__getitem__, range(2))
    }
    assert len(windows) == 2
    assert shown == {("cdef", "defg"), ("ab", "bc")}
    with pytest.raises(IndexError):
        windows[2]


def test_one_window_is_enough_for_a_short_history(two_users: Prepared) -> None:
    windows = TrainingWindows(two_users, max_length=50)
    assert [letters(two_users, windows[0].history), letters(two_users, windows[0].target)] == [
        "abcdef",
        "bcdefg",
    ]
    assert len(windows) == 1


@pytest.mark.parametrize(
    ("split", "history", "target", "seen"),
    [("validation", "efg", "h", "abcdefg"), ("test", "fgh", "i", "abcdefgh")],
)
def test_the_last_item_is_for_test_and_the_one_before_for_validation(
    two_users: Prepared, split: Any, history: str, target: str, seen: str
) -> None:
    questions = Questions(two_users, max_length=3, split=split)
    long = max(map(questions.__getitem__, range(2)), key=lambda question: len(question.seen))
    assert letters(two_users, long.history) == history
    assert letters(two_users, [long.target]) == target
    assert sorted(letters(two_users, long.seen)) == sorted(seen)


def test_an_item_that_a_user_comes_back_to_is_not_hidden(prepare: Prepare) -> None:
    rows = pa.table({"user": ["u"] * 5, "item": list("abcda"), "timestamp": range(5)})
    question = Questions(prepare({"met.csv": [rows]}), max_length=5, split="test")[0]
    assert question.target in question.history
    assert question.target not in question.seen


def test_no_more_users_are_asked_than_the_job_allows(
    prepare: Prepare, world_tables: dict[str, list[pa.Table]]
) -> None:
    config = workload.model_config()
    prepared = prepare(world_tables, max_evaluation_users=7)
    assert len(workload.evaluation_data(config, prepared, "test")) == 7  # type: ignore[arg-type]


def test_batches_are_padded_on_the_left(two_users: Prepared) -> None:
    windows, questions = TrainingWindows(two_users, 4), Questions(two_users, 4, "test")
    batch = collate([windows[0], windows[1]])
    assert sorted(letters(two_users, row) for row in batch["history"]) == ["..ab", "cdef"]
    assert sorted(letters(two_users, row) for row in batch["target"]) == ["..bc", "defg"]
    asked = collate([questions[0], questions[1]])
    assert asked["history"].shape == (2, 4)
    assert asked["seen"].shape == (2, 8)
    assert asked["target"].shape == (2,)
    assert pad_left([np.zeros(0, np.int64)]).tolist() == [[0]]
