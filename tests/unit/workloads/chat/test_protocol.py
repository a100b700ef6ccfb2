from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from mizzen.errors import NotFoundError, RequestError
from mizzen.workloads.chat import protocol
from mizzen.workloads.chat.protocol import ChatRequest

HELLO = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
HEAD = {"id": "chatcmpl-1", "created": 1, "model": "chat@1", "system_fingerprint": "f"}


def request(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({**HELLO, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"logit_bias": {"5": 1.0}},
        {"tools": [{"type": "function"}]},
        {"tool_choice": "auto"},
        {"response_format": {"type": "json_object"}},
        {"store": True},
        {"service_tier": "flex"},
        {"best_of": 2},
        {"temperature": 2.5},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 1.1},
        {"max_tokens": 0},
        {"max_tokens": 5, "max_completion_tokens": 5},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"stop": ""},
        {"seed": 2**70},
        {"stream_options": {"include_usage": True}},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    ],
)
def test_what_cannot_be_honoured_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        request(**fields)


def test_fields_that_ask_for_nothing_special_are_accepted() -> None:
    request(
        n=1, logprobs=False, tools=[], logit_bias={}, response_format={"type": "text"}, user="u", store=False
    )


def test_openais_defaults_stand_where_the_request_is_silent() -> None:
    sampling = request().sampling(default_max_tokens=7)
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.stop) == (1.0, 1.0, 7, ())


def test_a_zero_is_not_taken_for_silence() -> None:
    sampling = request(temperature=0, top_p=0, seed=0).sampling(default_max_tokens=7)
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0, 0, 0)


def test_one_stop_text_or_several() -> None:
    assert request(stop="x").stops() == ["x"]
    assert request(stop=["x", "y"]).stops() == ["x", "y"]


def test_content_may_come_in_parts_and_developer_is_system() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    body = request(messages=[{"role": "developer", "content": parts}])
    assert body.messages[0].plain() == {"role": "system", "content": "Hello"}


def test_too_long_a_conversation_names_both_numbers() -> None:
    with pytest.raises(RequestError, match=r"holds 100 tokens.*saw 90 tokens in the messages and 20 for"):
        protocol.max_tokens_that_fit(request(max_tokens=20), 90, 100, 50)
    with pytest.raises(RequestError, match=r"saw 100 tokens in the messages;"):
        protocol.max_tokens_that_fit(request(), 100, 100, 50)


def test_the_default_length_shrinks_to_what_fits_and_an_asked_length_does_not_change() -> None:
    assert protocol.max_tokens_that_fit(request(), 90, 100, 50) == 10
    assert protocol.max_tokens_that_fit(request(), 10, 100, 50) == 50
    assert protocol.max_tokens_that_fit(request(max_completion_tokens=10), 90, 100, 50) == 10


def test_an_unknown_model_is_not_found() -> None:
    protocol.check_model("chat@1", ["chat", "chat@1"])
    with pytest.raises(NotFoundError, match=r"saw 'gpt'; allowed: chat, chat@1"):
        protocol.check_model("gpt", ["chat", "chat@1"])


def test_an_event_is_one_line_of_json_between_data_and_an_empty_line() -> None:
    text = protocol.chunk(HEAD, {"content": "a\nb\u2028ü"}, None, usage_later=False)
    assert text.startswith("data: {") and text.endswith("}\n\n") and text.count("\n") == 2
    body = json.loads(text.removeprefix("data: "))
    assert body["choices"][0]["delta"] == {"content": "a\nb\u2028ü"}
    assert "usage" not in body


def test_chunks_say_that_usage_comes_later_only_where_it_does() -> None:
    assert json.loads(protocol.chunk(HEAD, {}, "stop", usage_later=True)[6:])["usage"] is None
    last = json.loads(protocol.usage_chunk(HEAD, protocol.usage(3, 4))[6:])
    assert last["choices"] == [] and last["usage"]["total_tokens"] == 7
