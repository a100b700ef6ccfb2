"""Features of conversations: the same in training as in requests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from mizzen.recording import ServedMetrics
from mizzen.serving.http import Facts, Limits, http_app
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.chat import features
from mizzen.workloads.chat.data import Message
from mizzen.workloads.chat.endpoint import ChatEndpoint
from mizzen.workloads.chat.options import ChatOptions
from mizzen.workloads.chat.tokens import prompt_ids, tokenizer_of
from mizzen.workloads.contract import ModelIdentity, ServedModel

IDENTITY = ModelIdentity("helper", 3, "a" * 64)
SYSTEM = {"role": "system", "content": "Be kind."}


def turn(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


class Split(list[list[Message]]):
    """The conversations of a split."""


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return tokenizer_of(tiny_base)


def test_training_looks_at_what_stands_before_each_of_the_assistants_turns(tokenizer: Any) -> None:
    one = [SYSTEM, *turn("My printer does not print.", "Off and on."), *turn("Why?", "It helps.")]
    found: Any = features.in_training(Split([one]), tokenizer)
    assert found["messages"] == [2, 4]
    assert found["prompt_tokens"] == [
        len(prompt_ids(tokenizer, one[:2])),
        len(prompt_ids(tokenizer, one[:4])),
    ]
    asked = [len(tokenizer.encode(text)) for text in ("My printer does not print.", "Why?")]
    assert found["question_tokens"] == asked


def test_an_assistant_who_speaks_first_answers_no_prompt(tokenizer: Any) -> None:
    one = [{"role": "assistant", "content": "Hello"}, *turn("Hi", "What?")]
    found: Any = features.in_training(Split([one]), tokenizer)
    assert found["messages"] == [2]
    assert features.in_training(Split([]), tokenizer) == {}


def test_of_many_conversations_a_sample_is_looked_at_that_is_always_the_same(tokenizer: Any) -> None:
    many = Split([turn("why " * (i % 50 + 1), "so") for i in range(features.MAX_PROMPTS + 500)])
    found: Any = features.in_training(many, tokenizer)
    assert len(found["messages"]) == features.MAX_PROMPTS
    assert len(set(found["question_tokens"])) == 50  # from everywhere
    assert features.in_training(many, tokenizer) == found


def test_a_request_hands_over_what_training_would_have_of_it(
    tiny_export: Path, tokenizer: Any, word_base: Any
) -> None:
    base = word_base({"printer.md": ["If the printer does not print, switch it off and on again."]})
    messages = [SYSTEM, {"role": "user", "content": "Does the printer not print?"}]

    async def ask(**options: Any) -> list[Any]:
        taken: list[Any] = []
        model = ServedModel(
            IDENTITY,
            tiny_export,
            OnnxRuntime("CPUExecutionProvider", 1),
            lambda function: function,  # type: ignore[arg-type]
            "support",
            retriever=lambda _: base,
            watch_inputs=taken.append,
        )
        endpoint = ChatEndpoint(model, ChatOptions.model_validate({"max_context": 600, **options}))
        await endpoint.start()
        limits = Limits(max_ongoing_requests=9, max_queued_requests=9, max_request_bytes=1 << 20)
        app = http_app(IDENTITY, endpoint, ServedMetrics("s", "h", 3), limits, Facts("Helps.", "chat"))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            body = {"model": "helper", "messages": messages, "max_tokens": 2}
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
            text = {"model": "helper", "prompt": "a text without messages", "max_tokens": 2}
            assert (await client.post("/v1/completions", json=text)).status_code == 200
        await endpoint.close()
        return taken

    (alone,) = asyncio.run(ask())
    (grounded,) = asyncio.run(ask(knowledge={"model": "kb@production", "min_score": 0.1}))
    trained = features.in_training(Split([[*messages, {"role": "assistant", "content": "Yes."}]]), tokenizer)
    assert alone == grounded == trained
