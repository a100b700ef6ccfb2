from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from mizzen.errors import NotFoundError, RequestError
from mizzen.workloads.chat import protocol
from mizzen.workloads.chat.grammar import Grammar
from mizzen.workloads.chat.protocol import ChatRequest
from mizzen.workloads.chat.sampling import Sampling

HELLO = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def request(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({**HELLO, **fields})


def sampling(**fields: Any) -> Sampling:
    return request(**fields).sampling(max_tokens=7, vocabulary_size=100)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"best_of": 2},
        {"top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 21},
        {"logit_bias": {"5": 101}},
        {"logit_bias": {"five": 1}},
        {"logit_bias": {"-5": 1}},
        {"tools": [{"type": "function"}]},
        {"tool_choice": "required"},
        {"functions": [{"name": "f"}]},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": True}}},
        {"store": True},
        {"metadata": {"a": "b"}},
        {"service_tier": "flex"},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy"}},
        {"prediction": {"type": "content"}},
        {"reasoning_effort": "high"},
        {"min_tokens": 5},
        {"repetition_penalty": 1.1},
        {"top_k": 5},
        {"min_p": 0.1},
        {"temperature": 2.5},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 1.1},
        {"max_tokens": 0},
        {"max_tokens": 10**400},
        {"max_tokens": 5, "max_completion_tokens": 5},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"stop": ""},
        {"stop": ["a", ""]},
        {"seed": 2**70},
        {"stream_options": {"include_usage": True}},
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        {"wisdom": 3},
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        request(**fields)
    assert any(name in str(refused.value) for name in fields)


def test_fields_that_ask_for_nothing_special_are_accepted() -> None:
    silent = sampling()
    neutral = sampling(
        n=1, best_of=1, logprobs=False, top_logprobs=0, tools=[], tool_choice="none", logit_bias={},
        metadata={}, response_format={"type": "text"}, user="u", store=False, service_tier="auto",
        modalities=["text"], reasoning_effort="none", ignore_eos=False, min_tokens=0,
        repetition_penalty=1.0, top_k=-1, min_p=0,
        prompt_cache_key="k", safety_identifier="s", stream=False, functions=[], function_call="none",
        parallel_tool_calls=True,
    )  # fmt: skip
    assert neutral == silent


def test_openais_defaults_stand_where_the_request_is_silent() -> None:
    assert sampling() == Sampling(max_tokens=7, temperature=1.0, top_p=1.0)


def test_a_zero_is_not_taken_for_silence() -> None:
    asked = sampling(temperature=0, top_p=0, seed=0)
    assert (asked.temperature, asked.top_p, asked.seed) == (0, 0, 0)


def test_a_temperature_that_would_overflow_picks_the_likeliest() -> None:
    assert sampling(temperature=1e-300).temperature == 0 < sampling(temperature=1e-3).temperature


def test_a_negative_seed_is_a_seed_too() -> None:
    assert sampling(seed=-1).seed == 2**64 - 1


def test_an_answer_of_a_known_length_can_be_asked_for() -> None:
    assert sampling(ignore_eos=True).ignore_eos and not sampling().ignore_eos


def test_one_stop_text_or_several() -> None:
    assert sampling(stop="x").stop == ("x",)
    assert sampling(stop=["x", "y"]).stop == ("x", "y")


def test_log_probabilities_are_asked_for_with_or_without_alternatives() -> None:
    assert sampling(logprobs=True).logprobs == 0
    assert sampling(logprobs=True, top_logprobs=20).logprobs == 20
    assert sampling(logprobs=False).logprobs is None


def test_biases_are_by_token_and_only_on_tokens_of_the_model() -> None:
    assert sampling(logit_bias={"99": -100}).logit_bias == {99: -100}
    with pytest.raises(RequestError, match=r"saw 100; allowed: 0 to 99"):
        sampling(logit_bias={"100": 1})


def test_a_schema_is_nested_as_openai_does_and_becomes_a_grammar() -> None:
    schema = {"name": "a", "strict": True, "description": "d", "schema": SCHEMA}
    asked = sampling(response_format={"type": "json_schema", "json_schema": schema})
    assert asked.grammar == Grammar.json_schema(SCHEMA)
    assert sampling(response_format={"type": "json_object"}).grammar == Grammar.any_json()
    assert sampling(response_format={"type": "text"}).grammar is None


def test_a_schema_that_cannot_be_kept_to_is_refused() -> None:
    schema = {"name": "a", "schema": {"type": "object", "properties": {"a": {"type": "wisdom"}}}}
    with pytest.raises(RequestError) as refused:
        sampling(response_format={"type": "json_schema", "json_schema": schema})
    assert refused.value.field == "response_format"


def test_either_name_of_the_length_is_understood() -> None:
    assert request(max_tokens=5).asked_tokens == request(max_completion_tokens=5).asked_tokens == 5
    assert request().asked_tokens is None


def test_too_long_a_conversation_names_both_numbers() -> None:
    with pytest.raises(
        RequestError, match=r"holds 100 tokens.*saw 90 tokens in the messages and 20 for"
    ) as no:
        protocol.max_tokens_that_fit(20, 90, 100, 50, "messages")
    assert (no.value.code, no.value.field) == ("context_length_exceeded", "messages")
    with pytest.raises(RequestError, match=r"saw 100 tokens in the prompt;"):
        protocol.max_tokens_that_fit(None, 100, 100, 50, "prompt")


def test_the_default_length_shrinks_to_what_fits_and_an_asked_length_does_not_change() -> None:
    assert protocol.max_tokens_that_fit(None, 90, 100, 50, "messages") == 10
    assert protocol.max_tokens_that_fit(None, 10, 100, 50, "messages") == 50
    assert protocol.max_tokens_that_fit(10, 90, 100, 50, "messages") == 10


def test_an_unknown_model_is_not_found() -> None:
    protocol.check_model("chat@1", ["chat", "chat@1"])
    with pytest.raises(NotFoundError, match=r"saw 'gpt'; allowed: chat, chat@1") as missing:
        protocol.check_model("gpt", ["chat", "chat@1"])
    assert missing.value.code == "model_not_found"


def test_an_event_is_one_line_of_json_between_data_and_an_empty_line() -> None:
    text = protocol.event({"content": "a\nb\u2028ü"})
    assert text.startswith("data: {") and text.endswith("}\n\n") and text.count("\n") == 2
    assert json.loads(text.removeprefix("data: ")) == {"content": "a\nb\u2028ü"}


def test_usage_tells_what_was_cached() -> None:
    used = protocol.usage(30, 20, 4)
    assert (used["prompt_tokens"], used["completion_tokens"], used["total_tokens"]) == (30, 4, 34)
    assert used["prompt_tokens_details"] == {"cached_tokens": 20}
