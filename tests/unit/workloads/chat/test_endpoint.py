"""The endpoint over a tiny exported model, inside the application that serves it, called without sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mizzen import metrics
from mizzen.errors import ServingError
from mizzen.recording import ServedMetrics
from mizzen.serving.http import Facts, Limits, http_app
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.chat.answers import ChatCompletion, ChatCompletionChunk
from mizzen.workloads.chat.completions import Completion
from mizzen.workloads.chat.embeddings import Embeddings
from mizzen.workloads.chat.endpoint import ChatEndpoint
from mizzen.workloads.chat.options import ChatOptions
from mizzen.workloads.contract import SILENT, Meter, ModelIdentity, Recorder, ServedModel
from mizzen.workloads.handed import METER

IDENTITY = ModelIdentity("helper", 3, "a" * 64)
LIMITS = Limits(max_ongoing_requests=100, max_queued_requests=100, max_request_bytes=1 << 20)
MESSAGES = [{"role": "user", "content": "My printer does not print."}]
DOCUMENTS = {
    "printer.md": ["If the printer does not print, switch it off and on again.", "Ink is in the shop."],
    "screen.md": ["If the screen stays black, look at the cable."],
}
UNKNOWN = "Nobody told me."


def no_batching(function: Any) -> Any:
    raise AssertionError("chat batches by itself")


@asynccontextmanager
async def serving(
    folder: Path,
    base: Any = None,
    meter: Meter | None = None,
    recorder: Recorder = SILENT,
    **options: Any,
) -> AsyncIterator[tuple[httpx.AsyncClient, ChatEndpoint]]:
    """`base` is the knowledge base `kb@production`; `meter` counts the tokens of all requests."""
    model = ServedModel(
        IDENTITY,
        folder,
        OnnxRuntime("CPUExecutionProvider", 1),
        no_batching,
        "support",
        {"created_at": 1.7e9},
        retriever=lambda reference: {"kb@production": base}[reference],
        recorder=recorder,
    )
    endpoint = ChatEndpoint(model, ChatOptions.model_validate({"max_context": 200, **options}))
    await endpoint.start()
    try:
        app = http_app(
            IDENTITY, endpoint, ServedMetrics("support", "helper", 3), LIMITS, Facts("Helps.", "chat")
        )

        async def metered(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, METER: meter}, receive, send)

        transport = httpx.ASGITransport(app=metered, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client, endpoint
    finally:
        await endpoint.close()


def ask(
    folder: Path, *bodies: dict[str, Any], path: str = "chat/completions", **options: Any
) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with serving(folder, **options) as (client, _):
            posts = [client.post(f"/v1/{path}", json={"model": "helper", **body}) for body in bodies]
            return list(await asyncio.gather(*posts))

    return asyncio.run(run())


def events(response: httpx.Response) -> Iterator[Any]:
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return (json.loads(line.removeprefix("data: ")) for line in lines[:-1])


def greedy(**fields: Any) -> dict[str, Any]:
    return {"messages": MESSAGES, "temperature": 0, "max_tokens": 20, **fields}


def user_says(text: str, **fields: Any) -> dict[str, Any]:
    return greedy(messages=[{"role": "user", "content": text}], **fields)


def words(response: httpx.Response) -> str:
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def test_a_whole_answer_and_a_stream_say_the_same(tiny_export: Path) -> None:
    asked = greedy(stream=True, stream_options={"include_usage": True})
    whole, streamed = ask(tiny_export, greedy(), asked, reused_tokens=0)
    body = whole.json()
    assert body["object"] == "chat.completion" and body["model"] == "helper@3"
    choice = body["choices"][0]
    assert choice["message"]["role"] == "assistant" and choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 20
    assert streamed.headers["content-type"].startswith("text/event-stream")
    chunks = list(events(streamed))
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]]
    assert "".join(texts) == choice["message"]["content"] != ""
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"] == body["usage"] and chunks[-1]["choices"] == []
    assert whole.headers["mizzen-version"] == streamed.headers["mizzen-version"] == "3"


def test_the_same_seed_repeats_an_answer_and_another_does_not(tiny_export: Path) -> None:
    drawn = [greedy(temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    texts = [r.json()["choices"][0]["message"]["content"] for r in ask(tiny_export, *drawn)]
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_text_ends_the_answer_before_it(tiny_export: Path) -> None:
    text = ask(tiny_export, greedy())[0].json()["choices"][0]["message"]["content"]
    stop = text[5:8]
    choice = ask(tiny_export, greedy(stop=stop))[0].json()["choices"][0]
    assert choice["message"]["content"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_more_requests_than_slots_are_all_answered_as_alone(tiny_export: Path) -> None:
    bodies = [greedy(messages=[{"role": "user", "content": "Hello " * i}]) for i in range(1, 9)]
    together = ask(tiny_export, *bodies, max_concurrent=3)
    alone = [ask(tiny_export, body)[0] for body in bodies[::3]]
    texts = [r.json()["choices"][0]["message"]["content"] for r in together]
    assert texts[::3] == [r.json()["choices"][0]["message"]["content"] for r in alone]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "gpt-4o"}, 404, "model"),
        ({"n": 2}, 400, "n"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"wisdom": 3}, 400, "wisdom"),
        ({"messages": [{"role": "user", "content": "Hello " * 200}]}, 400, "messages"),
        ({"max_tokens": 190}, 400, "messages"),
        ({"max_tokens": 10**400}, 400, "max_tokens"),
        ({"logit_bias": {"999999": 1}}, 400, "logit_bias"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_in_openais_shape(
    tiny_export: Path, fields: dict[str, Any], status: int, param: str
) -> None:
    response = ask(tiny_export, greedy(**fields))[0]
    error = response.json()["error"]
    assert response.status_code == status
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_malformed_json_is_a_bad_request(tiny_export: Path) -> None:
    async def run() -> httpx.Response:
        async with serving(tiny_export) as (client, _):
            headers = {"content-type": "application/json"}
            return await client.post("/v1/chat/completions", content=b"{", headers=headers)

    assert asyncio.run(run()).status_code == 400


def test_a_full_queue_answers_429_also_where_a_stream_was_asked_for(tiny_export: Path) -> None:
    bodies = [greedy(max_tokens=100, stream=i % 2 == 0) for i in range(12)]
    answers = ask(tiny_export, *bodies, max_concurrent=1, max_waiting=1)
    codes = [response.status_code for response in answers]
    assert codes.count(200) >= 2 and set(codes) == {200, 429}
    refused = next(response for response in answers if response.status_code == 429)
    assert refused.json()["error"]["type"] == "rate_limit_error" and "retry-after" in refused.headers


def test_models_are_listed_under_every_name_that_is_answered(tiny_export: Path) -> None:
    async def run() -> list[httpx.Response]:
        async with serving(tiny_export) as (client, _):
            paths = ["", "/helper", "/helper@3", "/support", "/other"]
            return [await client.get(f"/v1/models{path}") for path in paths]

    listed, *shown, missing = asyncio.run(run())
    assert [model["id"] for model in listed.json()["data"]] == ["helper", "helper@3", "support"]
    assert [r.json()["id"] for r in shown] == ["helper", "helper@3", "support"]
    assert shown[0].json()["created"] == 1_700_000_000
    assert missing.status_code == 404 and missing.json()["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "gpt-4o"}, 404, "model_not_found"),
        ({"max_tokens": 190}, 400, "context_length_exceeded"),
    ],
)
def test_errors_that_openai_has_a_code_for_carry_it(
    tiny_export: Path, fields: dict[str, Any], status: int, code: str
) -> None:
    response = ask(tiny_export, greedy(**fields))[0]
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_answers_are_as_they_are_declared(tiny_export: Path) -> None:
    more = {"logprobs": True, "top_logprobs": 2}
    whole, streamed = ask(tiny_export, greedy(**more), greedy(stream=True, **more))
    ChatCompletion.model_validate(whole.json())
    chunks = list(events(streamed))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    told = whole.json()["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in told) == words(whole)
    assert all(len(token["top_logprobs"]) == 2 for token in told)
    assert told == [
        t for c in chunks if c["choices"][0]["logprobs"] for t in c["choices"][0]["logprobs"]["content"]
    ]


def test_a_bias_can_forbid_a_token(tiny_export: Path) -> None:
    from mizzen.workloads.chat.tokens import tokenizer_of

    free = words(ask(tiny_export, greedy(max_tokens=8))[0])
    (first, *_) = tokenizer_of(tiny_export).encode(free)
    assert words(ask(tiny_export, greedy(max_tokens=8, logit_bias={str(first): -100}))[0])[0] != free[0]


def test_json_is_valid_by_its_schema_whole_and_streamed(tiny_export: Path) -> None:
    schema = {
        "type": "object",
        "properties": {
            "answer": {"enum": ["yes", "no"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 9},
        },
        "required": ["answer", "count"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema, "strict": True}}
    asked = greedy(response_format=form, max_tokens=120)
    whole, streamed = ask(tiny_export, asked, {**asked, "stream": True})
    content = json.loads(words(whole))
    assert content["answer"] in ("yes", "no") and 0 <= content["count"] <= 9
    assert whole.json()["choices"][0]["finish_reason"] == "stop"
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in events(streamed)]
    assert json.loads("".join(texts)) == content


def test_a_schema_that_cannot_be_kept_to_is_a_bad_request(tiny_export: Path) -> None:
    schema = {"name": "x", "schema": {"type": "wisdom"}}
    response = ask(tiny_export, greedy(response_format={"type": "json_schema", "json_schema": schema}))[0]
    assert response.status_code == 400 and response.json()["error"]["param"] == "response_format"


def test_calls_of_tools_in_earlier_turns_are_shown_to_the_model(tiny_export: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "print", "arguments": "{}"}}
    turns = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "paper jam", "tool_call_id": "c"},
    ]
    without, with_tools = ask(tiny_export, greedy(max_tokens=5), greedy(max_tokens=5, messages=turns))
    more = with_tools.json()["usage"]["prompt_tokens"] - without.json()["usage"]["prompt_tokens"]
    assert more > len("paper jam")


def test_the_next_turn_reuses_the_one_before_but_not_another_keys(tiny_export: Path) -> None:
    async def run() -> list[int]:
        async with serving(tiny_export, max_context=600) as (client, _):

            async def cached(messages: list[dict[str, str]], key: str) -> tuple[int, str]:
                answer = await client.post(
                    "/v1/chat/completions",
                    json=greedy(model="helper", messages=messages),
                    headers={"authorization": f"Bearer {key}"},
                )
                body = answer.json()
                return body["usage"]["prompt_tokens_details"]["cached_tokens"], words(answer)

            first, text = await cached(MESSAGES * 3, "one")
            turns = [*MESSAGES * 3, {"role": "assistant", "content": text}, *MESSAGES]
            return [first, *[(await cached(turns, key))[0] for key in ("one", "two", "two")]]

    first, reused, another, again = asyncio.run(run())
    assert first == another == 0 and 0 < reused <= again


def test_tokens_are_counted_for_whole_answers_and_streams(tiny_export: Path) -> None:
    for fields in ({}, {"stream": True, "stream_options": {"include_usage": True}}, {"logprobs": True}):
        meter = Meter()
        response = ask(tiny_export, greedy(**fields), meter=meter)[0]
        body = list(events(response))[-1] if "stream" in fields else response.json()
        assert meter.num_tokens == body["usage"]["total_tokens"] > 20


def test_series_add_up_to_the_usage_of_all_answers(tiny_export: Path, noted: Any) -> None:
    asked = [greedy(), user_says("Grüße aus Köln", max_tokens=7), greedy(max_tokens=1)]
    streamed = [{**body, "stream": True, "stream_options": {"include_usage": True}} for body in asked]
    answers = ask(tiny_export, *asked, *streamed, recorder=noted)
    used = [answer.json()["usage"] for answer in answers[:3]]
    used += [list(events(answer))[-1]["usage"] for answer in answers[3:]]
    assert noted.value(metrics.CHAT_PROMPT_TOKENS) == sum(one["prompt_tokens"] for one in used)
    assert noted.value(metrics.CHAT_GENERATED_TOKENS) == sum(one["completion_tokens"] for one in used)
    cached = sum(one["prompt_tokens_details"]["cached_tokens"] for one in used)
    assert noted.value(metrics.CHAT_CACHED_TOKENS) == cached > 0
    assert noted.value(metrics.CHAT_GENERATIONS, outcome="finished") == len(answers)
    assert len(noted.all(metrics.CHAT_FIRST_TOKEN)) == len(answers)
    assert len(noted.all(metrics.CHAT_OUTPUT_TOKEN)) == len(answers) - 2  # not of answers of one token


def test_a_text_goes_on_whole_and_streamed(tiny_export: Path) -> None:
    asked = {"prompt": "My printer", "temperature": 0, "max_tokens": 12, "echo": True}
    options = {"include_usage": True}
    whole, streamed = ask(
        tiny_export, asked, {**asked, "stream": True, "stream_options": options}, path="completions"
    )
    answer = Completion.model_validate(whole.json())
    assert answer.choices[0].text.startswith("My printer") and answer.choices[0].finish_reason == "length"
    chunks = [Completion.model_validate(chunk) for chunk in events(streamed)]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == answer.choices[0].text
    assert chunks[-1].usage == answer.usage and answer.usage is not None
    assert answer.usage.completion_tokens == 12


def test_log_probabilities_of_a_text_that_goes_on(tiny_export: Path) -> None:
    asked = {"prompt": ["My printer"], "max_tokens": 5, "logprobs": 2, "temperature": 0}
    told = ask(tiny_export, asked, path="completions")[0].json()["choices"][0]["logprobs"]
    assert [len(one) for one in told.values()] == [5] * 4
    for token, logprob, best in zip(
        told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True
    ):
        assert len(best) == 2 and best[token] == logprob == max(best.values())  # the likeliest is picked


def test_a_prompt_that_is_too_long_names_the_prompt(tiny_export: Path) -> None:
    error = ask(tiny_export, {"prompt": [5] * 500}, path="completions")[0].json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert "200 tokens" in error["message"] and "500 tokens in the prompt" in error["message"]


def test_without_a_knowledge_base_there_are_no_embeddings_and_the_error_says_why(tiny_export: Path) -> None:
    response = ask(tiny_export, {"input": "x"}, path="embeddings")[0]
    assert response.status_code == 404
    assert "options.knowledge.model" in response.json()["error"]["message"]


# --- with a knowledge base ------------------------------------------------------------------------


def knowing(word_base: Any, **fields: Any) -> dict[str, Any]:
    knowledge = {"model": "kb@production", "min_score": 0.4, "unknown_answer": UNKNOWN, **fields}
    return {"base": word_base(DOCUMENTS), "knowledge": knowledge}


def test_passages_reach_the_prompt_and_are_cited(tiny_export: Path, word_base: Any) -> None:
    meter = Meter()
    asked = user_says("Does the printer not print?", max_tokens=5)
    answer = ask(tiny_export, asked, meter=meter, max_context=600, **knowing(word_base))[0].json()
    plain = ask(tiny_export, asked)[0].json()
    extension = ChatCompletion.model_validate(answer).mizzen
    assert extension is not None and extension.grounded and extension.knowledge_base == "kb@3"
    assert [(c.document, c.chunk, c.title) for c in extension.citations] == [("printer.md", 0, "PRINTER.MD")]
    assert extension.citations[0].score >= 0.4 and "off and on" in extension.citations[0].text
    assert (
        answer["usage"]["prompt_tokens"] - plain["usage"]["prompt_tokens"]
        > len(extension.citations[0].text) / 3
    )
    assert meter.num_tokens == answer["usage"]["total_tokens"]
    assert "mizzen" not in plain


def test_a_stream_brings_its_citations_in_its_first_chunk(
    tiny_export: Path, word_base: Any, noted: Any
) -> None:
    asked = user_says("Does the printer not print?", stream=True, max_tokens=5)
    chunks = list(events(ask(tiny_export, asked, max_context=600, recorder=noted, **knowing(word_base))[0]))
    assert chunks[0]["mizzen"]["citations"][0]["document"] == "printer.md"
    assert noted.lines(metrics.KNOWLEDGE_LOOKUPS) == {("hit",): 1, ("miss",): 0}
    assert noted.value(metrics.KNOWLEDGE_REFUSALS) == 0
    assert all("mizzen" not in chunk for chunk in chunks[1:])


def test_what_the_documents_do_not_say_is_not_asked_of_the_model(
    tiny_export: Path, word_base: Any, noted: Any
) -> None:
    async def run() -> tuple[list[httpx.Response], int]:
        async with serving(tiny_export, recorder=noted, **knowing(word_base)) as (client, endpoint):
            before = endpoint.counters.prompt_tokens
            asked = [
                user_says("Who was Napoleon?", model="helper", stream=stream) for stream in (False, True)
            ]
            asked[1]["stream_options"] = {"include_usage": True}
            answers = [await client.post("/v1/chat/completions", json=body) for body in asked]
            return answers, endpoint.counters.prompt_tokens - before

    (whole, streamed), num_read = asyncio.run(run())
    assert num_read == 0
    assert noted.lines(metrics.KNOWLEDGE_LOOKUPS) == {("hit",): 0, ("miss",): 2}
    assert noted.value(metrics.KNOWLEDGE_REFUSALS) == 2
    answer = ChatCompletion.model_validate(whole.json())
    assert answer.choices[0].message.content == UNKNOWN and answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 0
    assert answer.mizzen is not None and not answer.mizzen.grounded and answer.mizzen.citations == []
    chunks = list(events(streamed))
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == UNKNOWN
    assert chunks[0]["mizzen"]["grounded"] is False and chunks[-1]["usage"]["total_tokens"] == 0


def test_where_json_is_asked_for_not_knowing_is_a_refusal(tiny_export: Path, word_base: Any) -> None:
    asked = user_says("Who was Napoleon?", response_format={"type": "json_object"})
    message = ask(tiny_export, asked, **knowing(word_base))[0].json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": None, "refusal": UNKNOWN}


def test_by_configuration_the_model_answers_without_passages(tiny_export: Path, word_base: Any) -> None:
    asked = user_says("Who was Napoleon?")
    answer = ask(tiny_export, asked, **knowing(word_base, below_min_score="answer"))[0].json()
    plain = ask(tiny_export, asked)[0].json()
    assert answer["choices"] == plain["choices"] and answer["usage"] == plain["usage"]
    assert answer["mizzen"] == {"knowledge_base": "kb@3", "grounded": False, "citations": []}


def test_passages_never_exceed_the_context(tiny_export: Path, word_base: Any) -> None:
    base = word_base({f"{i}.md": ["The printer does not print " * 3 + "."] for i in range(8)})
    options = {**knowing(word_base, num_passages=8), "base": base, "max_context": 700}
    asked = [user_says("Why does the printer not print?", max_tokens=n) for n in (1, 80, 160, 450)]
    answers = ask(tiny_export, *asked, **options)
    cited = [len(a.json()["mizzen"]["citations"]) for a in answers[:3]]
    assert all(a.json()["usage"]["total_tokens"] <= 700 for a in answers[:3])
    assert 8 > cited[0] >= cited[1] >= cited[2] >= 1
    assert answers[3].status_code == 400
    assert answers[3].json()["error"]["code"] == "context_length_exceeded"


def test_embeddings_are_those_of_the_knowledge_base(tiny_export: Path, word_base: Any) -> None:
    meter = Meter()
    base = word_base(DOCUMENTS)
    asked = [{"input": ["a printer", "a screen"], "model": name} for name in ("kb", "kb@3", "support", "gpt")]
    *answers, unknown = ask(
        tiny_export, *asked, path="embeddings", meter=meter, **{**knowing(word_base), "base": base}
    )
    for response in answers:
        answer = Embeddings.model_validate(response.json())
        assert [one.embedding for one in answer.data] == base.embed(["a printer", "a screen"]).tolist()
        assert answer.model == "kb@3" and answer.usage.total_tokens == 4
    assert unknown.status_code == 404 and meter.num_tokens == 12


def test_the_model_for_embeddings_is_listed_too(tiny_export: Path, word_base: Any) -> None:
    async def run() -> list[httpx.Response]:
        async with serving(tiny_export, **knowing(word_base)) as (client, _):
            return [await client.get(f"/v1/models{path}") for path in ("", "/kb@3")]

    listed, shown = asyncio.run(run())
    assert [model["id"] for model in listed.json()["data"]][-2:] == ["kb", "kb@3"]
    assert shown.json()["id"] == "kb@3"


def test_a_start_without_the_knowledge_base_fails(tiny_export: Path) -> None:
    model = ServedModel(IDENTITY, tiny_export, OnnxRuntime("CPUExecutionProvider", 1), no_batching, "support")
    endpoint = ChatEndpoint(model, ChatOptions.model_validate({"knowledge": {"model": "kb@production"}}))
    with pytest.raises(ServingError, match="'kb@production' cannot be opened"):
        asyncio.run(endpoint.start())
