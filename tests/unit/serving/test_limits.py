"""Token buckets: how much a key may use, and what it is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizzen.serving.limits import LEASE_MOST, LEASE_SHARE, Ledger, Limit

REQUESTS = Limit("k", requests_per_minute=60)
TOKENS = Limit("k", tokens_per_minute=600)
BOTH = Limit("k", requests_per_minute=2, tokens_per_minute=600)


def test_a_burst_gets_a_minutes_worth_and_then_one_at_a_time() -> None:
    ledger = Ledger()
    burst = [ledger.take(REQUESTS, 0.0) for _ in range(70)]
    assert [verdict.refused for verdict in burst] == [None] * 60 + ["requests"] * 10
    assert burst[-1].wait_s == pytest.approx(1.0)
    assert ledger.take(REQUESTS, 0.99).refused == "requests"
    assert ledger.take(REQUESTS, 1.0).refused is None
    assert ledger.take(REQUESTS, 1.0).refused == "requests"


def test_a_request_that_is_refused_costs_nothing() -> None:
    ledger = Ledger()
    for _ in range(2):
        ledger.take(BOTH, 0.0)
    ledger.charge(BOTH, 0.0, 1000)
    assert ledger.take(BOTH, 0.0).refused == "requests"
    # After a minute there are requests again, while 400 tokens are still owed, and then some.
    verdict = ledger.take(BOTH, 60.0)
    assert verdict.refused is None
    ledger.charge(BOTH, 60.0, 900)
    verdict = ledger.take(BOTH, 60.0)
    assert verdict.refused == "tokens"
    assert verdict.requests is not None
    assert verdict.requests.remaining == 1


def test_tokens_are_charged_afterwards_and_what_is_owed_is_waited_for() -> None:
    ledger = Ledger()
    assert ledger.take(TOKENS, 0.0).refused is None
    ledger.charge(TOKENS, 0.0, 900)
    verdict = ledger.take(TOKENS, 0.0)
    assert verdict.refused == "tokens"
    assert verdict.wait_s == pytest.approx(30.1)
    assert ledger.take(TOKENS, 30.0).refused == "tokens"
    assert ledger.take(TOKENS, 30.2).refused is None


@given(
    limit=st.integers(1, 1000),
    pauses_s=st.lists(st.floats(0, 90, allow_nan=False), min_size=1, max_size=300),
)
def test_never_more_than_the_limit_and_what_came_in(limit: int, pauses_s: list[float]) -> None:
    ledger, now_s, taken = Ledger(), 0.0, 0
    for pause_s in pauses_s:
        now_s += pause_s
        taken += ledger.take(Limit("k", requests_per_minute=limit), now_s).refused is None
        assert taken <= limit + limit * now_s / 60 + 1e-6


@given(
    limit=st.integers(1, 10_000),
    steps=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 200), st.integers(0, 100)), max_size=200),
)
def test_leases_never_make_it_more_whatever_of_them_is_used(
    limit: int, steps: list[tuple[float, int, int]]
) -> None:
    ledger, key, now_s, used = Ledger(), Limit("k", requests_per_minute=limit), 0.0, 0
    for pause_s, wanted, percent_used in steps:
        now_s += pause_s
        verdict = ledger.take(key, now_s, wanted)
        used += verdict.refused is None
        assert verdict.lease <= min(wanted, LEASE_MOST)
        unused = verdict.lease - verdict.lease * percent_used // 100
        used += verdict.lease - unused
        ledger.charge(key, now_s, num_unused=unused)
        assert used <= limit + limit * now_s / 60 + 1e-6


def test_near_the_limit_there_are_no_leases() -> None:
    ledger, key = Ledger(), Limit("k", requests_per_minute=1000)
    leases = [ledger.take(key, 0.0, 100).lease for _ in range(100)]
    assert leases[0] == 1000 // LEASE_SHARE
    assert leases[-1] == 0
    assert ledger.take(key, 0.0).requests.remaining > 350  # type: ignore[union-attr] # it has the limit
    tokens = Limit("t", tokens_per_minute=100)
    assert ledger.take(tokens, 0.0, 30).lease == 0  # nobody knows yet what they cost
    ledger.charge(tokens, 0.0, 3)
    ledger.charge(tokens, 0.0, 1)
    assert ledger.take(tokens, 0.0, 30).lease == 16  # at 3 each they take half of what is left
    assert ledger.take(tokens, 0.0, 5).lease == 5
    ledger.charge(tokens, 0.0, 51)
    assert ledger.take(tokens, 0.0, 30).lease == 0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    ledger = Ledger()
    for _ in range(60):
        ledger.take(REQUESTS, 100.0)
    assert ledger.take(REQUESTS, 50.0).refused == "requests"
    assert ledger.take(REQUESTS, 100.5).refused == "requests"


def test_keys_do_not_share() -> None:
    ledger = Ledger()
    one, other = Limit("a", requests_per_minute=1), Limit("b", requests_per_minute=1)
    assert ledger.take(one, 0.0).refused is None
    assert ledger.take(one, 0.0).refused == "requests"
    assert ledger.take(other, 0.0).refused is None


def test_a_client_is_told_what_is_left_in_the_words_of_openai() -> None:
    ledger = Ledger()
    ledger.charge(BOTH, 0.0, 100)
    assert ledger.take(BOTH, 0.0).headers() == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "10s",
    }
    assert set(ledger.take(REQUESTS, 0.0).headers()) == set(Ledger().take(BOTH, 0.0).headers())


@pytest.mark.parametrize(
    ("owed", "said"), [(0, "0ms"), (5, "500ms"), (15, "1.5s"), (599, "59.9s"), (3600, "6m0s"), (605, "1m1s")]
)
def test_a_duration_is_written_as_openai_writes_it(owed: int, said: str) -> None:
    ledger = Ledger()
    ledger.charge(TOKENS, 0.0, owed)
    assert ledger.take(TOKENS, 0.0).headers()["x-ratelimit-reset-tokens"] == said
