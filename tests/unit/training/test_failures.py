"""What ended a group of workers, in a sentence."""

import pytest

from mizzen.errors import DataError, NoticeError, StoreError, TrainingError
from mizzen.training.failures import MAX_TRACEBACK_LINES, explained, failure_of

KILLED = (
    "The actor died unexpectedly before finishing this task.\n\tpid: 30387\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR ..."
)
GONE = "The actor died because its node has died. Node Id: 0123, the actor's node was terminated unexpectedly"
GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:51830"


class Failed(Exception):
    """As Ray Train's: the errors of workers by their rank."""

    def __init__(self, **failures: Exception) -> None:
        super().__init__("Training failed due to worker errors")
        self.worker_failures = {int(rank.removeprefix("rank")): error for rank, error in failures.items()}


def test_an_error_of_ours_comes_out_of_the_worker_as_it_is() -> None:
    ours = DataError("a column is missing", saw="x")
    assert explained(Failed(rank3=ours)) is ours
    assert failure_of(Failed(rank3=ours)).kind == "ours"


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
    error = explained(Failed(rank1=RuntimeError(KILLED)))
    assert str(error).startswith("worker 1 of the run failed: its process was killed")
    assert "cluster.worker_memory" in str(error)
    assert "\n" not in str(error)


def test_a_failure_without_workers_is_told_too() -> None:
    assert "no room" in str(explained(RuntimeError("no room")))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError(KILLED), "process"),
        (RuntimeError(GONE), "node"),
        (RuntimeError("The actor 4eab is unavailable: The actor is temporarily unavailable"), "node"),
        (RuntimeError(GLOO), "connection"),
        (ValueError("shapes do not fit"), "error"),
        (StoreError("the store cannot be reached"), "store"),
        (NoticeError("told to end"), "notice"),
    ],
)
def test_each_failure_has_a_kind(error: Exception, kind: str) -> None:
    assert failure_of(Failed(rank1=error)).kind == kind


def test_of_several_the_one_counts_with_which_it_began() -> None:
    assert "worker 1" in failure_of(Failed(rank0=RuntimeError(GLOO), rank1=RuntimeError(KILLED))).sentence
    assert "worker 2" in failure_of(Failed(rank0=RuntimeError(GLOO), rank2=ValueError("bad"))).sentence


def test_an_exception_is_told_with_its_type_and_the_step_that_its_worker_has_noted() -> None:
    error = ValueError("shapes do not fit")
    error.add_note("after step 8")
    failure = failure_of(Failed(rank0=error))
    assert (failure.sentence, failure.where) == (
        "worker 0 of the run failed: ValueError: shapes do not fit", "after step 8",
    )  # fmt: skip


def test_the_error_at_the_end_names_each_failure_before() -> None:
    before = [
        "worker 1 failed; the workers are started again",
        "worker 0 failed; the workers are started again",
    ]
    for last in (RuntimeError(KILLED), ValueError("bad"), DataError("a column is missing")):
        text = str(explained(Failed(rank0=last), before))
        assert all(sentence in text for sentence in before)
