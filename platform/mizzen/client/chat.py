"""The calls of a chat application: OpenAI's chat completions, completions, embeddings and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from pydantic import Field

from mizzen.client.calls import Answer, Call, given
from mizzen.client.resource import Resource, later, now, stream_later, stream_now
from mizzen.client.sending import AsyncSender, Sender

Message = Mapping[str, Any]
"""`{"role": "user", "content": "..."}`, as OpenAI has them."""


class PromptTokens(Answer):
    """Of the prompt's tokens."""

    cached_tokens: int = 0
    """Those that had been read in an earlier turn."""


class Usage(Answer):
    """How many tokens were read and written."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int
    prompt_tokens_details: PromptTokens | None = None


class Citation(Answer):
    """A passage of the knowledge base that the answer was given from."""

    document: str
    chunk: int
    score: float
    title: str = ""
    text: str | None = None


class Grounding(Answer):
    """What the knowledge base had to do with an answer."""

    knowledge_base: str
    """`NAME@VERSION`."""
    grounded: bool
    """Whether the model was shown passages."""
    citations: list[Citation] = Field(default_factory=list)


class ReplyMessage(Answer):
    """What the assistant says."""

    role: str = "assistant"
    content: str | None = None


class ChatChoice(Answer):
    """One answer; there is always exactly one."""

    index: int
    message: ReplyMessage
    finish_reason: str | None
    """`stop`, or `length` where it was cut off."""


class ChatCompletion(Answer):
    """A whole answer."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    mizzen: Grounding | None = None

    @property
    def text(self) -> str:
        """What the assistant says."""
        return self.choices[0].message.content or ""

    @property
    def citations(self) -> list[Citation]:
        """The passages that the answer was given from, if the application has a knowledge base."""
        return self.mizzen.citations if self.mizzen else []


class Delta(Answer):
    """What is new since the chunk before."""

    role: str | None = None
    content: str | None = None


class ChunkChoice(Answer):
    """The part of an answer that is new."""

    index: int
    delta: Delta
    finish_reason: str | None = None


class ChatChunk(Answer):
    """A part of an answer."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    """In the last chunk alone."""
    mizzen: Grounding | None = None
    """In the first chunk alone."""

    @property
    def text(self) -> str:
        """What is new."""
        return (self.choices[0].delta.content or "") if self.choices else ""


class TextChoice(Answer):
    """A continued text."""

    index: int
    text: str
    finish_reason: str | None


class TextCompletion(Answer):
    """The continuation of a text."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """What comes after the prompt."""
        return self.choices[0].text


class Embedding(Answer):
    """A text's vector."""

    index: int
    embedding: list[float]


class Embeddings(Answer):
    """Vectors of texts, in the order of the texts."""

    model: str
    data: list[Embedding]
    usage: Usage

    @property
    def vectors(self) -> list[list[float]]:
        """The vectors alone."""
        return [one.embedding for one in self.data]


class ModelEntry(Answer):
    """A name under which the application answers."""

    id: str
    created: int


class ModelList(Answer):
    """The names under which the application answers."""

    data: list[ModelEntry]


class Asked(TypedDict, total=False):
    """How the answer is to be made; what is not given is left to the server."""

    max_completion_tokens: int
    temperature: float
    top_p: float
    stop: str | Sequence[str]
    seed: int
    response_format: Mapping[str, Any]
    """`{"type": "json_object"}`, or `json_schema` with a schema that the answer then follows."""
    logprobs: bool
    top_logprobs: int
    frequency_penalty: float
    presence_penalty: float
    user: str


def complete(
    prefix: str,
    messages: Sequence[Message] | str,
    *,
    model: str | None = None,
    timeout_s: float | None = None,
    **asked: Unpack[Asked],
) -> Call[ChatCompletion]:
    """The assistant's next message.

    `messages` is the conversation, or one question. `model` defaults to the application's name.
    """
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    body = {"model": model or _named(prefix), "messages": said, **asked}
    return Call("POST", f"{prefix}/v1/chat/completions", ChatCompletion, body, timeout_s)


def stream(
    prefix: str,
    messages: Sequence[Message] | str,
    *,
    model: str | None = None,
    timeout_s: float | None = None,
    **asked: Unpack[Asked],
) -> Call[ChatChunk]:
    """The assistant's next message, as it is made: a context that gives its chunks.

    Leaving the context early ends the generation at the server. The last chunk has the usage.
    """
    whole = complete(prefix, messages, model=model, timeout_s=timeout_s, **asked)
    body = {**(whole.body or {}), "stream": True, "stream_options": {"include_usage": True}}
    return Call("POST", whole.path, ChatChunk, body, timeout_s, {"Accept": "text/event-stream"})


def complete_text(
    prefix: str,
    prompt: str,
    *,
    model: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    timeout_s: float | None = None,
) -> Call[TextCompletion]:
    """The continuation of `prompt`, without a conversation's form around it."""
    fields = given(max_tokens=max_tokens, temperature=temperature, top_p=top_p, stop=stop, seed=seed)
    body = {"model": model or _named(prefix), "prompt": prompt, **fields}
    return Call("POST", f"{prefix}/v1/completions", TextCompletion, body, timeout_s)


def embed(
    prefix: str, texts: Sequence[str] | str, *, model: str | None = None, timeout_s: float | None = None
) -> Call[Embeddings]:
    """Vectors of texts, of unit length."""
    body = {"model": model or _named(prefix), "input": texts, "encoding_format": "float"}
    return Call("POST", f"{prefix}/v1/embeddings", Embeddings, body, timeout_s)


def models(prefix: str) -> Call[ModelList]:
    """The names under which the application answers."""
    return Call("GET", f"{prefix}/v1/models", ModelList)


def _named(prefix: str) -> str:
    # An application answers to its own name, and by default that is its prefix.
    return prefix.strip("/").rsplit("/", 1)[-1]


class Chat(Resource[Sender]):
    """A chat application."""

    complete = now(complete)
    stream = stream_now(stream)
    complete_text = now(complete_text)
    embed = now(embed)
    models = now(models)


class AsyncChat(Resource[AsyncSender]):
    """A chat application, to be awaited."""

    complete = later(complete)
    stream = stream_later(stream)
    complete_text = later(complete_text)
    embed = later(embed)
    models = later(models)
