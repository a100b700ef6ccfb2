"""The sample base model on its whole road: unpacked, exported, judged, and asked through OpenAI's client."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import uvicorn

from mizzen import datasets
from mizzen.recording import ServedMetrics
from mizzen.serving.http import Facts, Limits, http_app
from mizzen.store.export import OnnxExporter
from mizzen.store.gate import evaluate_exported, judge, judge_quality
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.chat import samples, workload
from mizzen.workloads.chat.decoder import Decoder
from mizzen.workloads.chat.endpoint import ChatEndpoint
from mizzen.workloads.chat.engine import Engine
from mizzen.workloads.chat.generation import Piece
from mizzen.workloads.chat.options import ChatOptions
from mizzen.workloads.chat.sampling import Sampling
from mizzen.workloads.chat.tokens import prompt_ids, tokenizer_of
from mizzen.workloads.chat.vocabulary import Vocabulary
from mizzen.workloads.contract import ModelIdentity, Prepared, ServedModel

CONFIG = workload.model_config(max_length=96, evaluation_conversations=12)
RUNTIME = OnnxRuntime("CPUExecutionProvider", num_threads=2)
IDENTITY = ModelIdentity("chat", 1, "b" * 64)
LIMITS = Limits(max_ongoing_requests=100, max_queued_requests=100, max_request_bytes=1 << 20)
QUESTIONS = [
    "Write one sentence about France.",
    "My printer does not print. What can I do?",
    "Tell me a story about a dog.",
    "Who was Napoleon?",
    "Explain rain in one sentence.",
    "Count from one to ten.",
    "I forgot my password.",
    "Write a poem about the sea.",
]


class Samples:
    """`Sources` of which only the samples are used."""

    def table(self, address: str) -> Any:
        raise AssertionError("no table is asked for")

    def sample(self, name: str) -> Path:
        return datasets.fetch(name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The samples of the checkout, for fixtures that outlive one test."""
    from mizzen import settings

    root = Path(__file__).resolve().parents[4] / ".mizzen"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIZZEN_HOME", str(root))
        settings.current.cache_clear()
        for name in (samples.BASE, samples.CORPUS):
            datasets.fetch(name)
        yield
    settings.current.cache_clear()


@pytest.fixture(scope="module")
def prepared(home: None, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    report = workload.prepare(workload.data_config(dataset=samples.CORPUS), Samples(), folder)
    return Prepared(folder, "0" * 64, report)


@pytest.fixture(scope="module")
def model(home: None, prepared: Prepared) -> Any:
    return workload.build_model(CONFIG, prepared, dropout=0.0).eval()


@pytest.fixture(scope="module")
def exports(model: Any, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that exports in a precision, once each."""
    made: dict[str, Path] = {}
    root = tmp_path_factory.mktemp("exports")

    def export(precision: Any) -> Path:
        if precision not in made:
            folder = root / precision
            workload.export(model, CONFIG, prepared, folder, precision, OnnxExporter(root / "cache"))
            made[precision] = folder
        return made[precision]

    return export


@pytest.fixture(scope="module")
def served(exports: Any) -> Iterator[tuple[str, ChatEndpoint]]:
    """The address of the int8 export behind a real HTTP server, and its endpoint."""
    endpoint = ChatEndpoint(
        ServedModel(IDENTITY, exports("int8"), RUNTIME, lambda function: function, "chat"),  # type: ignore[arg-type, return-value]
        ChatOptions(max_concurrent=8, max_context=512),
    )
    asyncio.run(endpoint.start())
    app = http_app(IDENTITY, endpoint, ServedMetrics("chat", "chat", 1), LIMITS, Facts("Chats.", "chat"))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1", endpoint
    server.should_exit = True
    thread.join()
    listening.close()
    asyncio.run(endpoint.close())


def greedy(client: Any, question: str, **more: Any) -> Any:
    options = {"temperature": 0, "max_tokens": 24, **more}
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model="chat", messages=messages, **options)


def test_the_corpus_is_cleaned_of_its_many_duplicates(prepared: Prepared) -> None:
    report = prepared.report
    assert (report.rows_read, report.rows_kept, dict(report.dropped)) == (2209, 1082, {"duplicate": 1127})


def test_the_fp32_export_is_the_model(model: Any, prepared: Prepared, exports: Any) -> None:
    report = judge(workload, model, CONFIG, prepared, exports("fp32"), "fp32", RUNTIME, batch_size=4)
    assert report.passed
    assert {result.probe.split(",")[0] for result in report.parity} == {"prefill", "decode"}
    assert max(result.max_abs for result in report.parity) < workload.tolerance["fp32"]


def test_int8_passes_the_gate_and_plain_int4_does_not(model: Any, prepared: Prepared, exports: Any) -> None:
    passed = judge(workload, model, CONFIG, prepared, exports("int8"), "int8", RUNTIME, batch_size=4)
    assert passed.passed and passed.quality is not None
    predict = workload.open(exports("int4"), RUNTIME)
    worse = evaluate_exported(workload, predict, CONFIG, prepared, "validation", batch_size=4)
    refused = judge_quality(workload, {"perplexity": passed.quality.reference}, worse)
    assert not refused.passed
    assert refused.relative_loss > 0.1


def test_the_official_client_gets_a_whole_answer(served: tuple[str, ChatEndpoint]) -> None:
    with openai.OpenAI(base_url=served[0], api_key="none") as client:
        answer = greedy(client, QUESTIONS[0])
        assert "France" in answer.choices[0].message.content
        assert answer.model == "chat@1" and answer.choices[0].finish_reason in ("stop", "length")
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert [model.id for model in client.models.list()] == ["chat", "chat@1"]
        assert client.models.retrieve("chat").owned_by == "mizzen"


def test_the_official_client_streams_the_same_words(served: tuple[str, ChatEndpoint]) -> None:
    with openai.OpenAI(base_url=served[0], api_key="none") as client:
        whole = greedy(client, QUESTIONS[1])
        chunks = list(greedy(client, QUESTIONS[1], stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert len(chunks) > 10


def test_the_official_client_raises_its_own_errors(served: tuple[str, ChatEndpoint]) -> None:
    with openai.OpenAI(base_url=served[0], api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="no such model here"):
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
        with pytest.raises(openai.BadRequestError, match=r"holds 512 tokens.*saw 2\d\d\d tokens"):
            greedy(client, "word " * 2000)
        with pytest.raises(openai.BadRequestError) as refused:
            greedy(client, "x", n=2)
        assert refused.value.param == "n"


def test_eight_at_once_get_the_words_that_each_gets_alone(served: tuple[str, ChatEndpoint]) -> None:
    async def together() -> list[str]:
        async with openai.AsyncOpenAI(base_url=served[0], api_key="none") as client:
            answers = await asyncio.gather(*(greedy(client, question) for question in QUESTIONS))
            return [answer.choices[0].message.content for answer in answers]

    with openai.OpenAI(base_url=served[0], api_key="none") as client:
        alone = [greedy(client, question).choices[0].message.content for question in QUESTIONS]
    assert asyncio.run(together()) == alone


@pytest.mark.parametrize("stream", [True, False])
def test_when_a_client_goes_away_generation_stops(served: tuple[str, ChatEndpoint], stream: bool) -> None:
    url, endpoint = served
    before = endpoint.counters

    async def leave() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            asking = asyncio.create_task(
                greedy(client, QUESTIONS[2], max_tokens=400, stream=stream, extra_body={"ignore_eos": True})
            )
            while not endpoint.counters.running:
                await asyncio.sleep(0.01)
            if stream:
                answer = await asking
                await answer.close()
            else:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(30):
            while endpoint.counters.cancelled == before.cancelled:
                await asyncio.sleep(0.01)

    asyncio.run(leave())
    after = endpoint.counters
    assert (after.running, after.finished) == (0, before.finished)
    assert after.generated_tokens - before.generated_tokens < 400


def test_an_answer_by_a_schema_is_valid_json(served: tuple[str, ChatEndpoint]) -> None:
    population = {"type": "integer", "minimum": 0, "maximum": 99_999_999}
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "population": population},
        "required": ["city", "population"],
        "additionalProperties": False,
    }
    asked = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    with openai.OpenAI(base_url=served[0], api_key="none") as client:
        answer = greedy(client, "Tell me about Paris.", max_tokens=60, response_format=asked).choices[0]
    assert answer.finish_reason == "stop"
    city = json.loads(answer.message.content)
    assert set(city) == {"city", "population"} and isinstance(city["population"], int)


class Asked:
    """An engine over an export, without HTTP."""

    def __init__(self, folder: Path, num_blocks: int) -> None:
        self.decoder = Decoder(
            folder,
            provider="CPUExecutionProvider",
            num_threads=2,
            num_slots=2,
            max_context=512,
            num_blocks=num_blocks,
        )
        self.tokenizer = tokenizer_of(folder)
        words = Vocabulary(self.tokenizer, self.decoder.shape.end_tokens)
        self.engine = Engine(self.decoder, words, max_waiting=9)
        self.engine.start()

    def __call__(self, messages: list[dict[str, str]], **options: Any) -> list[Piece]:
        pieces: queue.Queue[Any] = queue.Queue()
        sampling = Sampling(max_tokens=20, temperature=0, **options)
        self.engine.submit(prompt_ids(self.tokenizer, messages), sampling, pieces.put)
        told = [pieces.get(timeout=60)]
        while told[-1].finish is None:
            told.append(pieces.get(timeout=60))
        return told


def test_a_next_turn_says_the_same_whether_the_last_one_was_kept_or_is_read_again(exports: Any) -> None:
    answers, cached = [], []
    for num_blocks in (0, 64):
        # In fp32: int8 scales by what is read at once, and less is read where more was kept.
        asked = Asked(exports("fp32"), num_blocks)
        messages = [{"role": "user", "content": QUESTIONS[0]}]
        for question in QUESTIONS[1:3]:
            told = asked(messages)
            answers.append("".join(piece.text for piece in told))
            cached.append(told[-1].num_cached)
            messages += [{"role": "assistant", "content": answers[-1]}, {"role": "user", "content": question}]
        asked.engine.close()
    assert answers[:2] == answers[2:] and len(set(answers)) == 2
    assert cached[:3] == [0, 0, 0] and cached[3] >= 32


def test_log_probabilities_are_the_softmax_of_the_models_logits(exports: Any) -> None:
    asked = Asked(exports("int8"), 0)
    messages = [{"role": "user", "content": QUESTIONS[3]}]
    told = [logprob for piece in asked(messages, logprobs=3) for logprob in piece.logprobs]
    asked.engine.close()
    # The engine's thread is done, so its decoder is ours: the same tokens once more, one by one. (In int8
    # a token that is read alone gets somewhat other logits than one that is read with others.)
    prompt = prompt_ids(asked.tokenizer, messages)
    answer = asked.tokenizer.encode(b"".join(t.bytes for t in told).decode(), add_special_tokens=False)
    assert len(answer) == len(told)  # the answer's own tokens again
    logits_V = asked.decoder.prefill(0, prompt, 0)
    for i, (token, logprob) in enumerate(zip(answer, told, strict=True)):
        exact_V = logits_V.astype(np.float64)
        exact_V -= np.log(np.exp(exact_V).sum())
        assert logprob.logprob == pytest.approx(exact_V[token], abs=1e-4)
        assert [t.logprob for t in logprob.top] == pytest.approx(sorted(exact_V)[:-4:-1], abs=1e-4)
        assert logprob.top[0].bytes == logprob.bytes  # greedy
        logits_V = asked.decoder.step([token], [len(prompt) + i])[0]
