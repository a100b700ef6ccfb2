"""What an engine does stands in the series, to the token, at the moment that a caller hears of the end."""

from __future__ import annotations

from typing import Any

import pytest

from mizzen import metrics
from mizzen.tracing import Span
from mizzen.workloads.chat.generation import Generation
from mizzen.workloads.chat.records import Counters, Records
from mizzen.workloads.chat.sampling import Sampling

NOTHING = dict.fromkeys(Counters.__annotations__, 0)


class Words:
    end_tokens: frozenset[int] = frozenset()

    def decode(self, tokens: Any) -> str:
        return bytes(tokens).decode()

    def bytes_of(self, token: int) -> bytes:
        return bytes([token])

    def matcher(self, grammar: Any) -> Any:
        raise AssertionError("no grammar is asked for")


def generation(times: tuple[float, float, float], num_generated: int) -> Generation:
    found = Generation([1, 2, 3], Sampling(10), lambda _: None, Words())
    found.arrived_s, found.first_token_s, found.last_token_s = times
    found.tokens += [65] * num_generated
    return found


def test_counters_show_what_is_added_and_gauges_what_is_now(noted: Any) -> None:
    records = Records(noted, Counters(**{**NOTHING, "generated_tokens": 2, "max_used_tokens": 400}))
    assert noted.value(metrics.CHAT_GENERATED_TOKENS) == 0
    assert noted.value(metrics.CHAT_KV_CAPACITY, state="used") == 400
    assert noted.value(metrics.CHAT_GENERATIONS, outcome="failed") == 0
    more = {**NOTHING, "generated_tokens": 5, "max_used_tokens": 400, "running": 2, "used_tokens": 31}
    records.update(Counters(**more))
    records.update(Counters(**{**more, "finished": 1, "running": 1}))
    assert noted.value(metrics.CHAT_GENERATED_TOKENS) == 3
    assert noted.value(metrics.CHAT_GENERATIONS, outcome="finished") == 1
    assert noted.lines(metrics.CHAT_SEQUENCES) == {("running",): 1, ("waiting",): 0}
    assert noted.value(metrics.CHAT_KV_TOKENS, state="used") == 31


def test_times_are_from_arrival_to_the_first_token_and_between_the_others(noted: Any) -> None:
    records = Records(noted, Counters(**NOTHING))
    records.first_token(generation((10.0, 10.5, 10.5), 1))
    records.ended(generation((10.0, 10.5, 12.5), 5))
    assert noted.all(metrics.CHAT_FIRST_TOKEN) == [0.5]
    assert noted.all(metrics.CHAT_OUTPUT_TOKEN) == [0.5]
    assert noted.exemplars == [None, None]


def test_a_generation_that_is_traced_is_an_exemplar_of_its_times(noted: Any) -> None:
    class Traced(Span):
        recording = True
        trace_id = "0af7651916cd43dd8448eb211c80319c"

    records = Records(noted, Counters(**NOTHING))
    traced = generation((10.0, 10.5, 12.5), 5)
    traced.span = Traced()
    records.first_token(traced)
    records.ended(traced)
    assert noted.exemplars == [Traced.trace_id, Traced.trace_id]


@pytest.mark.parametrize("num_generated", [0, 1])
def test_an_answer_of_one_token_says_nothing_about_the_time_between_tokens(
    noted: Any, num_generated: int
) -> None:
    records = Records(noted, Counters(**NOTHING))
    records.ended(generation((10.0, 10.5, 10.5), num_generated))
    assert noted.all(metrics.CHAT_OUTPUT_TOKEN) == []
