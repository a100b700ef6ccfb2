"""OpenAI's protocol: what a request for chat completions may hold, and what all routes have in common.

What cannot be honoured is refused, never ignored. Fields of other servers that benchmark tools send are known
where they ask for nothing. It does not write answers (`answers`, `completions`) and does not generate.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from mizzen.errors import NotFoundError, RequestError
from mizzen.workloads.chat.grammar import Grammar
from mizzen.workloads.chat.messages import ChatMessage, Nothing, check_order
from mizzen.workloads.chat.sampling import MAX_ALTERNATIVES, Sampling
from mizzen.workloads.contract import Fields, ModelIdentity

MAX_STOPS = 4
MAX_TOKENS = 2**31 - 1
MIN_TEMPERATURE = 1e-5
"""Below this the likeliest token is picked: logits that are divided by less would overflow."""
DONE = "data: [DONE]\n\n"
StopText = Annotated[str, Field(min_length=1)]


def _only(value: float) -> Any:
    """A number that is accepted as the one that asks for nothing."""
    return Annotated[float, Field(ge=value, le=value)]


class StreamOptions(Fields):
    """How a stream ends."""

    include_usage: bool = False
    """One more chunk before the end, with the numbers of tokens."""
    include_obfuscation: Literal[False] = False


class Generating(Fields):
    """What requests for chat completions and for completions have in common."""

    model: str
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=1024),
        ]
        | None
    ) = None
    """By token id."""
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """For the caller's own books: it is neither kept nor logged."""
    ignore_eos: bool | None = None
    """Go on after an end token, so that an answer has a length that is known: benchmark tools ask for it."""
    # What follows is accepted only where it asks for nothing that we cannot do.
    n: Literal[1] | None = None
    best_of: Literal[1] | None = None
    min_tokens: Literal[0] | None = None
    repetition_penalty: _only(1) | None = None  # type: ignore[valid-type] # an annotated number
    top_k: Literal[-1, 0] | None = None
    min_p: _only(0) | None = None  # type: ignore[valid-type] # as above

    @model_validator(mode="after")
    def _streams(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream: true")
        return self

    @property
    def asked_tokens(self) -> int | None:
        """How long the answer may be, if the request says so."""
        return self.max_tokens

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def stops(self) -> list[str]:
        """The texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def sampling(self, max_tokens: int, vocabulary_size: int) -> Sampling:
        """How to pick tokens; OpenAI's defaults where the request is silent.

        Raises `RequestError` for a bias on a token that is none.
        """
        bias = {int(token): value for token, value in (self.logit_bias or {}).items()}
        unknown = [token for token in bias if token >= vocabulary_size]
        if unknown:
            raise RequestError(
                "logit_bias names a token that the model does not have",
                saw=unknown[0],
                allowed=f"0 to {vocabulary_size - 1}",
                field="logit_bias",
            )
        temperature = 1.0 if self.temperature is None else self.temperature
        return Sampling(
            max_tokens=max_tokens,
            temperature=temperature if temperature >= MIN_TEMPERATURE else 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=bias,
            stop=tuple(self.stops()),
            ignore_eos=bool(self.ignore_eos),
            seed=None if self.seed is None else self.seed % 2**64,
            logprobs=self.alternatives(),
            grammar=self.grammar(),
        )

    def alternatives(self) -> int | None:
        """How many likeliest tokens are told with each token; None if nothing is told."""
        return None

    def grammar(self) -> Grammar | None:
        """What the answer must look like. Raises `RequestError` for a schema that cannot be kept to."""
        return None


class TextFormat(Fields):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Fields):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(Fields):
    """A schema by its name."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    """For people: the model does not see it."""
    schema_: dict[str, JsonValue] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None
    """The schema is kept to in any case."""


class JsonSchemaFormat(Fields):
    """JSON that is valid by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def _ordered(messages: list[ChatMessage]) -> list[ChatMessage]:
    check_order(messages)
    return messages


class ChatRequest(Generating):
    """The body of `POST /v1/chat/completions`; fields that are not here are refused."""

    messages: Annotated[list[ChatMessage], Field(min_length=1), AfterValidator(_ordered)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    """A hint: beginnings of prompts are reused with it and without."""
    # What follows is accepted only where it asks for nothing that we cannot do.
    store: Literal[False] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=0)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    reasoning_effort: Literal["none"] | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: Nothing | None = None
    function_call: Literal["none", "auto"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give either max_completion_tokens or max_tokens, not both")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs: true")
        return self

    @property
    def asked_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def grammar(self) -> Grammar | None:
        if isinstance(self.response_format, JsonSchemaFormat):
            return Grammar.json_schema(self.response_format.json_schema.schema_)
        return Grammar.any_json() if isinstance(self.response_format, JsonObjectFormat) else None


def check_model(asked: str, known: list[str]) -> None:
    """Raises `NotFoundError` unless this application answers for the model `asked`."""
    if asked not in known:
        raise NotFoundError(
            "no such model here",
            saw=repr(asked),
            allowed=", ".join(known),
            field="model",
            code="model_not_found",
        )


def max_tokens_that_fit(asked: int | None, num_prompt: int, context: int, default: int, field: str) -> int:
    """How many tokens the answer to the request's `field` may have.

    Raises `RequestError` if prompt and answer are too long together.
    """
    if num_prompt + (asked or 1) > context:
        raise too_long(num_prompt, asked, context, field)
    return asked or min(default, context - num_prompt)


def too_long(num_prompt: int, asked: int | None, context: int, field: str) -> RequestError:
    """The error for a prompt that does not fit, with the numbers."""
    return RequestError(
        f"this model's context holds {context} tokens",
        saw=f"{num_prompt} tokens in the {field}" + (f" and {asked} for the answer" if asked else ""),
        allowed=f"{context} tokens together",
        remedy=f"Shorten the {field} or ask for fewer tokens.",
        field=field,
        code="context_length_exceeded",
    )


def head(identity: ModelIdentity, answer_id: str) -> dict[str, Any]:
    """What every answer and every chunk of it begins with."""
    return {
        "id": answer_id,
        "created": int(time.time()),
        "model": f"{identity.name}@{identity.version}",
        "system_fingerprint": identity.digest,
    }


def usage(num_prompt: int, num_cached: int, num_generated: int) -> dict[str, Any]:
    """The numbers of tokens; `num_cached` of the prompt's did not have to be read again."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_generated,
        "total_tokens": num_prompt + num_generated,
        "prompt_tokens_details": {"cached_tokens": num_cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def event(body: Mapping[str, Any]) -> str:
    """A server-sent event with a JSON body."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


class Model(Fields):
    """A name under which an application answers."""

    id: str
    object: Literal["model"]
    created: int
    """When the version was made, in seconds since 1970; 0 if that is not known."""
    owned_by: str


class Models(Fields):
    """All names under which an application answers."""

    object: Literal["list"]
    data: list[Model]


def model_object(name: str, created: int) -> Model:
    """A name as `GET /v1/models` lists it."""
    return Model(id=name, object="model", created=created, owned_by="mizzen")
