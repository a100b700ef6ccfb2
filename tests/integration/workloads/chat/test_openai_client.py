"""The whole protocol through the official client, over real HTTP, on a tiny model of random weights."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openai
import pytest
import uvicorn
from pydantic import BaseModel, Field

from mizzen.recording import ServedMetrics
from mizzen.serving.access import Grant
from mizzen.serving.auth import Access
from mizzen.serving.http import Facts, Limits, http_app
from mizzen.serving.limiter import ActorChannel, SharedLimits
from mizzen.serving.switch import Switch
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.chat.endpoint import ChatEndpoint
from mizzen.workloads.chat.options import ChatOptions
from mizzen.workloads.contract import ModelIdentity, ServedModel

IDENTITY = ModelIdentity("helper", 3, "a" * 64)
LIMITS = Limits(max_ongoing_requests=100, max_queued_requests=100, max_request_bytes=1 << 20)
KEY = "a-key-that-is-long-enough"
QUESTION = [{"role": "user", "content": "Does the printer not print?"}]
DOCUMENTS = {
    "printer.md": ["If the printer does not print, switch it off and on again."],
    "screen.md": ["If the screen stays black, look at the cable."],
}
UNKNOWN = "Nobody told me."
LONG = 900
"""Tokens of an answer that nobody waits for to its end."""


class OneKey:
    """Lets one key through."""

    def find(self, given: Sequence[bytes]) -> Grant | None:
        return Grant("test") if KEY.encode() in given else None


@dataclass
class Served:
    """An application behind a real HTTP server."""

    url: str
    endpoint: ChatEndpoint

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": self.url, "api_key": KEY, "max_retries": 0, **options})

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.url, api_key=KEY, max_retries=0)


@contextmanager
def listening(app: Any) -> Iterator[str]:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def serving(folder: Path, base: Any = None, access: Access | None = None, **options: Any) -> Iterator[Served]:
    runtime = OnnxRuntime("CPUExecutionProvider", 1)
    model = ServedModel(
        IDENTITY,
        folder,
        runtime,
        lambda function: function,  # type: ignore[arg-type, return-value] # chat batches by itself
        "support",
        retriever=lambda reference: {"kb@production": base}[reference],
    )
    endpoint = ChatEndpoint(model, ChatOptions.model_validate({"max_context": 1024, **options}))
    asyncio.run(endpoint.start())
    metrics = ServedMetrics("support", "helper", 3)
    try:
        with listening(http_app(IDENTITY, endpoint, metrics, LIMITS, Facts("Helps.", "chat"), access)) as url:
            yield Served(url, endpoint)
    finally:
        asyncio.run(endpoint.close())


@pytest.fixture(scope="module")
def plain(tiny_export: Path) -> Iterator[Served]:
    """A model alone, for whoever has the key."""
    with serving(tiny_export, access=Access("support", OneKey(), SharedLimits(ActorChannel()))) as served:
        yield served


@pytest.fixture(scope="module")
def knowing(tiny_export: Path, word_base: Any) -> Iterator[Served]:
    """The model with a knowledge base."""
    knowledge = {"model": "kb@production", "min_score": 0.4, "unknown_answer": UNKNOWN}
    with serving(tiny_export, base=word_base(DOCUMENTS), knowledge=knowledge) as served:
        yield served


def chat(client: Any, messages: Any = QUESTION, **fields: Any) -> Any:
    options = {"model": "helper", "temperature": 0, "max_completion_tokens": 12, **fields}
    return client.chat.completions.create(messages=messages, **options)


# --- answers --------------------------------------------------------------------------------------


def test_a_whole_answer_has_its_words_its_end_and_its_cost(plain: Served) -> None:
    with plain.client() as client:
        answer = chat(client, user="u", seed=1, stop=["§"], top_p=0.9, n=1)
    assert answer.object == "chat.completion" and answer.model == "helper@3"
    assert answer.choices[0].message.content and answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


def test_a_stream_says_the_same_and_ends_with_its_cost(plain: Served) -> None:
    with plain.client() as client:
        whole = chat(client)
        chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens and chunks[-1].choices == []
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_the_async_client_gets_many_answers_at_once(plain: Served) -> None:
    async def text(client: openai.AsyncOpenAI, count: int) -> str:
        stream = await chat(client, [{"role": "user", "content": "Hello " * count}], stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def together() -> list[str]:
        async with plain.async_client() as client:
            return list(await asyncio.gather(*(text(client, count) for count in range(1, 13))))

    with plain.client() as client:
        alone = [chat(client, [{"role": "user", "content": "Hello " * n}]) for n in (1, 12)]
    texts = asyncio.run(together())
    assert [texts[0], texts[-1]] == [answer.choices[0].message.content for answer in alone]


def test_log_probabilities_come_token_by_token(plain: Served) -> None:
    with plain.client() as client:
        answer = chat(client, logprobs=True, top_logprobs=3)
        older = client.completions.create(
            model="helper", prompt="My printer", max_tokens=4, logprobs=2, temperature=0
        )
    told = answer.choices[0].logprobs.content
    assert (
        b"".join(bytes(one.bytes) for one in told).decode(errors="replace")
        == answer.choices[0].message.content
    )
    assert all(one.top_logprobs[0].logprob == one.logprob <= 0 for one in told)  # greedy
    assert len(older.choices[0].logprobs.tokens) == len(older.choices[0].logprobs.top_logprobs) == 4


class Verdict(BaseModel):
    """What a model is asked to fill in."""

    answer: Literal["yes", "no"]
    reasons: list[Literal["heat", "dust"]] = Field(max_length=2)
    is_sure: bool


def test_a_schema_is_kept_to_and_parsed(plain: Served) -> None:
    with plain.client() as client:
        parsed = client.chat.completions.parse(
            model="helper",
            messages=QUESTION,
            response_format=Verdict,
            max_completion_tokens=200,
            temperature=1.5,
            seed=3,
        )
        with client.chat.completions.stream(
            model="helper",
            messages=QUESTION,
            response_format=Verdict,
            max_completion_tokens=200,
            temperature=1.5,
            seed=3,
        ) as stream:
            streamed = stream.get_final_completion()
    assert isinstance(parsed.choices[0].message.parsed, Verdict)
    assert parsed.choices[0].finish_reason == "stop"
    assert streamed.choices[0].message.parsed == parsed.choices[0].message.parsed


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of the client, on what it parsed itself
def test_a_conversation_goes_on_with_the_message_of_its_answer(plain: Served) -> None:
    with plain.client() as client:
        first = chat(client)
        parsed = client.chat.completions.parse(
            model="helper", messages=QUESTION, response_format=Verdict, max_completion_tokens=200
        )
        for answer in (first, parsed):
            turns = [*QUESTION, answer.choices[0].message, {"role": "user", "content": "And now?"}]
            assert chat(client, turns).usage.prompt_tokens > first.usage.prompt_tokens


def test_calls_of_tools_in_earlier_turns_are_understood(plain: Served) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "restart", "arguments": "{}"}}
    turns = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "done", "tool_call_id": "c"},
    ]
    with plain.client() as client:
        assert chat(client, turns).choices[0].finish_reason == "length"
        with pytest.raises(openai.BadRequestError, match="tool_call_id"):
            chat(client, [*QUESTION, turns[-1]])


def test_a_text_goes_on(plain: Served) -> None:
    with plain.client() as client:
        asked: dict[str, Any] = {"model": "helper", "prompt": "My printer", "max_tokens": 8, "temperature": 0}
        whole = client.completions.create(**asked, echo=True)
        chunks = list(client.completions.create(**asked, stream=True))
    assert whole.choices[0].text == "My printer" + "".join(chunk.choices[0].text for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length" and whole.usage.completion_tokens == 8


def test_models_are_listed_and_found(plain: Served, knowing: Served) -> None:
    with plain.client() as client:
        assert [model.id for model in client.models.list()] == ["helper", "helper@3", "support"]
        assert client.models.retrieve("helper@3").owned_by == "mizzen"
    with knowing.client() as client:
        assert [model.id for model in client.models.list()][-2:] == ["kb", "kb@3"]


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"temperature": 3}, "temperature"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "?"}}}},
         "response_format"),
        ({"extra_body": {"min_tokens": 5}}, "min_tokens"),
        ({"extra_body": {"wisdom": 1}}, "wisdom"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_a_bad_request_that_names_it(
    plain: Served, fields: dict[str, Any], param: str
) -> None:
    with plain.client() as client, pytest.raises(openai.BadRequestError) as refused:
        chat(client, **fields)
    assert refused.value.param == param and refused.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_that_is_too_long_names_both_numbers(plain: Served, stream: bool) -> None:
    with plain.client() as client, pytest.raises(openai.BadRequestError, match=r"holds 1024 tokens") as no:
        chat(client, [{"role": "user", "content": "Ünïcödé " * 400}], stream=stream)
    assert no.value.code == "context_length_exceeded"
    assert "tokens in the messages and 12 for the answer" in str(no.value)


def test_an_unknown_model_is_not_found(plain: Served) -> None:
    with plain.client() as client:
        for ask in (chat, lambda client, **fields: client.models.retrieve(fields["model"])):
            with pytest.raises(openai.NotFoundError, match="helper@3") as missing:
                ask(client, model="gpt-4o")
            assert missing.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError, match=r"options\.knowledge\.model"):
            client.embeddings.create(model="helper", input="x")


def test_a_wrong_key_is_an_authentication_error(plain: Served) -> None:
    with plain.client(api_key="wrong") as client, pytest.raises(openai.AuthenticationError) as refused:
        chat(client)
    assert refused.value.code == "invalid_api_key"


def test_a_full_queue_is_a_rate_limit_error_that_says_when_to_come_again(tiny_export: Path) -> None:
    async def rush(served: Served) -> list[Any]:
        async with served.async_client() as client:
            asked = [chat(client, max_completion_tokens=60, stream=i % 2 == 0) for i in range(8)]
            return list(await asyncio.gather(*asked, return_exceptions=True))

    with serving(tiny_export, max_concurrent=1, max_waiting=1) as served:
        results = asyncio.run(rush(served))
    refused = [one for one in results if isinstance(one, Exception)]
    assert 1 <= len(refused) <= 6
    for error in refused:
        assert isinstance(error, openai.RateLimitError) and error.type == "rate_limit_error"
        assert int(error.response.headers["retry-after"]) >= 1


def test_a_server_without_a_model_and_a_model_that_failed_are_internal_server_errors(
    tiny_export: Path,
) -> None:
    with listening(Switch()) as url, Served(url, None).client() as client:  # type: ignore[arg-type] # not asked
        with pytest.raises(openai.InternalServerError) as away:
            chat(client)
        assert away.value.status_code == 503 and "retry-after" in away.value.response.headers
    with serving(tiny_export) as served, served.client() as client:
        served.endpoint.engine.close()
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as failed:
                chat(client, stream=stream)
            assert failed.value.type == "server_error"


# --- clients that go away -------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("logprobs", [False, True])
def test_generation_stops_when_the_client_goes_away(plain: Served, stream: bool, logprobs: bool) -> None:
    endless = {"max_completion_tokens": LONG, "extra_body": {"ignore_eos": True}}

    async def leave() -> None:
        async with plain.async_client() as client:
            asking = asyncio.create_task(chat(client, stream=stream, logprobs=logprobs, **endless))
            if stream:
                answer = await asking
                await anext(aiter(answer))
                await answer.close()
            else:
                while not plain.endpoint.counters.running:
                    await asyncio.sleep(0.001)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(30):
            while plain.endpoint.counters.running:
                await asyncio.sleep(0.001)

    before = plain.endpoint.counters
    asyncio.run(leave())
    after = plain.endpoint.counters
    assert after.cancelled == before.cancelled + 1
    assert after.generated_tokens - before.generated_tokens < LONG
    with plain.client() as client:
        assert chat(client).usage.completion_tokens == 12  # its slot is free again


# --- knowledge ------------------------------------------------------------------------------------


def test_an_answer_carries_its_citations_whole_and_streamed(knowing: Served) -> None:
    with knowing.client() as client:
        whole = chat(client)
        chunks = list(chat(client, stream=True))
        with client.chat.completions.stream(
            model="helper", messages=QUESTION, max_completion_tokens=200, response_format=Verdict
        ) as stream:
            accumulated = stream.get_final_completion()
    assert whole.mizzen["knowledge_base"] == "kb@3" and whole.mizzen["grounded"] is True
    (citation,) = whole.mizzen["citations"]
    assert (citation["document"], citation["chunk"], citation["title"]) == ("printer.md", 0, "PRINTER.MD")
    assert citation["score"] > 0.4 and "off and on" in citation["text"]
    assert [chunk.mizzen for chunk in chunks if "mizzen" in (chunk.model_extra or {})] == [whole.mizzen]
    assert accumulated.mizzen == whole.mizzen and accumulated.choices[0].message.parsed is not None


def test_what_the_documents_do_not_say_is_not_known(knowing: Served) -> None:
    asked = [{"role": "user", "content": "Who was Napoleon?"}]
    before = knowing.endpoint.counters.prompt_tokens
    with knowing.client() as client:
        whole = chat(client, asked)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chat(client, asked, stream=True))
        parsed = client.chat.completions.parse(model="helper", messages=asked, response_format=Verdict)
    assert whole.choices[0].message.content == streamed == UNKNOWN
    assert whole.usage.total_tokens == 0 and whole.mizzen["grounded"] is False
    assert parsed.choices[0].message.parsed is None and parsed.choices[0].message.refusal == UNKNOWN
    assert knowing.endpoint.counters.prompt_tokens == before


def test_embeddings_come_as_the_client_asks_for_them_by_itself(knowing: Served, word_base: Any) -> None:
    texts = ["a printer", "a black screen"]
    expected = word_base(DOCUMENTS).embed(texts)
    with knowing.client() as client:
        by_itself = client.embeddings.create(model="kb", input=texts)
        as_floats = client.embeddings.create(
            model="kb@3", input=texts, encoding_format="float", dimensions=512
        )
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model="kb", input=texts, dimensions=8)
    for answer in (by_itself, as_floats):
        assert np.allclose([one.embedding for one in answer.data], expected)
        assert answer.model == "kb@3" and answer.usage.prompt_tokens == 5
    assert refused.value.param == "dimensions"
