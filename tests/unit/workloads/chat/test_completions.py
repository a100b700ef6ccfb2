from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mizzen.errors import RequestError
from mizzen.workloads.chat import protocol
from mizzen.workloads.chat.completions import Completion, CompletionForm, CompletionRequest, prompt_of
from mizzen.workloads.chat.generation import Piece, TokenLogprob
from mizzen.workloads.chat.tokens import tokenizer_of

HEAD = {"id": "cmpl-1", "created": 1, "model": "chat@1", "system_fingerprint": "f"}
USED = protocol.usage(3, 0, 2)


def request(prompt: Any = "My printer", **fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "chat", "prompt": prompt, **fields})


def token(text: str, logprob: float, *others: tuple[str, float]) -> TokenLogprob:
    top = tuple(TokenLogprob(t, t.encode(), p) for t, p in others)
    return TokenLogprob(text, text.encode(), logprob, top)


PIECES = [
    Piece(" does", 1, None, 0, (token(" does", -1.0, (" is", -0.5)),)),
    Piece(" not", 2, "length", 0, (token(" not", -0.1, (" not", -0.1)),)),
]


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"prompt": []},
        {"prompt": ["a", "b"]},
        {"prompt": [[1], [2]]},
        {"prompt": [[]]},
        {"prompt": [-1]},
        {"n": 2},
        {"best_of": 3},
        {"suffix": "end"},
        {"logprobs": 6},
        {"logprobs": True, "echo": True},
        {"echo": True, "logprobs": 0},
        {"max_completion_tokens": 4},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        request(**fields)
    assert any(name in str(refused.value) for name in fields)


def test_a_prompt_is_a_text_or_token_ids_alone_or_in_a_list(tiny_base: Path) -> None:
    tokenizer = tokenizer_of(tiny_base)
    ids = tokenizer.encode("My printer")
    for prompt in ("My printer", ["My printer"], ids, [ids]):
        assert prompt_of(request(prompt), tokenizer) == (ids, "")
        assert prompt_of(request(prompt, echo=True), tokenizer) == (ids, "My printer")


def test_token_ids_beyond_the_vocabulary_are_refused(tiny_base: Path) -> None:
    tokenizer = tokenizer_of(tiny_base)
    with pytest.raises(RequestError, match=f"saw {len(tokenizer)}; allowed: 0 to {len(tokenizer) - 1}"):
        prompt_of(request([1, len(tokenizer)]), tokenizer)


def test_what_is_written_is_what_is_declared() -> None:
    for fields in ({}, {"stream": True, "stream_options": {"include_usage": True}, "logprobs": 1}):
        form = CompletionForm(HEAD, request(**fields), "")
        Completion.model_validate(form.whole(PIECES, USED))
        form = CompletionForm(HEAD, request(**fields), "")
        for event in (*map(form.piece, PIECES), form.usage(USED)):
            if event:
                Completion.model_validate(json.loads(event.removeprefix("data: ")))


def test_log_probabilities_come_in_lists_of_the_older_form() -> None:
    told = CompletionForm(HEAD, request(logprobs=1), "").whole(PIECES, USED)["choices"][0]["logprobs"]
    assert told == {
        "text_offset": [0, 5],
        "token_logprobs": [-1.0, -0.1],
        "tokens": [" does", " not"],
        "top_logprobs": [{" is": -0.5, " does": -1.0}, {" not": -0.1}],
    }


def test_offsets_go_on_from_chunk_to_chunk() -> None:
    form = CompletionForm(HEAD, request(logprobs=0, stream=True), "")
    chunks = [json.loads(form.piece(piece).removeprefix("data: ")) for piece in PIECES]
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks] == [[0], [5]]
    assert chunks[0]["choices"][0]["logprobs"]["top_logprobs"] is None


def test_tokens_that_are_no_whole_characters_are_told_apart_by_their_bytes() -> None:
    halves = [TokenLogprob("\ufffd", byte, -1.0) for byte in (b"\xc3", b"\xbc")]
    pieces = [Piece("ü!", 3, "stop", 0, (*halves, token("!", -0.5)))]
    told = CompletionForm(HEAD, request(logprobs=0), "").whole(pieces, USED)["choices"][0]["logprobs"]
    assert told["tokens"] == ["bytes:\\xc3", "bytes:\\xbc", "!"]
    assert told["text_offset"] == [0, 0, 1]


def test_an_echo_comes_first_whole_or_streamed() -> None:
    form = CompletionForm(HEAD, request(echo=True), "My printer")
    assert form.whole(PIECES, USED)["choices"][0]["text"] == "My printer does not"
    assert json.loads(form.first().removeprefix("data: "))["choices"][0]["text"] == "My printer"
