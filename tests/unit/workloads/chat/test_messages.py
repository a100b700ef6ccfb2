from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment
from pydantic import TypeAdapter, ValidationError

from mizzen.workloads.chat.messages import ChatMessage, check_order, knows_tools, rendered, text_of

MESSAGES = TypeAdapter(list[ChatMessage])
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
TOOL_TALK = [
    {"role": "user", "content": "How is the weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
    {"role": "tool", "content": "Rain", "tool_call_id": "c1"},
    {"role": "tool", "content": [{"type": "text", "text": "Sun"}], "tool_call_id": "c2"},
]
WITH_TOOLS = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}"
    "{% endfor %}"
)


class Tokenizer:
    """Renders a chat template, as a Hugging Face tokenizer does."""

    def __init__(self, template: str) -> None:
        self.template = Environment().from_string(template)

    def apply_chat_template(self, messages: list[dict[str, Any]], **_: Any) -> str:
        return self.template.render(messages=messages)


def read(*messages: dict[str, Any]) -> list[ChatMessage]:
    return MESSAGES.validate_python(list(messages))


def test_content_may_come_in_parts_and_developer_is_system() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert rendered(read({"role": "developer", "content": parts}), native_tools=False) == [
        {"role": "system", "content": "Hello"}
    ]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": None},
        {"role": "user", "content": []},
        {"role": "user", "content": "x", "name": "Ann"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "tool", "content": "x"},
        {"role": "function", "content": "x", "name": "f"},
        {"role": "assistant"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "assistant", "content": "x", "tool_calls": [{**CALL, "type": "custom"}]},
    ],
)
def test_messages_that_cannot_be_shown_to_the_model_are_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(message)


def test_a_message_of_an_answer_can_be_sent_back_as_it_came() -> None:
    (message,) = read(
        {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": None, "annotations": []}
    )
    assert text_of(message) == "Hi"


def test_an_earlier_refusal_is_what_the_assistant_said() -> None:
    whole = {"role": "assistant", "content": None, "refusal": "No."}
    part = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert [text_of(one) for one in read(whole, part)] == ["No.", "No."]


def test_a_template_without_tools_is_shown_calls_and_results_as_text() -> None:
    _, call, results = rendered(read(*TOOL_TALK), native_tools=False)
    assert call["role"] == "assistant"
    assert call["content"].count('{"name": "weather", "arguments": {"city": "Köln"}}') == 2
    assert results == {
        "role": "user",
        "content": "<tool_response>\nRain\n</tool_response>\n<tool_response>\nSun\n</tool_response>",
    }


def test_a_template_with_tools_gets_them_as_they_are() -> None:
    _, call, first, second = rendered(read(*TOOL_TALK), native_tools=True)
    assert call["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Köln"}}
    assert first == {"role": "tool", "content": "Rain", "tool_call_id": "c1", "name": "weather"}
    assert second["content"] == "Sun"


def test_arguments_that_are_no_json_are_shown_as_they_are() -> None:
    broken = {**CALL, "function": {"name": "weather", "arguments": "{city"}}
    (message,) = rendered(
        read({"role": "assistant", "content": "Look:", "tool_calls": [broken]}), native_tools=False
    )
    assert message["content"] == 'Look:\n<tool_call>\n{"name": "weather", "arguments": "{city"}\n</tool_call>'


def test_whether_a_template_knows_tools_is_tried(tiny_base: Path) -> None:
    from mizzen.workloads.chat.tokens import tokenizer_of

    assert knows_tools(Tokenizer(WITH_TOOLS))
    assert not knows_tools(Tokenizer(WITH_TOOLS.replace("c.function.arguments", "1")))
    assert not knows_tools(Tokenizer("{{ raise('only users and assistants') }}"))
    assert not knows_tools(tokenizer_of(tiny_base))


@pytest.mark.parametrize("left_out", [1, 0])
def test_a_result_must_answer_a_call_of_the_turn_before(left_out: int) -> None:
    check_order(read(*TOOL_TALK))
    if left_out:
        wrong = [TOOL_TALK[0], *TOOL_TALK[2:]]
    else:
        wrong = [*TOOL_TALK, {"role": "user", "content": "And?"}, TOOL_TALK[2]]
    with pytest.raises(ValueError, match=r"messages\.\d\.tool_call_id is no call"):
        check_order(read(*wrong))


@pytest.mark.parametrize("arguments", ["[" * 100_000, "[" * 70 + "]" * 70, '"\\ud800"', "{"])
@pytest.mark.parametrize("native", [True, False])
def test_arguments_that_a_template_would_break_on_stay_text(arguments: str, native: bool) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    told = rendered(read({"role": "assistant", "tool_calls": [call]}), native_tools=native)[0]
    if native:
        assert told["tool_calls"][0]["function"]["arguments"] == arguments
    else:
        inside = told["content"].removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
        assert json.loads(inside) == {"name": "f", "arguments": arguments}
    str(told).encode()
