"""The messages of a conversation: what a request may hold, and how they reach a model's chat template.

Calls of tools and their results are written by the template itself if it knows them. For one that does not,
they become text, in the notation that most models were trained on: a call as `<tool_call>` with JSON in the
assistant's turn, a result as `<tool_response>` in the user's. Either way the model sees all that was sent.

It does not offer tools to the model: requests with `tools` are refused (`protocol`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from mizzen.workloads.contract import Fields

Nothing = Annotated[list[Any], Field(max_length=0)]
"""An empty list: what official clients send back of a field that held nothing."""
MAX_ARGUMENTS_DEPTH = 64
"""Levels of a call's arguments that are handed to a template as objects; deeper ones stay text."""


class TextPart(Fields):
    """A part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str


class RefusalPart(Fields):
    """A part of an assistant's earlier message in which it refused."""

    type: Literal["refusal"]
    refusal: str


Text = str | Annotated[list[TextPart], Field(min_length=1)]


class SystemMessage(Fields):
    """What the assistant is told to be; `developer` is OpenAI's newer word for it."""

    role: Literal["system", "developer"]
    content: Text


class UserMessage(Fields):
    """What the user said."""

    role: Literal["user"]
    content: Text


class FunctionCall(Fields):
    """Which function was called, and with what."""

    name: Annotated[str, Field(min_length=1)]
    arguments: str
    """JSON, as the model wrote it."""


class ToolCall(Fields):
    """An assistant's call of a tool, in an earlier turn."""

    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"]
    function: FunctionCall


class AssistantMessage(Fields):
    """What the assistant answered, or called. A message of an answer can be sent back as it came."""

    role: Literal["assistant"]
    content: str | Annotated[list[TextPart | RefusalPart], Field(min_length=1)] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    audio: None = None
    function_call: None = None
    annotations: Nothing | None = None
    parsed: JsonValue = None
    """The content once more, as official clients add it where they have parsed it; it is not read."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.refusal is None and not self.tool_calls:
            raise ValueError("an assistant's message needs content, a refusal or tool_calls")
        return self


class ToolMessage(Fields):
    """What a tool answered to a call."""

    role: Literal["tool"]
    content: Text
    tool_call_id: str


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
Rendered = list[dict[str, Any]]
"""Messages as chat templates take them: `{role, content}`, and `tool_calls` where the template knows them."""


def check_order(messages: Sequence[ChatMessage]) -> None:
    """Raises `ValueError` if a tool answers to a call that the assistant's turn before it does not hold."""
    calls: set[str] = set()
    for at, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in calls:
                raise ValueError(
                    f"messages.{at}.tool_call_id is no call of the assistant's message before it"
                )
            continue
        made = message.tool_calls if isinstance(message, AssistantMessage) else None
        calls = {call.id for call in made or ()}


def text_of(message: ChatMessage) -> str:
    """A message's words."""
    if message.content is None:
        return (message.refusal if isinstance(message, AssistantMessage) else None) or ""
    if isinstance(message.content, str):
        return message.content
    return "".join(p.text if isinstance(p, TextPart) else p.refusal for p in message.content)


def rendered(messages: Sequence[ChatMessage], *, native_tools: bool) -> Rendered:
    """The messages for a chat template; `native_tools` says whether it knows tools (`knows_tools`)."""
    result: Rendered = []
    names: dict[str, str] = {}
    for message in messages:
        role, content = "system" if message.role == "developer" else message.role, text_of(message)
        calls = (message.tool_calls or []) if isinstance(message, AssistantMessage) else []
        names |= {call.id: call.function.name for call in calls}
        plain: dict[str, Any] = {"role": role, "content": content}
        if native_tools:
            if calls:
                plain["tool_calls"] = [_native(call) for call in calls]
            if isinstance(message, ToolMessage):
                plain |= {"tool_call_id": message.tool_call_id, "name": names[message.tool_call_id]}
        elif calls:
            plain["content"] = "\n".join([*([content] if content else []), *map(_as_text, calls)])
        elif isinstance(message, ToolMessage):
            answer = f"<tool_response>\n{content}\n</tool_response>"
            if result and result[-1].get("is_answer"):  # one turn of the user for all results of one turn
                result[-1]["content"] += f"\n{answer}"
                continue
            plain = {"role": "user", "content": answer, "is_answer": True}
        result.append(plain)
    return [{key: value for key, value in plain.items() if key != "is_answer"} for plain in result]


def knows_tools(tokenizer: Any) -> bool:
    """Whether the chat template writes calls of tools, with their arguments, and the results: it is tried."""
    from jinja2 import TemplateError

    call = {"name": "zq_function", "arguments": {"zq_argument": "zq_value"}}
    conversation = [
        {"role": "user", "content": "zq_question"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "zqcall001", "type": "function", "function": call}],
        },
        {"role": "tool", "content": "zq_result", "tool_call_id": "zqcall001", "name": "zq_function"},
    ]
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError):
        return False
    return all(word in text for word in ("zq_function", "zq_argument", "zq_value", "zq_result"))


def _arguments(call: ToolCall) -> Any:
    """Parsed, as templates want them; as they are if they are no JSON, or such that templates would break."""
    try:
        parsed = json.loads(call.function.arguments)
        json.dumps(parsed, ensure_ascii=False).encode()  # no half of a surrogate pair
    except (ValueError, RecursionError):
        return call.function.arguments
    return parsed if _is_flat(parsed) else call.function.arguments


def _is_flat(value: Any) -> bool:
    """Whether it is nested at most `MAX_ARGUMENTS_DEPTH` levels deep; looked at level by level."""
    level = [value]
    for _ in range(MAX_ARGUMENTS_DEPTH + 1):
        level = [
            inner
            for part in level
            if isinstance(part, dict | list)
            for inner in (part.values() if isinstance(part, dict) else part)
        ]
    return not level


def _native(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _arguments(call)}
    return {"id": call.id, "type": call.type, "function": function}


def _as_text(call: ToolCall) -> str:
    content = {"name": call.function.name, "arguments": _arguments(call)}
    return f"<tool_call>\n{json.dumps(content, ensure_ascii=False)}\n</tool_call>"
