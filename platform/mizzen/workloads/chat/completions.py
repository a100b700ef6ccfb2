"""OpenAI's older `/v1/completions`: a text is continued as it is, without messages and without documents.

It does not generate: `stream` brings the pieces.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mizzen.errors import RequestError
from mizzen.workloads.chat import protocol
from mizzen.workloads.chat.answers import Head, Usage
from mizzen.workloads.chat.generation import FinishReason, Piece, TokenLogprob
from mizzen.workloads.chat.protocol import Generating
from mizzen.workloads.chat.text import UNFINISHED
from mizzen.workloads.contract import Fields

MAX_LOGPROBS = 5
"""OpenAI's limit here."""
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Prompt = (
    Annotated[str, Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1)]
    | Annotated[list[TokenId], Field(min_length=1)]
    | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=1)]
)


class CompletionRequest(Generating):
    """The body of `POST /v1/completions`; one prompt, as text or as token ids of this model."""

    prompt: Prompt
    echo: bool | None = None
    """Begin the answer with the prompt."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    suffix: Literal[""] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo does not go with logprobs: those of the prompt are not known")
        return self

    def alternatives(self) -> int | None:
        return self.logprobs


class CompletionLogprobs(Fields):
    """How likely the model found the tokens of the answer: four lists of the same length."""

    text_offset: list[int]
    """Where a token begins in the answer, in characters."""
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]] | None


class CompletionChoice(Fields):
    """The one answer, or new words of it."""

    index: Literal[0]
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(Head):
    """A whole answer, or one `data:` event of a stream, the last of which is `[DONE]`."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = None


def prompt_of(request: CompletionRequest, tokenizer: Any) -> tuple[list[int], str]:
    """The prompt's tokens and, if it is echoed, its text. Raises `RequestError` for tokens that are none."""
    prompt: Any = request.prompt
    if isinstance(prompt, list) and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str):
        ids: list[int] = tokenizer.encode(prompt)
        if not ids:
            raise RequestError("the prompt has no token", saw=repr(prompt[:20]), field="prompt")
        return ids, prompt if request.echo else ""
    unknown = [token for token in prompt if token >= len(tokenizer)]
    if unknown:
        raise RequestError(
            "the model has no such token",
            saw=unknown[0],
            allowed=f"0 to {len(tokenizer) - 1}",
            field="prompt",
        )
    return prompt, tokenizer.decode(prompt) if request.echo else ""


class CompletionForm:
    """Writes one answer; see `stream.Form`."""

    def __init__(self, head: Mapping[str, Any], request: CompletionRequest, echoed: str) -> None:
        self._head = head
        self._with_usage = request.with_usage
        self._num_best = request.logprobs
        self._echoed = echoed
        self._num_shown = 0
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def first(self) -> str:
        """The chunk before the first token: the prompt, if it is echoed."""
        return self._chunk(self._echoed, None, None) if self._echoed else ""

    def piece(self, piece: Piece) -> str:
        """The chunk of new words; the last one says why the answer ended."""
        return self._chunk(piece.text, self._logprobs(piece.logprobs), piece.finish)

    def usage(self, used: Mapping[str, Any]) -> str:
        """The chunk with the numbers of tokens, if it was asked for."""
        return protocol.event({**self._body([]), "usage": used}) if self._with_usage else ""

    def whole(self, pieces: Sequence[Piece], used: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a whole answer."""
        text = self._echoed + "".join(piece.text for piece in pieces)
        told = self._logprobs([token for piece in pieces for token in piece.logprobs])
        return {**self._body([_choice(text, told, pieces[-1].finish)]), "usage": used}

    def _chunk(self, text: str, logprobs: Mapping[str, Any] | None, finish: FinishReason | None) -> str:
        body = self._body([_choice(text, logprobs, finish)])
        return protocol.event({**body, "usage": None} if self._with_usage else body)

    def _body(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"object": "text_completion", **self._head, "choices": choices}

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if self._num_best is None:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._num_shown)
            self._num_shown += len(self._characters.decode(token.bytes))
        return {
            "text_offset": offsets,
            "token_logprobs": [token.logprob for token in tokens],
            "tokens": [_spelt(token) for token in tokens],
            "top_logprobs": [_best(token) for token in tokens] if self._num_best else None,
        }


def _choice(text: str, logprobs: Mapping[str, Any] | None, finish: FinishReason | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _best(token: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens by their text, and the one that was picked, as OpenAI tells them."""
    return {_spelt(one): one.logprob for one in (*token.top, token)}


def _spelt(token: TokenLogprob) -> str:
    """A token's text or, if it is no whole character, its bytes in OpenAI's notation: these tell it apart."""
    if UNFINISHED not in token.text:
        return token.text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)
