"""What may be asked of the recommendation route beyond a user: sessions, pages, promotions, many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mizzen.workloads.recommendation.answers import (
    RankingResponse,
    RecommendationResponse,
    RecommendationResponses,
    SimilarItemsResponse,
)

Post = Callable[[Any], httpx.Response]
ALL = [f"item {number:02d}" for number in range(24)]


@pytest.fixture(scope="module")
def post(served: Any) -> Post:
    return lambda body: served.ask("/v1/recommendations", body)


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [item["item_id"] for item in response.json()["items"]]


# --- sessions -------------------------------------------------------------------------------------


def test_the_items_of_a_session_follow_the_history(post: Post) -> None:
    whole = post({"history": ALL[3:7]})
    split = post({"history": ALL[3:5], "context": {"session_items": ALL[5:7]}})
    assert whole.json()["items"] == split.json()["items"]
    assert split.json()["fallback"] is None


def test_the_items_of_a_session_follow_what_is_stored_for_the_user(post: Post) -> None:
    stored = post({"user_id": "user 3", "exclude_seen": False, "num_results": 24})
    moved_on = post(
        {
            "user_id": "user 3",
            "exclude_seen": False,
            "num_results": 24,
            "context": {"session_items": ["item 09"]},
        }
    )
    assert [i["score"] for i in stored.json()["items"]] != [i["score"] for i in moved_on.json()["items"]]
    assert "item 09" not in ids(post({"user_id": "user 3", "context": {"session_items": ["item 09"]}}))


def test_a_stranger_is_answered_by_the_session_and_it_is_said(post: Post) -> None:
    body = post({"user_id": "stranger", "context": {"session_items": ["item 03", "lost"]}}).json()
    assert (body["fallback"], body["unknown_items"]) == ("session", ["lost"])
    assert "the user is not known" in body["fallback_reason"]
    assert body["items"] == post({"history": ["item 03"]}).json()["items"]


def test_a_session_alone_is_enough_and_an_unknown_one_gets_popular_items(post: Post) -> None:
    by_session = post({"context": {"session_items": ["item 03"]}}).json()
    assert (by_session["fallback"], by_session["user_id"]) == (None, None)
    lost = post({"context": {"session_items": ["lost"]}}).json()
    assert (lost["fallback"], lost["unknown_items"]) == ("popularity", ["lost"])


# --- what is left out, and pages ------------------------------------------------------------------


def test_excluded_items_are_left_out_whether_they_are_known_or_not(post: Post) -> None:
    body = {"history": ["item 01"], "num_results": 100}
    assert set(ids(post(body))) - set(ids(post({**body, "exclude_items": ["item 05", 7, "lost"]}))) == {
        "item 05"
    }


@pytest.mark.parametrize("asker", [{"history": ["item 01"]}, {"user_id": "stranger"}])
@pytest.mark.parametrize(
    "promotions", [[], [{"name": "odd", "share": 0.3, "filters": {"genres": {"in": ["odd"]}}}]]
)
def test_pages_fit_together(post: Post, asker: dict[str, Any], promotions: list[Any]) -> None:
    body = {**asker, "promotions": promotions}
    whole = post({**body, "num_results": 20}).json()["items"]
    pages = [post({**body, "num_results": 5, "offset": offset}).json()["items"] for offset in (0, 5, 10, 15)]
    assert [item for page in pages for item in page] == whole
    assert ids(post({**body, "offset": 1_000})) == []


# --- promotions -----------------------------------------------------------------------------------


def test_promoted_items_get_their_share_in_fixed_places_and_are_named(post: Post) -> None:
    promotions = [
        {"name": "late", "share": 0.2, "filters": {"year": {"ge": 1996}}},
        {"name": "ours", "share": 0.1, "items": ["item 02", "item 07", "lost"]},
    ]
    body = {"history": ["item 12"], "exclude_seen": False, "num_results": 10}
    plain, items = post(body), post({**body, "promotions": promotions}).json()["items"]
    assert [item["promotion"] for item in items] == [
        None, None, None, None, "late", None, None, None, "ours", "late"
    ]  # fmt: skip
    assert all(item["attributes"]["year"] >= 1996 for item in items if item["promotion"] == "late")
    assert all(item["item_id"] in ("item 02", "item 07") for item in items if item["promotion"] == "ours")
    assert len({item["item_id"] for item in items}) == 10
    ordinary = [item["item_id"] for item in items if item["promotion"] is None]
    assert ordinary == [item for item in ids(plain) if item in ordinary]
    assert {item["promotion"] for item in plain.json()["items"]} == {None}


def test_what_is_left_out_is_not_promoted_either(post: Post) -> None:
    promotions = [{"name": "p", "share": 1, "items": ["item 01", "item 02", "item 03", "item 04"]}]
    body = {
        "history": ["item 01"],
        "exclude_items": ["item 02"],
        "filters": {"year": {"ge": 1984}},
        "promotions": promotions,
        "num_results": 24,
    }
    promoted = [i["item_id"] for i in post(body).json()["items"] if i["promotion"]]
    assert promoted == ["item 04"]


# --- several at once ------------------------------------------------------------------------------


def test_each_of_several_requests_has_its_own_answer_or_error(post: Post) -> None:
    wrong = {"user_id": "user 3", "filters": {"colour": {"in": ["red"]}}}
    requests = [
        {"user_id": "user 3"},
        wrong,
        {"user_id": "stranger"},
        {"history": ["item 02"], "num_results": 2},
    ]
    response = post({"requests": requests})
    results = response.json()["results"]
    assert RecommendationResponses.model_validate_json(response.content)
    assert [result.get("fallback") for result in results] == [None, None, "popularity", None]
    assert results[1]["error"]["param"] == "filters"
    assert "title, year, genres" in results[1]["error"]["message"]
    assert results[0]["items"] == post(requests[0]).json()["items"]
    assert results[3]["items"] == post(requests[3]).json()["items"]
    assert len({result.get("recommendation_id") for result in results}) == 4


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"requests": []}, "at least 1"),
        ({"requests": [{"user_id": "u"}] * 101}, "at most 100"),
        ({"requests": [{"user_id": "u"}, {}]}, "give user_id or history"),
        ({"requests": [{"user_id": "u"}], "num_results": 3}, "everything else inside"),
        ({"requests": [{"user_id": "u"}], "user_id": "u"}, "everything else inside"),
        ({"requests": [{"requests": [{"user_id": "u"}]}]}, "requests"),
        ({"user_id": "u", "context": {"device": "phone"}}, "cannot use 'device'; allowed: session_items"),
        ({"user_id": "u", "context": {"session_items": [None]}}, "session_items"),
        ({"user_id": "u", "context": []}, "context"),
        ({"context": {}}, "give user_id or history"),
        ({"user_id": "u", "offset": 1_001}, "less than or equal to 1000"),
        ({"user_id": "u", "offset": -1}, "greater than or equal to 0"),
        ({"user_id": "u", "promotions": [{"name": "p", "share": 0.5}]}, "either filters or items"),
        ({"user_id": "u", "promotions": [{"name": "p", "share": 0, "items": ["x"]}]}, "greater than 0"),
        ({"user_id": "u", "promotions": [{"name": "p", "share": 0.6, "items": ["x"]}] * 2}, "twice"),
        (
            {"user_id": "u", "promotions": [{"name": n, "share": 0.6, "items": ["x"]} for n in "pq"]},
            "more than 1 together",
        ),
        (
            {"user_id": "u", "promotions": [{"name": "p", "share": 1, "filters": {"colour": {"ge": 1}}}]},
            "promotions.p.filters",
        ),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(post: Post, body: Any, told: str) -> None:
    response = post(body)
    assert response.status_code == 400
    assert told in response.text.replace("\\'", "'")


# --- rankings -------------------------------------------------------------------------------------


def test_given_items_are_ranked_as_the_model_would_recommend_them(served: Any, post: Post) -> None:
    order = ids(post({"user_id": "user 3", "exclude_seen": False, "num_results": 24}))
    given = [ALL[5], "lost", ALL[20], ALL[0], 7]
    response = served.ask("/v1/rankings", {"user_id": "user 3", "items": given})
    items = response.json()["items"]
    assert [item["item_id"] for item in items] == [*(i for i in order if i in given), "lost", "7"]
    assert [item["known"] for item in items] == [True] * 3 + [False] * 2
    assert items[3] == {"item_id": "lost", "score": None, "attributes": {}, "known": False}
    assert set(items[0]["attributes"]) == {"title", "year", "genres"}
    assert RankingResponse.model_validate_json(response.content).fallback is None


def test_a_ranking_for_a_stranger_is_by_popularity_and_it_is_said(served: Any) -> None:
    body = served.ask("/v1/rankings", {"user_id": "stranger", "items": ALL}).json()
    assert body["fallback"] == "popularity"
    assert len(body["items"]) == 24


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"items": ["item 01"]}, "give user_id or history"),
        ({"user_id": "u"}, "items"),
        ({"user_id": "u", "items": []}, "at least 1"),
        ({"user_id": "u", "items": ["x", 1, "1"]}, "twice"),
        ({"user_id": "u", "items": [f"i{n}" for n in range(1_001)]}, "at most 1000"),
        ({"user_id": "u", "items": ["x"], "num_results": 3}, "num_results"),
    ],
)
def test_a_wrong_ranking_is_told_what_is_wrong(served: Any, body: Any, told: str) -> None:
    response = served.ask("/v1/rankings", body)
    assert response.status_code == 400
    assert told in response.text.replace("\\'", "'")


# --- the document, and what kinds of bodies are read ----------------------------------------------


def test_answers_follow_the_models_of_the_document(served: Any) -> None:
    document = served.app.openapi()
    names = {
        "/v1/recommendations": ["RecommendationResponse", "RecommendationResponses"],
        "/v1/rankings": ["RankingResponse"],
        "/v1/similar-items": ["SimilarItemsResponse"],
        "/v1/feedback": ["FeedbackResponse"],
    }
    for path, expected in names.items():
        operation = document["paths"][path]["post"]
        shown = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert [one["$ref"].rsplit("/", 1)[-1] for one in shown.get("anyOf", [shown])] == expected
        assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("Request")
    odd = 'a "quoted" \\ näme\n\u2028'
    answer = served.ask("/v1/recommendations", {"user_id": odd, "history": [odd, "item 01"]})
    read = RecommendationResponse.model_validate_json(answer.content)
    assert (read.user_id, read.unknown_items) == (odd, [odd])
    similar = served.ask("/v1/similar-items", {"items": [odd, "item 01"]})
    assert SimilarItemsResponse.model_validate_json(similar.content).unknown_items == [odd]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json; charset=utf-8", 200),
        ("application/vnd.shop+json", 200),
        ("text/plain", 415),
        ("", 415),
        ("application/x-www-form-urlencoded", 415),
    ],
)
def test_a_body_is_read_only_if_it_says_that_it_is_json(served: Any, kind: str, status: int) -> None:
    assert served.ask("/v1/recommendations", b'{"user_id": "u"}', kind).status_code == status


def test_a_recommendation_id_says_which_version_recommended_and_when(post: Post, exported: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from mizzen.workloads.recommendation.answers import origin

    found = origin(post({"user_id": "u"}).json()["recommendation_id"])
    assert found is not None
    assert found.version == 3
    assert abs(datetime.now(UTC) - found.recommended_at) < timedelta(minutes=1)
    assert origin("3-zz") is None
    assert origin("3-" + "f" * 32) is None
