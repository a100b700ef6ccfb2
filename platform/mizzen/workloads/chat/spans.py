"""The span of one generation: when it got a slot, its first token, and how it ended, as part of its request.

Attributes are those of OpenTelemetry's conventions for generative models, numbers alone: neither prompt nor
answer. Nothing is recorded while tracing is off, or for a request that was not sampled.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from mizzen import tracing
from mizzen.tracing import Span, Value
from mizzen.workloads.chat.sampling import Sampling

if TYPE_CHECKING:
    from mizzen.workloads.chat.generation import Generation


def queued(prompt: list[int], sampling: Sampling) -> Span:
    """The span of a generation that waits for a slot from now on."""
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": "generate",
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": float(sampling.temperature),
        "gen_ai.usage.input_tokens": len(prompt),
    }
    return tracing.part("generate", **attributes)


def prefill(generation: Generation) -> None:
    """It has a slot, and its prompt is read."""
    if generation.span.recording:
        generation.span.event("prefill", queued_s=time.monotonic() - generation.arrived_s)


def first_token(generation: Generation) -> None:
    """The prompt is read and the first token picked: it is decoded from now on."""
    if generation.span.recording:
        waited_s = generation.first_token_s - generation.arrived_s
        generation.span.set(time_to_first_token_s=waited_s, cached_tokens=generation.num_cached)
        generation.span.event("first token", time_to_first_token_s=waited_s)


def ended(generation: Generation, outcome: Literal["finished", "cancelled", "failed"]) -> None:
    """No further token comes."""
    if generation.span.recording:
        tokens = {"gen_ai.usage.output_tokens": generation.num_generated}
        generation.span.set(outcome=outcome, **tokens)
        if outcome == "failed":
            generation.span.failed("generation")
    generation.span.end()
