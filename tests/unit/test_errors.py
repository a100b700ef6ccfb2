import inspect
import pickle
import re

import pytest

from mizzen import errors
from mizzen.errors import MizzenError

KINDS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MizzenError)
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling_with_all_it_says(kind: type[MizzenError]) -> None:
    error = kind("it broke", saw=3, allowed="1 or 2", remedy="Give 2.", field="a.b")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
    assert copy.args == error.args


def test_attributes_that_were_added_later_survive_pickling_too() -> None:
    error = errors.GateError("the gate did not pass")
    error.report = {"worst": 0.5}  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(error)).report == {"worst": 0.5}


def test_the_text_says_what_failed_the_value_what_is_allowed_and_what_to_do() -> None:
    error = errors.JobError("the seed is wrong", saw=-1, allowed="0 or more", remedy="Give another seed.")
    assert str(error) == "the seed is wrong; saw -1; allowed: 0 or more. Give another seed."


def test_the_text_leaves_out_what_nobody_knows_but_not_a_value_of_zero() -> None:
    assert str(errors.DataError("no rows are left.")) == "no rows are left"
    assert str(errors.DataError("too few rows", saw=0)) == "too few rows; saw 0"


def test_each_kind_stands_in_the_tree_of_the_docstring_with_its_exit_code_and_status() -> None:
    tree = errors.__doc__ or ""
    for kind in KINDS:
        line = re.search(rf"^.*\b{kind.__name__}\b(.*)$", tree, re.MULTILINE)
        assert line, f"{kind.__name__} is missing in the docstring"
        figures = [int(figure) for figure in re.findall(r"\b\d+\b", line[1])]
        assert set(figures) <= {kind.exit_code, kind.http_status}


@pytest.mark.parametrize(
    ("kind", "exit_code", "http_status"),
    [
        (errors.RequestError, 2, 400),
        (errors.AuthenticationError, 2, 401),
        (errors.NotFoundError, 3, 404),
        (errors.GateError, 4, 409),
        (errors.IntegrityError, 5, 503),
        (errors.ConflictError, 5, 409),
        (errors.TrainingError, 6, 500),
        (errors.OverloadedError, 7, 429),
    ],
)
def test_scripts_and_clients_can_rely_on_the_codes(
    kind: type[MizzenError], exit_code: int, http_status: int
) -> None:
    assert (kind.exit_code, kind.http_status) == (exit_code, http_status)
