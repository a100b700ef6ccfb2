"""The bare onnxruntime-genai in this process: no HTTP, no text, tokens in and tokens out.

Run as `python genai_engine.py MODE ARGUMENTS`. MODE `engine` is its `Engine`, which takes requests; on CPUs
it batches statically (0.18 does so four at a time, whatever is configured). MODE `generator` is its
`Generator`, which is given one batch of all requests at once, padded. ARGUMENTS is one JSON object: `folder`
(the exported model), `prompts` (a JSON file: lists of tokens under `check`, answered once before all others,
and under `waves`), `num_threads`, `num_streams`, `num_tokens` (each answer has exactly so many), `warm_up_s`,
`measure_s`, `result` (a file). Waves of `num_streams` requests begin together, the next wave when all of the
last are answered: so its static batches are always full.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og

PAD = 0
Wave = tuple[float, list[float], list[list[int]]]
"""Seconds that the wave took, seconds to the first token of each request, and their tokens."""
Run = Callable[[list[list[int]], int], Wave]
"""Answers prompts that begin together, each with so many tokens."""


def _config(folder: str, num_threads: int, more: dict[str, Any]) -> Any:
    config = og.Config(folder)
    threads = {"model": {"decoder": {"session_options": {"intra_op_num_threads": num_threads}}}}
    config.overlay(json.dumps({**more, **threads} if num_threads else more))
    return config


def engine(folder: str, num_threads: int, num_streams: int) -> Run:
    """The `Engine`, configured for batches of `num_streams`."""
    batching = {"engine": {"static_batching": {"max_batch_size": num_streams}}}
    runner = og.Engine(og.Model(_config(folder, num_threads, batching)))

    def wave(prompts: list[list[int]], num_tokens: int) -> Wave:
        events = runner.create_event_buffer(64)
        begin_s = time.perf_counter()
        requests = []
        for prompt in prompts:
            request = runner.create_request()
            turn = og.TurnOptions(request)
            turn.set_max_generated_tokens(num_tokens)
            turn.set_min_generated_tokens(num_tokens)
            turn.set_do_sample(False)
            request.begin_turn(prompt, turn)
            requests.append(request)
        first_s: dict[int, float] = {}
        tokens: dict[int, list[int]] = {id(request): [] for request in requests}
        while runner.has_pending_requests():
            for event in runner.run(events):
                if event.flags & og.EngineEventFlags.TOKEN:
                    first_s.setdefault(id(event.request), time.perf_counter() - begin_s)
                    tokens[id(event.request)].append(event.token)
        took_s = time.perf_counter() - begin_s
        for request in requests:
            request.close()
        return took_s, list(first_s.values()), [tokens[id(request)] for request in requests]

    return wave


def generator(folder: str, num_threads: int, num_streams: int) -> Run:
    """The `Generator`, with one batch of all prompts, padded on the left to the longest."""
    model = og.Model(_config(folder, num_threads, {}))

    def wave(prompts: list[list[int]], num_tokens: int) -> Wave:
        begin_s = time.perf_counter()
        longest = max(map(len, prompts))
        ids_BT = np.full((len(prompts), longest), PAD, np.int32)
        for row_T, prompt in zip(ids_BT, prompts, strict=True):
            row_T[longest - len(prompt) :] = prompt
        params = og.GeneratorParams(model)
        length = longest + num_tokens
        params.set_search_options(
            max_length=length, min_length=length, batch_size=len(prompts), do_sample=False
        )
        made = og.Generator(model, params)
        made.append_tokens(ids_BT)
        tokens: list[list[int]] = [[] for _ in prompts]
        first_s = 0.0
        for _ in range(num_tokens):
            made.generate_next_token()
            for several, token in zip(tokens, made.get_next_tokens(), strict=True):
                several.append(int(token))
            first_s = first_s or time.perf_counter() - begin_s
        return time.perf_counter() - begin_s, [first_s] * len(prompts), tokens

    return wave


MODES = {"engine": engine, "generator": generator}


def main() -> None:
    """Measure and write what was seen."""
    mode, given = sys.argv[1], json.loads(sys.argv[2])
    prompts = json.loads(Path(given["prompts"]).read_text())
    check, prompts = prompts["check"], prompts["waves"]
    wave = MODES[mode](given["folder"], given["num_threads"], given["num_streams"])
    num_streams, num_tokens = given["num_streams"], given["num_tokens"]
    seen: dict[str, Any] = {"took_s": [], "first_s": [], "num_tokens": 0}
    seen["answers"] = [wave([prompt], num_tokens)[2][0] for prompt in check]
    begins_s = time.perf_counter() + given["warm_up_s"]
    at, cpu_s = 0, 0.0
    while (now_s := time.perf_counter()) < begins_s + given["measure_s"] or not seen["took_s"]:
        if now_s >= begins_s and not seen["took_s"]:
            cpu_s = time.process_time()
        taken = [prompts[(at + i) % len(prompts)] for i in range(num_streams)]
        at += num_streams
        took_s, first_s, tokens = wave(taken, num_tokens)
        if now_s >= begins_s:
            seen["took_s"].append(took_s)
            seen["first_s"] += first_s
            seen["num_tokens"] += sum(map(len, tokens))
    seen["cpu_s"] = time.process_time() - cpu_s
    seen["rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path(given["result"]).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
