"""Chat: `mizzen serve` asked over HTTP for streams, against onnxruntime-genai's bare engine in a process.

Both get the same prompts in the same waves, greedily, and answer each with the same number of tokens: ours by
a bias against the tokens that end an answer, the engine by its minimum. The bare engine starts from tokens
and gives tokens; ours starts from messages and gives text over HTTP.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import inputs
from answers import Different
from measure import Figures, percentile
from mizzen.workloads.chat.decoder import Shape
from mizzen.workloads.chat.tokens import prompt_ids, tokenizer_of
from plans import MIZZEN, PEERS, Bench, Measured, ask_some, serve

PATH = "/v1/chat/completions"
GENAI, DECODER = "genai", "decoder"
NUM_STREAMS = 8
NUM_TOKENS = 48
CHECK = "check"
PROMPTS = {CHECK: 4, "streams": 96, "lone": 48, "open": 48}
"""Dialogues for each measurement. None is used twice, nor by two of them: prefixes that ours keeps are those
that dialogues of one product share, not whole prompts."""
NEVER = -100.0
"""The bias against a token that must not come."""
SAME_TOKENS = 8
"""So many tokens of an answer must agree at least: ours and the engine's calls of the model differ in their
shapes, which round differently, and one token that turns at a tie turns all that follow."""
OPEN_RATE = 1.0
OPEN_TIMES = 2.0
"""The open measurement takes so many times as long: else it would be ten requests."""
DECODER_STEPS = Path(__file__).with_name("decoder_steps.py")


@dataclass(frozen=True)
class ChatPlan:
    """The exported model and the requests."""

    folder: Path
    bodies: Mapping[str, Path]
    """By measurement, as HTTP takes them."""
    prompts: Mapping[str, Path]
    """The same as tokens."""
    num_threads: int


def plan(folder: Path, scratch: Path, num_threads: int) -> ChatPlan:
    """Requests for the exported model in `folder`."""
    tokenizer, ends = tokenizer_of(folder), Shape.read(folder).end_tokens
    dialogues = iter(inputs.dialogues(sum(PROMPTS.values())))
    bodies, tokens = {}, {}
    for name, number in PROMPTS.items():
        several = [next(dialogues) for _ in range(number)]
        tokens[name] = [prompt_ids(tokenizer, messages) for messages in several]
        bodies[name] = inputs.write(
            [_body(m, name != CHECK, ends) for m in several], scratch / f"{name}.jsonl"
        )
    prompts = {}
    for name in tokens:
        prompts[name] = scratch / f"{name}.json"
        prompts[name].write_text(json.dumps({CHECK: tokens[CHECK], "waves": tokens[name]}))
    return ChatPlan(folder, bodies, prompts, num_threads)


def _body(messages: list[dict[str, str]], stream: bool, ends: frozenset[int]) -> dict[str, Any]:
    body = {
        "model": "chat",
        "messages": messages,
        "temperature": 0,
        "max_tokens": NUM_TOKENS,
        # Not ignore_eos: with that an end may be picked and is passed over, and the engine does not pick it.
        "logit_bias": {str(token): NEVER for token in sorted(ends)},
    }
    return {**body, "stream": True, "stream_options": {"include_usage": True}} if stream else body


class ChatRounds:
    """The rounds of chat; see `plans.TensorRounds`."""

    def __init__(self, plan: ChatPlan, bench: Bench) -> None:
        self.plan, self.bench = plan, bench
        self._answers: list[list[int]] = []

    def round(self, number: int) -> Measured:
        """Measure both once; the engine comes first in the first round: its answers are what ours must be."""
        order = [GENAI, MIZZEN] if number % 2 == 0 else [MIZZEN, GENAI]
        measure = {GENAI: self._engine, MIZZEN: self._mizzen}
        found = {name: measure[name]() for name in order}
        steps, _ = self._alone(DECODER, "steps", NUM_STREAMS, [sys.executable, str(DECODER_STEPS)])
        return {**found, DECODER: {"steps": steps}}

    def _mizzen(self) -> dict[str, Figures]:
        plan, times = self.plan, self.bench.times
        options = {"num_threads": plan.num_threads, "options": {"max_concurrent": NUM_STREAMS}}
        found = {}
        with serve(self.bench, "chat", options) as server:
            self._check(ask_some(server, PATH, plan.bodies[CHECK]))
            hows: dict[str, dict[str, float]] = {
                "streams": {"waves": NUM_STREAMS},
                "lone": {"waves": 1},
                "open": {"rate": OPEN_RATE},
            }
            for name, how in hows.items():
                measure_s = times.measure_s * (OPEN_TIMES if name == "open" else 1.0)
                arrivals = {"warm_up": times.warm_up_s, "measure": measure_s, **how}
                found[name] = self.bench.locust.run("chat", plan.bodies[name], server, arrivals)
                self._say(MIZZEN, name, found[name])
        return found

    def _engine(self) -> dict[str, Figures]:
        command = [str(self.bench.pythons[GENAI]), str(PEERS / "genai_engine.py")]
        streams, self._answers = self._alone(GENAI, "streams", NUM_STREAMS, [*command, "engine"])
        batch, _ = self._alone(GENAI, "batch", NUM_STREAMS, [*command, "generator"])
        lone, _ = self._alone(GENAI, "lone", 1, [*command, "engine"])
        return {"streams": streams, "batch": batch, "lone": lone}

    def _alone(
        self, server: str, name: str, num_streams: int, command: list[str]
    ) -> tuple[Figures, list[list[int]]]:
        """What a process without HTTP has measured in itself, and its answers to the prompts of the check."""
        plan, times = self.plan, self.bench.times
        result = self.bench.scratch / f"{server}.json"
        given = {
            "folder": str(plan.folder),
            "prompts": str(plan.prompts["lone" if num_streams == 1 else "streams"]),
            "num_threads": plan.num_threads,
            "num_streams": num_streams,
            "num_tokens": NUM_TOKENS,
            "warm_up_s": times.warm_up_s,
            "measure_s": times.measure_s,
            "result": str(result),
        }
        subprocess.run([*command, json.dumps(given)], check=True)
        seen = json.loads(result.read_text())
        figures = engine_figures(seen, num_streams)
        self._say(server, name, figures)
        return figures, seen.get("answers", [])

    def _check(self, ours: list[Any]) -> None:
        """Raises `Different` if ours are not the engine's answers."""
        tokenizer = tokenizer_of(self.plan.folder)
        for number, (answer, tokens) in enumerate(zip(ours, self._answers, strict=True)):
            text = answer["choices"][0]["message"]["content"]
            expected = tokenizer.decode(tokens[:SAME_TOKENS], skip_special_tokens=True).rstrip("\ufffd")
            if not text.startswith(expected) or answer["usage"]["completion_tokens"] != len(tokens):
                raise Different(f"prompt {number}: the engine says {expected!r}, ours {text!r}")

    def _say(self, server: str, name: str, figures: Figures) -> None:
        first_ms = figures.first_p50_ms
        first = "" if first_ms is None else f"  first token p50 {first_ms:7.1f} ms"
        self.bench.say(
            f"  {server:9} {name:12} {figures.units_per_s:8.1f} tokens/s{first}  {figures.num_errors} errors"
        )


def engine_figures(seen: Mapping[str, Any], num_streams: int) -> Figures:
    """What the peer has written, as the figures of a server."""
    took_s, first_s = sorted(seen["took_s"]), sorted(seen["first_s"])
    num_requests = len(took_s) * num_streams
    return Figures(
        units_per_s=seen["num_tokens"] / sum(took_s),
        requests_per_s=num_requests / sum(took_s),
        p50_ms=percentile(took_s, 50) * 1e3,
        p95_ms=percentile(took_s, 95) * 1e3,
        p99_ms=percentile(took_s, 99) * 1e3,
        first_p50_ms=percentile(first_s, 50) * 1e3 if first_s else None,
        first_p99_ms=percentile(first_s, 99) * 1e3 if first_s else None,
        num_requests=num_requests,
        num_errors=0,
        errors={},
        server_cpu_ms=seen["cpu_s"] / num_requests * 1e3,
        client_cpu_share=0.0,
        memory_bytes=seen["rss_bytes"],
        pss_bytes=seen["rss_bytes"],
        other_cpu_share=None,
    )
