from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mizzen.workloads.chat.options import ChatOptions


def test_an_application_has_no_knowledge_base_unless_it_names_one() -> None:
    assert ChatOptions().knowledge is None
    knowledge = ChatOptions.model_validate({"knowledge": {"model": "kb@production"}}).knowledge
    assert knowledge is not None and knowledge.below_min_score == "refuse" and knowledge.min_score == 0.3


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_concurrent": 0},
        {"max_waiting": -1},
        {"reused_tokens": -1},
        {"wisdom": 1},
        {"knowledge": {}},
        {"knowledge": {"model": "KB@production"}},
        {"knowledge": {"model": "kb", "num_passages": 0}},
        {"knowledge": {"model": "kb", "min_score": 1.5}},
        {"knowledge": {"model": "kb", "min_score": float("nan")}},
        {"knowledge": {"model": "kb", "below_min_score": "guess"}},
        {"knowledge": {"model": "kb", "unknown_answer": "  "}},
        {"knowledge": {"model": "kb", "refresh_s": 0}},
        {"knowledge": {"model": "kb", "max_passage_tokens": 0}},
    ],
)
def test_options_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatOptions.model_validate(wrong)
