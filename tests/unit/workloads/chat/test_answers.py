from __future__ import annotations

import json
from typing import Any

from mizzen.workloads.chat import protocol
from mizzen.workloads.chat.answers import ChatCompletion, ChatCompletionChunk, ChatForm, Citation, Extension
from mizzen.workloads.chat.generation import Piece, TokenLogprob

HEAD = {"id": "chatcmpl-1", "created": 1, "model": "chat@1", "system_fingerprint": "f"}
TOKEN = TokenLogprob("Hi", b"Hi", -0.5, (TokenLogprob("Hi", b"Hi", -0.5), TokenLogprob("Ho", b"Ho", -1.5)))
PIECES = [Piece("Hi", 1, None, 5, (TOKEN,)), Piece("", 2, "stop", 5)]
USED = protocol.usage(9, 5, 2)
FOUND = Extension(
    knowledge_base="kb@3",
    grounded=True,
    citations=[Citation(document="faq.md", chunk=2, title="FAQ", score=0.5, text="Yes.")],
)


def form(**fields: Any) -> ChatForm:
    return ChatForm(HEAD, **{"with_usage": False, "with_logprobs": False, "extension": None, **fields})


def events(text: str) -> list[dict[str, Any]]:
    bodies = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    return [json.loads(body) for body in bodies if body != "[DONE]"]


def test_what_is_written_is_what_is_declared() -> None:
    for options in ({}, {"with_usage": True, "with_logprobs": True, "extension": FOUND}):
        one = form(**options)
        ChatCompletion.model_validate(one.whole(PIECES, USED))
        ChatCompletion.model_validate(one.refused({"refusal": "No."}, USED))
        streamed = one.first() + "".join(map(one.piece, PIECES)) + one.usage(USED)
        for chunk in events(streamed) + events(one.refused_events({"content": "No."}, USED)):
            ChatCompletionChunk.model_validate(chunk)


def test_a_stream_says_its_role_its_words_its_end_and_then_its_cost() -> None:
    one = form(with_usage=True)
    first, words, end, cost = events(one.first() + "".join(map(one.piece, PIECES)) + one.usage(USED))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert words["choices"][0]["delta"] == {"content": "Hi"} and words["choices"][0]["finish_reason"] is None
    assert end["choices"][0]["delta"] == {} and end["choices"][0]["finish_reason"] == "stop"
    assert cost["choices"] == [] and cost["usage"] == USED
    assert first["usage"] is words["usage"] is end["usage"] is None


def test_a_stream_does_not_speak_of_usage_where_nobody_asked() -> None:
    one = form()
    assert all("usage" not in chunk for chunk in events(one.first() + "".join(map(one.piece, PIECES))))
    assert one.usage(USED) == ""


def test_log_probabilities_are_told_token_by_token() -> None:
    told = form(with_logprobs=True).whole(PIECES, USED)["choices"][0]["logprobs"]["content"]
    assert told == [
        {
            "token": "Hi",
            "bytes": [72, 105],
            "logprob": -0.5,
            "top_logprobs": [
                {"token": "Hi", "bytes": [72, 105], "logprob": -0.5},
                {"token": "Ho", "bytes": [72, 111], "logprob": -1.5},
            ],
        }
    ]
    assert form().whole(PIECES, USED)["choices"][0]["logprobs"] is None


def test_citations_are_in_the_whole_answer_and_in_the_first_chunk() -> None:
    one = form(extension=FOUND)
    assert one.whole(PIECES, USED)["mizzen"] == FOUND.model_dump()
    first, *others = events(one.first() + "".join(map(one.piece, PIECES)))
    assert first["mizzen"] == FOUND.model_dump()
    assert all("mizzen" not in chunk for chunk in others)
    assert "mizzen" not in form().whole(PIECES, USED)
