"""The bare engine of onnxruntime-genai in this process: no HTTP, no text, tokens in and tokens out.

Run as `python genai_engine.py ARGUMENTS`, where ARGUMENTS is one JSON object: `folder` (the exported model),
`prompts` (a file with a JSON list of lists of tokens), `num_threads`, `num_streams`, `num_tokens` (each
answer has exactly so many), `warm_up_s`, `measure_s`, `result` (a file). Waves of `num_streams` requests
begin together, the next wave when all of the last are answered: so its static batches are always full.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import onnxruntime_genai as og


def engine(folder: str, num_threads: int, num_streams: int) -> Any:
    """The engine for batches of `num_streams`."""
    config = og.Config(folder)
    options = {"engine": {"static_batching": {"max_batch_size": num_streams}}}
    threads = {"model": {"decoder": {"session_options": {"intra_op_num_threads": num_threads}}}}
    config.overlay(json.dumps({**options, **threads} if num_threads else options))
    return og.Engine(og.Model(config))


def wave(
    runner: Any, prompts: list[list[int]], num_tokens: int
) -> tuple[float, list[float], list[list[int]]]:
    """Seconds that the wave took, seconds to the first token of each request, and their tokens."""
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


def main() -> None:
    """Measure and write what was seen."""
    given = json.loads(sys.argv[1])
    prompts = json.loads(Path(given["prompts"]).read_text())
    runner = engine(given["folder"], given["num_threads"], given["num_streams"])
    num_streams, num_tokens = given["num_streams"], given["num_tokens"]
    seen: dict[str, Any] = {"took_s": [], "first_s": [], "num_tokens": 0, "answers": {}}
    begins_s = time.perf_counter() + given["warm_up_s"]
    at, cpu_s = 0, 0.0
    while (now_s := time.perf_counter()) < begins_s + given["measure_s"] or not seen["took_s"]:
        if now_s >= begins_s and not seen["took_s"]:
            cpu_s = time.process_time()
        numbers = [(at + i) % len(prompts) for i in range(num_streams)]
        at += num_streams
        took_s, first_s, tokens = wave(runner, [prompts[number] for number in numbers], num_tokens)
        for number, answer in zip(numbers, tokens, strict=True):
            seen["answers"].setdefault(str(number), answer)
        if now_s >= begins_s:
            seen["took_s"].append(took_s)
            seen["first_s"] += first_s
            seen["num_tokens"] += sum(map(len, tokens))
    seen["cpu_s"] = time.process_time() - cpu_s
    seen["rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path(given["result"]).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
