"""The route over a really exported model: whose history, which items, and what a wrong request is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mizzen.errors import RequestError
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.contract import Prepared
from mizzen.workloads.recommendation import workload
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.filters import AttributeFilters, Condition
from mizzen.workloads.recommendation.histories import Histories
from mizzen.workloads.recommendation.ranking import Query, Recommender

Post = Callable[[Any], httpx.Response]
ALL = [f"item {number:02d}" for number in range(24)]


@pytest.fixture(scope="module")
def post(served: Any) -> Post:
    """Sends one body to the first route."""
    return lambda body: served.ask("/v1/recommendations", body)


@pytest.fixture(scope="module")
def stored(exported: Path) -> Callable[[str], list[str]]:
    """The stored history of a user, as item ids."""
    read = Histories(exported / "histories.arrow")
    ids = Catalogue.read(exported / "items.arrow").item_ids

    def look_up(user: str) -> list[str]:
        row = read.find(user)
        assert row is not None
        return [ids[number - 1] for number in read.items(row)]

    return look_up


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [item["item_id"] for item in response.json()["items"]]


def test_a_known_user_gets_unseen_items_best_first_from_a_named_version(
    post: Post, stored: Callable[[str], list[str]], exported: Path
) -> None:
    user = min((f"user {n}" for n in range(40)), key=lambda u: len(stored(u)))
    response = post({"user_id": user, "num_results": 5})
    body = response.json()
    assert len(set(ids(response))) == 5
    assert not set(ids(response)) & set(stored(user))
    scores = [item["score"] for item in body["items"]]
    assert scores == sorted(scores, reverse=True)
    assert (body["model"], body["model_version"], body["model_digest"]) == ("films", 3, "sha256:abc")
    assert (body["user_id"], body["fallback"], body["fallback_reason"]) == (user, None, None)
    assert set(body["items"][0]["attributes"]) == {"title", "year", "genres"}


def test_a_user_is_answered_like_the_stored_history(post: Post, stored: Callable[[str], list[str]]) -> None:
    by_user = post({"user_id": "user 7"})
    by_history = post({"history": stored("user 7")})
    assert ids(by_user) == ids(by_history)
    assert by_user.json()["items"] == by_history.json()["items"]
    assert by_user.json()["recommendation_id"] != by_history.json()["recommendation_id"]


def test_the_scores_are_those_of_the_network(
    post: Post, world: tuple[Any, Prepared, torch.nn.Module], exported: Path
) -> None:
    numbers = Catalogue.read(exported / "items.arrow").numbers
    history = ["item 03", "item 04", "item 05"]
    with torch.inference_mode():
        scores = world[2](torch.tensor([[numbers[item] for item in history]]))[0]
    response = post({"history": history, "exclude_seen": False, "num_results": 24})
    assert len(ids(response)) == 24
    for item in response.json()["items"]:
        assert item["score"] == pytest.approx(scores[numbers[item["item_id"]] - 1].item(), abs=1e-4)


def test_seen_items_are_shown_on_request(post: Post) -> None:
    history = ALL[:20]
    assert set(ids(post({"history": history, "num_results": 100}))) == set(ALL[20:])
    assert set(ids(post({"history": history, "num_results": 100, "exclude_seen": False}))) == set(ALL)


def test_items_before_the_models_window_still_count_as_seen(post: Post) -> None:
    assert "item 00" not in ids(post({"history": ALL[:13], "num_results": 100}))


@pytest.mark.parametrize(
    ("body", "reason", "unknown"),
    [
        ({"user_id": "stranger"}, "the user is not known", []),
        ({"user_id": 4_000_000_000_000}, "the user is not known", []),
        ({"history": []}, "the history is empty", []),
        ({"history": ["x", 7, "x"]}, "no item of the history is known", ["x", "7"]),
        ({"user_id": "user 7", "history": []}, "the history is empty", []),
    ],
)
def test_somebody_unknown_gets_popular_items_and_is_told_so(
    post: Post, body: dict[str, Any], reason: str, unknown: list[str], exported: Path
) -> None:
    response = post(body)
    assert response.json()["fallback"] == "popularity"
    assert reason in response.json()["fallback_reason"]
    assert response.json()["unknown_items"] == unknown
    counts = Catalogue.read(exported / "items.arrow").count("end")
    assert [item["score"] for item in response.json()["items"]] == np.sort(counts)[::-1][:10].tolist()


def test_unknown_items_of_a_history_are_left_out_and_named(post: Post) -> None:
    mixed = post({"history": ["item 03", "lost", "item 04", 12]})
    assert mixed.json()["unknown_items"] == ["lost", "12"]
    assert mixed.json()["fallback"] is None
    assert mixed.json()["items"] == post({"history": ["item 03", "item 04"]}).json()["items"]


@pytest.mark.parametrize(
    ("filters", "allowed"),
    [
        ({"year": {"ge": 2000}}, range(20, 24)),
        ({"year": {"ge": 1983, "le": 1986.5}}, [3, 4, 6]),
        ({"year": {"in": [1985, 1990]}}, [10]),
        ({"year": {"not_in": [1980 + n for n in range(2, 24)]}}, [0, 1, 5]),
        ({"genres": {"in": ["by 2", "no such"]}}, range(16, 24)),
        ({"genres": {"in": ["by 0"], "not_in": ["odd"]}}, [0, 2, 4, 6]),
        ({"genres": {"in": ["odd"]}, "year": {"le": 1984}}, [1, 3]),
        ({"title": {"in": ["The film number 9"]}}, [9]),
        ({"title": {"not_in": [f"The film number {n}" for n in range(2, 24)]}}, [0, 1]),
        ({"genres": {"in": ["no such"]}}, []),
    ],
)
def test_filters_leave_exactly_what_they_allow(post: Post, filters: dict[str, Any], allowed: Any) -> None:
    body = {"history": ["item 12"], "exclude_seen": False, "num_results": 100, "filters": filters}
    assert sorted(ids(post(body))) == [f"item {number:02d}" for number in allowed]
    assert sorted(ids(post({**body, "history": []}))) == [f"item {number:02d}" for number in allowed]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "give user_id or history"),
        ({"user_id": None}, "give user_id or history"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": True}, "user_id"),
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": "u", "num_result": 3}, "num_result"),
        ({"user_id": "u", "num_results": 0}, "greater than or equal to 1"),
        ({"user_id": "u", "num_results": 101}, "less than or equal to 100"),
        ({"user_id": "u", "num_results": "10"}, "valid integer"),
        ({"user_id": "u", "exclude_seen": "yes"}, "exclude_seen"),
        ({"history": "item 01"}, "valid array"),
        ({"history": [None]}, "history"),
        ({"history": ["x" * 257]}, "at most 256"),
        ({"history": ["item 01"] * 10_001}, "at most 10000"),
        ({"user_id": "u", "filters": {"colour": {"in": ["red"]}}}, "title, year, genres"),
        ({"user_id": "u", "filters": {"year": {}}}, "at least one of in, not_in, ge and le"),
        ({"user_id": "u", "filters": {"year": {"in": []}}}, "at least 1"),
        ({"user_id": "u", "filters": {"year": {"in": ["1999"]}}}, "allowed: numbers"),
        ({"user_id": "u", "filters": {"year": {"gt": 3}}}, "gt"),
        ({"user_id": "u", "filters": {"year": 1999}}, "filters"),
        ({"user_id": "u", "filters": {"title": {"in": [3]}}}, "allowed: texts"),
        ({"user_id": "u", "filters": {"genres": {"ge": 3}}}, "allowed: in and not_in"),
        ([], "object"),
        (b"{", "JSON"),
        (b'{"user_id": "\\ud800"}', "JSON"),
        (b'{"user_id": "u", "filters": {"year": {"ge": NaN}}}', "finite"),
        (b'{"user_id": "u", "filters": {"year": {"in": [1' + b"0" * 400 + b"]}}}", "year"),
        (b'{"user_id": 1' + b"0" * 400 + b"}", "user_id"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(post: Post, body: Any, told: str) -> None:
    response = post(body)
    assert response.status_code == 400
    assert told in response.text.replace("\\'", "'")


def test_a_history_of_the_largest_size_is_answered(post: Post) -> None:
    assert ids(post({"history": ALL[:2] * 5_000, "num_results": 3})) == ids(
        post({"history": ALL[:2] * 6, "num_results": 3})
    )


def test_a_batch_is_answered_like_its_parts_and_one_bad_query_costs_only_itself(exported: Path) -> None:
    items = Catalogue.read(exported / "items.arrow")
    recommender = Recommender(exported, OnnxRuntime("cpu", 1), items, AttributeFilters(items))
    queries = [
        Query(None, ["item 01"], 3, True, {}),
        Query("nobody", None, 3, True, {}),
        Query("user 3", None, 3, True, {"colour": Condition(ge=1)}),
        Query("user 3", None, 3, True, {}),
        Query(None, ALL * 2, 3, False, {}),
    ]
    together = recommender.answer(queries)
    assert isinstance(together[2], RequestError)
    for query, answer in zip(queries, together, strict=True):
        single = recommender.answer([query])[0]
        if isinstance(single, Exception) or isinstance(answer, Exception):
            assert str(single) == str(answer)
            continue
        assert single.rows == answer.rows
        assert single.scores == pytest.approx(answer.scores, abs=1e-4)


def test_the_examples_work_on_every_route_and_show_a_known_user_first(served: Any, exported: Path) -> None:
    examples = workload.examples(exported)
    answers = [served.ask(example.path, dict(example.body)) for example in examples]
    assert [answer.status_code for answer in answers] == [200] * len(examples)
    assert {example.path for example in examples} == {
        "/v1/recommendations", "/v1/rankings", "/v1/similar-items", "/v1/feedback"
    }  # fmt: skip
    assert [answer.json()["fallback"] for answer in answers[:3]] == [None, None, "popularity"]


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(ALL)
)
CONDITIONS = st.dictionaries(
    st.sampled_from(["in", "not_in", "ge", "le", "like"]), SCALARS | st.lists(SCALARS, max_size=3), max_size=3
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "user_id": SCALARS,
        "history": SCALARS | st.lists(st.sampled_from(ALL) | SCALARS, max_size=30),
        "num_results": st.integers(-1, 200) | SCALARS,
        "exclude_seen": SCALARS,
        "filters": SCALARS | st.dictionaries(st.sampled_from(["year", "title", "genres", "x"]), CONDITIONS),
        "surprise": SCALARS,
    },
)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.lists(st.text(max_size=8) | st.sampled_from(["odd", "by 1"]), min_size=1, max_size=4)
RIGHT_BODIES = st.fixed_dictionaries(
    {"history": st.lists(st.sampled_from(ALL) | st.integers(-(2**63), 2**63 - 1), max_size=30)},
    optional={
        "num_results": st.integers(1, 100),
        "exclude_seen": st.booleans(),
        "filters": st.fixed_dictionaries(
            {},
            optional={
                "year": st.fixed_dictionaries(
                    {"ge": NUMBERS}, optional={"le": NUMBERS, "in": st.lists(NUMBERS, min_size=1, max_size=3)}
                ),
                "genres": st.fixed_dictionaries({"in": NAMES}, optional={"not_in": NAMES}),
            },
        ),
    },
)


@settings(max_examples=150, deadline=None)
@given(body=BODIES)
def test_any_body_is_answered_or_refused_but_never_breaks_the_server(post: Post, body: Any) -> None:
    response = post(json.dumps(body).encode())
    assert response.status_code in (200, 400)
    if response.status_code == 200:
        assert body.get("user_id") is not None or body.get("history") is not None
        assert "surprise" not in body


@settings(max_examples=100, deadline=None)
@given(body=RIGHT_BODIES)
def test_every_right_body_is_answered_with_distinct_items(post: Post, body: Any) -> None:
    items = ids(post(body))
    assert len(items) == len(set(items)) <= body.get("num_results", 10)
    if body.get("exclude_seen", True):
        assert not set(items) & set(body["history"])
