"""Who meets the canary."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mizzen.serving.split import Split


def scope(path: str = "/v1/add", **headers: str) -> dict[str, Any]:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "path": f"/shop{path}", "root_path": "/shop", "headers": given}


def split(weight: float, salt: bytes = b"d" * 64) -> Split:
    return Split(weight, 7, salt)


def clients(one: Split, num: int = 2000) -> set[int]:
    return {n for n in range(num) if one.takes(scope(mizzen_session=f"client-{n}"))}


def test_a_share_of_the_clients_meets_it_always_the_same_ones():
    few = clients(split(0.1))
    assert 140 < len(few) < 260  # four standard deviations around 200
    assert clients(split(0.1)) == few


def test_a_larger_weight_takes_more_clients_and_gives_none_back():
    assert clients(split(0.1)) < clients(split(0.3)) < clients(split(1.0))
    assert clients(split(0.0)) == set()
    assert len(clients(split(1.0))) == 2000


def test_another_canary_meets_other_clients():
    first, second = clients(split(0.1)), clients(split(0.1, b"e" * 64))
    assert len(first & second) < len(first) / 2


def test_the_session_decides_before_the_requests_id_and_that_before_chance():
    one = split(0.5)
    met = next(f"s{n}" for n in range(100) if one.takes(scope(mizzen_session=f"s{n}")))
    not_met = next(f"r{n}" for n in range(100) if not one.takes(scope(x_request_id=f"r{n}")))
    for headers in ({"mizzen_session": met, "x_request_id": not_met}, {"mizzen_session": met}):
        assert one.takes(scope(**headers))
    again = [one.takes(scope(x_request_id=not_met)) for _ in range(20)]
    assert again == [False] * 20
    random.seed(1)
    by_chance = sum(one.takes(scope()) for _ in range(1000))
    assert 400 < by_chance < 600


@pytest.mark.parametrize(
    "path", ["/readyz", "/metrics", "/docs", "/openapi.json", "/examples", "/v2/health/live"]
)
def test_what_tells_of_the_application_is_answered_by_the_first_version(path):
    assert not split(1.0).takes(scope(path))


def test_a_request_that_names_its_version_meets_that():
    nothing, everything = split(0.0), split(1.0)
    assert nothing.takes(scope("/v2/models/shop/versions/7/infer"))
    assert not everything.takes(scope("/v2/models/shop/versions/6/infer"))
    assert everything.takes(scope("/v2/models/shop/infer"))
    assert not nothing.takes(scope("/v2/models/shop/infer"))
