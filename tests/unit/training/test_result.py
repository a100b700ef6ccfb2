import re

import pytest

from mizzen.store.runs import RUN_ID_PATTERN
from mizzen.training.job import parse
from mizzen.training.result import run_id


@pytest.mark.parametrize(
    "name", ["a", "digits", "3d-forecast", "x" * 47, "aaaaaaaaaaaaaaaaaaaaaaaaa-" + "b" * 21]
)
def test_a_runs_id_is_a_name_that_kubernetes_takes_for_a_service(name: str) -> None:
    job = parse({"name": name, "workload": "digits", "training": {"steps": 1}}, "the test's job")
    first, second = run_id(job), run_id(job)
    assert re.fullmatch(RUN_ID_PATTERN, first)
    assert len(first) <= 47
    assert first != second
    assert name[:20] in first
    assert "--" not in first
