"""OpenAI's chat protocol: what a request may hold, and how answers are written.

What cannot be honoured is refused, never ignored. It does not generate: `endpoint` and `engine` do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mizzen.errors import NotFoundError, RequestError
from mizzen.workloads.chat.sampling import Sampling
from mizzen.workloads.contract import Fields

MAX_STOPS = 4
DONE = "data: [DONE]\n\n"


class TextPart(Fields):
    """A part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(Fields):
    """One message of the conversation so far."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """`{role, content}` as chat templates want them; `developer` is OpenAI's newer word for `system`."""
        content = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(Fields):
    """How a stream ends."""

    include_usage: bool = False
    """One more chunk before the end, with the numbers of tokens."""
    include_obfuscation: bool = False


class ChatRequest(Fields):
    """The body of `POST /v1/chat/completions`; fields that are not here are refused."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    # What follows is accepted only where it asks for nothing that we cannot do.
    store: Literal[False] | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none"] | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give either max_completion_tokens or max_tokens, not both")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream: true")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ValueError("seed must fit in 64 bits")
        stops = self.stops()
        if len(stops) > MAX_STOPS or not all(stops):
            raise ValueError(f"stop takes up to {MAX_STOPS} texts, none of them empty")
        return self

    def stops(self) -> list[str]:
        """The texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def sampling(self, *, default_max_tokens: int) -> Sampling:
        """How to pick tokens; OpenAI's defaults where the request is silent."""
        asked = self.max_completion_tokens or self.max_tokens
        return Sampling(
            max_tokens=asked or default_max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            stop=tuple(self.stops()),
            seed=None if self.seed is None else self.seed % 2**64,
        )


def check_model(asked: str, known: list[str]) -> None:
    """Raises `NotFoundError` unless this application answers for the model `asked`."""
    if asked not in known:
        raise NotFoundError("no such model here", saw=repr(asked), allowed=", ".join(known), field="model")


def max_tokens_that_fit(request: ChatRequest, num_prompt: int, context: int, default: int) -> int:
    """How many tokens the answer may have. Raises `RequestError` if prompt and answer are too long."""
    asked = request.max_completion_tokens or request.max_tokens
    if num_prompt + (asked or 1) > context:
        wanted = f"{num_prompt} tokens in the messages" + (f" and {asked} for the answer" if asked else "")
        raise RequestError(
            f"this model's context holds {context} tokens",
            saw=wanted,
            allowed=f"{context} tokens together",
            remedy="Shorten the messages or ask for fewer tokens.",
            field="messages",
        )
    return asked or min(default, context - num_prompt)


def usage(num_prompt: int, num_generated: int) -> dict[str, int]:
    """The numbers of tokens."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_generated,
        "total_tokens": num_prompt + num_generated,
    }


def completion(
    head: Mapping[str, Any], text: str, finish: str | None, used: Mapping[str, int]
) -> dict[str, Any]:
    """A whole answer; `head` holds `id`, `created`, `model` and `system_fingerprint`."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return {"object": "chat.completion", **head, "choices": [choice], "usage": dict(used)}


def chunk(head: Mapping[str, Any], delta: Mapping[str, str], finish: str | None, *, usage_later: bool) -> str:
    """One event of a stream."""
    choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
    body: dict[str, Any] = {"object": "chat.completion.chunk", **head, "choices": [choice]}
    return event({**body, "usage": None} if usage_later else body)


def usage_chunk(head: Mapping[str, Any], used: Mapping[str, int]) -> str:
    """The event with the numbers of tokens, before the last."""
    return event({"object": "chat.completion.chunk", **head, "choices": [], "usage": dict(used)})


def event(body: Mapping[str, Any]) -> str:
    """A server-sent event with a JSON body."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def model_object(name: str, created: int) -> dict[str, Any]:
    """A model as `GET /v1/models` lists it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "mizzen"}
