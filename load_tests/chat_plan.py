"""Chat: `mizzen serve` asked over HTTP for streams, against onnxruntime-genai's bare engine in a process.

Both get the same prompts in the same waves, greedily, and answer each with the same number of tokens: ours by
a bias against the tokens that end an answer, the engine by its minimum. The bare engine starts from tokens
and gives tokens; ours starts from messages and gives text over HTTP.
"""

from __future__ import annotations

import json
import subprocess
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
NUM_STREAMS = 8
NUM_TOKENS = 48
NUM_PROMPTS = 64
NEVER = -100.0
"""The bias against a token that must not come."""
SAME_TOKENS = 8
"""So many tokens of an answer must agree at least: ours and the engine's calls of the model differ in their
shapes, which round differently, and one token that turns at a tie turns all that follow."""
OPEN_RATE = 1.0
OPEN_TIMES = 2.0
"""The open measurement takes so many times as long: else it would be ten requests."""


@dataclass(frozen=True)
class ChatPlan:
    """The exported model and the requests."""

    folder: Path
    bodies: Path
    whole_bodies: Path
    """The same, not as streams."""
    prompts: Path
    """The same as tokens."""
    num_threads: int


def plan(folder: Path, scratch: Path, num_threads: int) -> ChatPlan:
    """Requests for the exported model in `folder`."""
    tokenizer, ends = tokenizer_of(folder), Shape.read(folder).end_tokens
    if tokenizer.eos_token_id is not None:
        ends |= {tokenizer.eos_token_id}
    dialogues = inputs.dialogues(NUM_PROMPTS)
    whole = [
        {
            "model": "chat",
            "messages": messages,
            "temperature": 0,
            "max_tokens": NUM_TOKENS,
            "logit_bias": {str(token): NEVER for token in sorted(ends)},
        }
        for messages in dialogues
    ]
    streams = [{**body, "stream": True, "stream_options": {"include_usage": True}} for body in whole]
    prompts = scratch / "prompts.json"
    prompts.write_text(json.dumps([prompt_ids(tokenizer, messages) for messages in dialogues]))
    return ChatPlan(
        folder=folder,
        bodies=inputs.write(streams, scratch / "chat.jsonl"),
        whole_bodies=inputs.write(whole, scratch / "chat-whole.jsonl"),
        prompts=prompts,
        num_threads=num_threads,
    )


class ChatRounds:
    """The rounds of chat; see `plans.TensorRounds`."""

    def __init__(self, plan: ChatPlan, bench: Bench) -> None:
        self.plan, self.bench = plan, bench
        self._answers: dict[str, list[int]] = {}

    def round(self, number: int) -> Measured:
        """Measure both once; the engine comes first in the first round: its answers are what ours must be."""
        order = ["genai", MIZZEN] if number % 2 == 0 else [MIZZEN, "genai"]
        measure = {"genai": self._engine, MIZZEN: self._mizzen}
        return {name: measure[name]() for name in order}

    def _mizzen(self) -> dict[str, Figures]:
        plan, times = self.plan, self.bench.times
        options = {"num_threads": plan.num_threads, "options": {"max_concurrent": NUM_STREAMS}}
        with serve(self.bench, "chat", options) as server:
            self._check(ask_some(server, PATH, plan.whole_bodies, num=4))
            found = {}
            hows: dict[str, dict[str, float]] = {
                "streams": {"waves": NUM_STREAMS},
                "lone": {"waves": 1},
                "open": {"rate": OPEN_RATE},
            }
            for name, how in hows.items():
                measure_s = times.measure_s * (OPEN_TIMES if "rate" in how else 1.0)
                arrivals = {"warm_up": times.warm_up_s, "measure": measure_s, **how}
                found[name] = self.bench.locust.run("chat", plan.bodies, server, arrivals)
                self._say(MIZZEN, name, found[name])
        return found

    def _engine(self) -> dict[str, Figures]:
        return {"streams": self._waves("streams", NUM_STREAMS), "lone": self._waves("lone", 1)}

    def _waves(self, name: str, num_streams: int) -> Figures:
        plan, times = self.plan, self.bench.times
        result = self.bench.scratch / "genai.json"
        given = {
            "folder": str(plan.folder),
            "prompts": str(plan.prompts),
            "num_threads": plan.num_threads,
            "num_streams": num_streams,
            "num_tokens": NUM_TOKENS,
            "warm_up_s": times.warm_up_s,
            "measure_s": times.measure_s,
            "result": str(result),
        }
        command = [str(self.bench.pythons["genai"]), str(PEERS / "genai_engine.py"), json.dumps(given)]
        subprocess.run(command, check=True)
        seen = json.loads(result.read_text())
        if num_streams == 1:
            self._answers = seen["answers"]
        figures = engine_figures(seen, num_streams)
        self._say("genai", name, figures)
        return figures

    def _check(self, ours: list[Any]) -> None:
        """Raises `Different` if ours are not the engine's answers."""
        tokenizer = tokenizer_of(self.plan.folder)
        for number, answer in enumerate(ours):
            tokens = self._answers.get(str(number))
            if tokens is None:
                continue
            text = answer["choices"][0]["message"]["content"]
            expected = tokenizer.decode(tokens[:SAME_TOKENS], skip_special_tokens=True)
            if answer["usage"]["completion_tokens"] != len(tokens) or not text.startswith(
                expected.rstrip("\ufffd")
            ):
                raise Different(
                    f"prompt {number}: the engine says {expected!r}, ours {text!r}, {answer['usage']}"
                )

    def _say(self, server: str, name: str, figures: Figures) -> None:
        self.bench.say(
            f"  {server:9} {name:12} {figures.units_per_s:8.1f} tokens/s  first token p50"
            f" {figures.first_p50_ms:7.1f} ms  {figures.num_errors} errors"
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
        first_p50_ms=percentile(first_s, 50) * 1e3,
        first_p99_ms=percentile(first_s, 99) * 1e3,
        num_requests=num_requests,
        num_errors=0,
        errors={},
        server_cpu_ms=seen["cpu_s"] / num_requests * 1e3,
        client_cpu_share=0.0,
        memory_bytes=seen["rss_bytes"],
        pss_bytes=seen["rss_bytes"],
        other_cpu_share=None,
    )
