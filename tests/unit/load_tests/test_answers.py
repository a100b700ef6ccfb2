"""A peer is compared with Mizzen only if it gives the same answers."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from answers import Checker, Different

ITEMS = {
    "items": [
        {"item_id": "a", "score": 2.0, "attributes": {"year": 1990}},
        {"item_id": "b", "score": 1.0, "attributes": {"year": 1991}},
    ],
    "recommendation_id": "only one of them says this",
}
FORECAST = {
    "outputs": [{"content": [{"name": "T1", "mean_forecast": [1e6, 2e6], "quantiles": {"0.1": [9e5, 1e6]}}]}]
}

CONTENT = ("outputs", 0, "content", 0)


def changed(answer: Any, *path: Any) -> Any:
    """`answer` with the last of `path` in the place that the others name."""
    result = copy.deepcopy(answer)
    place = result
    for key in path[:-2]:
        place = place[key]
    place[path[-2]] = path[-1]
    return result


@pytest.mark.parametrize(
    ("workload", "one", "other"),
    [
        ("recommendation", ITEMS, {"items": ITEMS["items"]}),
        ("recommendation", ITEMS, changed(ITEMS, "items", 0, "score", 2.00001)),
        ("forecasting", FORECAST, FORECAST),
        (
            "forecasting",
            FORECAST,
            changed(FORECAST, "outputs", 0, "content", 0, "mean_forecast", [1e6 + 1, 2e6]),
        ),
    ],
)
def test_rounding_and_what_only_one_says_make_no_difference(workload: str, one: Any, other: Any) -> None:
    check = Checker(workload)
    check("mizzen", [one, one])
    check("litserve", [other, one])


@pytest.mark.parametrize(
    ("workload", "one", "other"),
    [
        ("recommendation", ITEMS, {"items": ITEMS["items"][:1]}),
        ("recommendation", ITEMS, changed(ITEMS, "items", 0, "item_id", "c")),
        ("recommendation", ITEMS, changed(ITEMS, "items", 0, "score", 2.1)),
        ("recommendation", ITEMS, changed(ITEMS, "items", 1, "attributes", {"year": 1992})),
        ("recommendation", ITEMS, changed(ITEMS, "items", ITEMS["items"][::-1])),
        ("forecasting", FORECAST, changed(FORECAST, *CONTENT, "name", "T2")),
        ("forecasting", FORECAST, changed(FORECAST, *CONTENT, "mean_forecast", [1e6])),
        ("forecasting", FORECAST, changed(FORECAST, *CONTENT, "quantiles", {})),
        ("forecasting", FORECAST, changed(FORECAST, *CONTENT, "quantiles", {"0.1": [9e5, 2e6]})),
    ],
)
def test_another_answer_ends_the_run(workload: str, one: Any, other: Any) -> None:
    check = Checker(workload)
    check("mizzen", [one])
    with pytest.raises(Different, match="litserve"):
        check("litserve", [other])


def test_items_whose_scores_are_as_good_as_equal_may_change_places() -> None:
    near = changed(ITEMS, "items", 1, "score", 1.99999)
    check = Checker("recommendation")
    check("mizzen", [near])
    check("litserve", [changed(near, "items", near["items"][::-1])])
