"""The span of a generation: its events, its figures, and nothing of what was said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mizzen import tracing
from mizzen.workloads.chat import spans
from mizzen.workloads.chat.generation import Generation
from mizzen.workloads.chat.sampling import Sampling

Trace = Callable[..., Any]


class NoWords:
    """A vocabulary that nobody asks."""

    end_tokens: frozenset[int] = frozenset()

    def decode(self, tokens: Any) -> str:
        return ""


def generation() -> Generation:
    made = Generation([1, 2, 3], Sampling(max_tokens=8), lambda piece: None, NoWords())  # type: ignore[arg-type]
    made.span = spans.queued(made.prompt, made.sampling)
    return made


@pytest.mark.parametrize("outcome", ["finished", "cancelled", "failed"])
def test_a_generation_is_part_of_its_request_with_its_first_token(trace: Trace, outcome: Any) -> None:
    collected = trace()
    with tracing.span("request"):
        one = generation()
    spans.prefill(one)
    one.first_token_s, one.num_cached = one.arrived_s + 0.25, 2
    one.tokens += [4, 5]
    spans.first_token(one)
    spans.ended(one, outcome)
    tracing.stop()
    sent = collected.one("generate")
    assert sent.parent_id == collected.one("request").span_id
    assert sent.events == ["prefill", "first token"]
    assert sent.attributes["mizzen.time_to_first_token_s"] == pytest.approx(0.25)
    assert sent.attributes["mizzen.cached_tokens"] == 2
    assert sent.attributes["gen_ai.usage.input_tokens"] == 3
    assert sent.attributes["gen_ai.usage.output_tokens"] == 2
    assert sent.attributes["mizzen.outcome"] == outcome
    assert sent.failed == (outcome == "failed")


def test_off_or_without_a_request_there_is_none(trace: Trace) -> None:
    assert generation().span is tracing.NOTHING
    collected = trace()
    assert generation().span is tracing.NOTHING
    tracing.stop()
    assert collected.spans == []
