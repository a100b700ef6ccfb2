"""The answers of chat completions, whole and as chunks of a stream, and how OpenAPI declares them.

Chunks are plain dicts, written once for each token; a test holds them to the classes that are declared here.
It does not decide what is in an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mizzen.workloads.chat import protocol
from mizzen.workloads.chat.generation import FinishReason, Piece, TokenLogprob
from mizzen.workloads.contract import Fields


class Alternative(Fields):
    """A token that could have come."""

    token: str
    bytes: list[int] | None
    logprob: float


class TokenInfo(Alternative):
    """A token of the answer; log probabilities are the model's own, before temperature or a grammar."""

    top_logprobs: list[Alternative]


class Logprobs(Fields):
    """How likely the model found the tokens of the answer."""

    content: list[TokenInfo]
    refusal: None = None


class PromptTokens(Fields):
    """Of the prompt's tokens."""

    cached_tokens: int
    """Did not have to be read again: an earlier prompt began with them."""


class CompletionTokens(Fields):
    """Of the answer's tokens."""

    reasoning_tokens: int


class Usage(Fields):
    """The numbers of tokens; zeros where the model was not asked."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens
    completion_tokens_details: CompletionTokens


class Citation(Fields):
    """A passage that the model was shown with the question."""

    document: str
    chunk: int
    title: str
    score: float
    """Cosine similarity to the question."""
    text: str


class Extension(Fields):
    """What a knowledge base had to say; only of applications that have one."""

    knowledge_base: str
    """`NAME@VERSION`."""
    grounded: bool
    """Whether the model was shown passages."""
    citations: list[Citation]
    """The best first."""


class AnswerMessage(Fields):
    """The assistant's words, or that it refuses."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None


class Choice(Fields):
    """The one answer."""

    index: Literal[0]
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason


class Head(Fields):
    """What answers begin with."""

    id: str
    created: int
    model: str
    """`NAME@VERSION`."""
    system_fingerprint: str
    """The model version's digest."""


class ChatCompletion(Head):
    """A whole answer."""

    object: Literal["chat.completion"]
    choices: list[Choice]
    usage: Usage
    mizzen: Extension | None = None


class Delta(Fields):
    """New words."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None


class ChunkChoice(Fields):
    """New words of the one answer, or why it ended."""

    index: Literal[0]
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(Head):
    """One `data:` event of a stream; the first one carries `mizzen`, the last is `[DONE]`."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: Usage | None = None
    mizzen: Extension | None = None


class ChatForm:
    """Writes one answer; see `stream.Form`."""

    def __init__(
        self,
        head: Mapping[str, Any],
        *,
        with_usage: bool,
        with_logprobs: bool,
        extension: Extension | None = None,
    ) -> None:
        self._head = head
        self._with_usage = with_usage
        self._with_logprobs = with_logprobs
        self._extension = {} if extension is None else {"mizzen": extension.model_dump()}

    def first(self) -> str:
        """The chunk before the first token."""
        return self._chunk({"role": "assistant", "content": ""}, extension=self._extension)

    def piece(self, piece: Piece) -> str:
        """The chunks of new words, and of the end."""
        events = ""
        if piece.text or piece.logprobs:
            events = self._chunk({"content": piece.text}, logprobs=self._logprobs(piece.logprobs))
        return events + (self._chunk({}, finish=piece.finish) if piece.finish else "")

    def usage(self, used: Mapping[str, Any]) -> str:
        """The chunk with the numbers of tokens, if it was asked for."""
        if not self._with_usage:
            return ""
        body = {"object": "chat.completion.chunk", **self._head, "choices": [], "usage": used}
        return protocol.event(body)

    def whole(self, pieces: Sequence[Piece], used: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a whole answer."""
        message = {
            "role": "assistant",
            "content": "".join(piece.text for piece in pieces),
            "refusal": None,
        }
        told = [token for piece in pieces for token in piece.logprobs]
        return self._completion(message, self._logprobs(told), pieces[-1].finish, used)

    def refused_events(self, delta: Mapping[str, Any], used: Mapping[str, Any]) -> str:
        """A whole stream for an answer that did not come from the model."""
        chunks = [self.first(), self._chunk(delta), self._chunk({}, finish="stop"), self.usage(used)]
        return "".join([*chunks, protocol.DONE])

    def refused(self, delta: Mapping[str, Any], used: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer that did not come from the model."""
        message = {"role": "assistant", "content": None, "refusal": None, **delta}
        return self._completion(message, None, "stop", used)

    def _completion(
        self,
        message: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None,
        finish: FinishReason | None,
        used: Mapping[str, Any],
    ) -> dict[str, Any]:
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}
        body = {"object": "chat.completion", **self._head, "choices": [choice], "usage": used}
        return {**body, **self._extension}

    def _chunk(
        self,
        delta: Mapping[str, Any],
        *,
        finish: FinishReason | None = None,
        logprobs: Mapping[str, Any] | None = None,
        extension: Mapping[str, Any] | None = None,
    ) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        body: dict[str, Any] = {"object": "chat.completion.chunk", **self._head, "choices": [choice]}
        if self._with_usage:
            body["usage"] = None
        return protocol.event({**body, **(extension or {})})

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        told = [{**_told(one), "top_logprobs": [_told(other) for other in one.top]} for one in tokens]
        return {"content": told, "refusal": None}


def _told(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "bytes": list(token.bytes), "logprob": token.logprob}
