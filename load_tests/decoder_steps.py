"""Steps of the chat model's decoder alone: what is left when there is no HTTP, no text and no engine.

Run as `python decoder_steps.py ARGUMENTS`, with the same JSON object as `peers/genai_engine.py`, in Mizzen's
own environment. One step is one token for each of `num_streams` sequences.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from mizzen.workloads.chat.decoder import Decoder

MAX_CONTEXT = 1024


def main() -> None:
    """Measure and write what was seen."""
    given = json.loads(sys.argv[1])
    prompts = json.loads(Path(given["prompts"]).read_text())["waves"][: given["num_streams"]]
    decoder = Decoder(
        Path(given["folder"]),
        provider="CPUExecutionProvider",
        num_threads=given["num_threads"],
        num_slots=given["num_streams"],
        max_context=MAX_CONTEXT,
    )
    seen: dict[str, Any] = {"took_s": [], "first_s": [], "num_tokens": 0}
    begins_s = time.perf_counter() + given["warm_up_s"]
    cpu_s = 0.0
    while (now_s := time.perf_counter()) < begins_s + given["measure_s"] or not seen["took_s"]:
        if now_s >= begins_s and not seen["took_s"]:
            cpu_s = time.process_time()
        tokens = [int(decoder.prefill(slot, prompt, 0).argmax()) for slot, prompt in enumerate(prompts)]
        lengths = [len(prompt) for prompt in prompts]
        for _ in range(given["num_tokens"] - 1):
            start_s = time.perf_counter()
            tokens = decoder.step(tokens, lengths).argmax(axis=-1).tolist()
            if now_s >= begins_s:
                seen["took_s"].append(time.perf_counter() - start_s)
                seen["num_tokens"] += len(tokens)
            lengths = [length + 1 for length in lengths]
    seen["cpu_s"] = time.process_time() - cpu_s
    seen["rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path(given["result"]).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
