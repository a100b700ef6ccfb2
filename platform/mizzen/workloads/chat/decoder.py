"""Runs the exported model on several sequences at once, each in a slot of one key-value cache.

Sequences of different lengths share a step, and may come and go between steps: onnxruntime-genai's own
engine does that with paged attention, which it has for CUDA alone; elsewhere it batches statically, and a
request that comes later waits for the whole batch. The graph is the one of its builder: grouped-query
attention writes new keys and values into the cache in place, at the place that the attention mask tells.

Legend: B sequences, T tokens, C tokens of context, V words of the vocabulary, H key-value heads, D head
size. It does not pick tokens (`sampling`), and does not decide whose turn it is (`engine`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mizzen.errors import ServingError

MODEL = "model.onnx"
GENAI_CONFIG = "genai_config.json"
PREFILL_CHUNK_TOKENS = 64
"""Prompt tokens a step: bounds the logits' memory, and how long other sequences wait."""


@dataclass(frozen=True)
class Shape:
    """What the cache's size depends on, from the builder's own file."""

    num_layers: int
    num_heads: int
    head_size: int
    context_length: int
    end_tokens: frozenset[int]

    @classmethod
    def read(cls, folder: Path) -> Shape:
        """The shape of the exported model in `folder`. Raises `ServingError`."""
        try:
            model = json.loads((folder / GENAI_CONFIG).read_text())["model"]
            decoder = model["decoder"]
            ends = model["eos_token_id"]
            return cls(
                num_layers=decoder["num_hidden_layers"],
                num_heads=decoder["num_key_value_heads"],
                head_size=decoder["head_size"],
                context_length=model["context_length"],
                end_tokens=frozenset(ends if isinstance(ends, list) else [ends]),
            )
        except (OSError, ValueError, KeyError) as cause:
            raise ServingError(f"{GENAI_CONFIG} cannot be read: {cause!r}", saw=str(folder)) from None

    def empty_cache(self, num_sequences: int) -> dict[str, NDArray[Any]]:
        """Inputs for a run without a past."""
        empty = np.zeros((num_sequences, self.num_heads, 0, self.head_size), np.float32)
        return {name: empty for pair in self.cache_names() for name, _ in pair}

    def cache_names(self) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        """Input and output names of keys and of values, a layer each."""
        return [
            (
                (f"past_key_values.{layer}.key", f"present.{layer}.key"),
                (f"past_key_values.{layer}.value", f"present.{layer}.value"),
            )
            for layer in range(self.num_layers)
        ]


class Decoder:
    """One ONNX Runtime session and a cache of `num_slots` sequences; for one thread at a time."""

    def __init__(
        self, folder: Path, *, provider: str, num_threads: int, num_slots: int, max_context: int
    ) -> None:
        import onnxruntime

        self.shape = Shape.read(folder)
        self.num_slots = num_slots
        self.context_length = min(max_context, self.shape.context_length)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        providers = [provider] if provider == "CPUExecutionProvider" else [provider, "CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=providers)
        cache_BHCD = (num_slots, self.shape.num_heads, self.context_length, self.shape.head_size)
        # Pages are touched when a sequence reaches them, so an idle cache costs no memory.
        self._cache: list[tuple[str, str, NDArray[Any]]] = [
            (past, present, np.zeros(cache_BHCD, np.float32))
            for pair in self.shape.cache_names()
            for past, present in pair
        ]
        self._bindings: dict[tuple[int, int], Any] = {}

    def prefill(self, slot: int, tokens: Sequence[int], past: int) -> NDArray[Any]:
        """Append `tokens` to the `past` tokens that `slot` holds; logits after each token, (T, V)."""
        mask = np.ones((1, past + len(tokens)), np.int64)
        logits_TV: NDArray[Any] = self._run(np.array([tokens], np.int64), mask, slot, slot + 1)[0]
        return logits_TV

    def step(self, tokens: Sequence[int], pasts: Sequence[int]) -> NDArray[Any]:
        """Append one token to each of the first `len(tokens)` slots; logits after it, (B, V)."""
        lengths_B = np.array(pasts, np.int64) + 1
        mask_BC = (np.arange(lengths_B.max()) < lengths_B[:, None]).astype(np.int64)
        return self._run(np.array(tokens, np.int64)[:, None], mask_BC, 0, len(tokens))[:, 0]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot's cache into another's."""
        for _, _, cache_BHCD in self._cache:
            cache_BHCD[target, :, :length] = cache_BHCD[source, :, :length]

    def _run(self, ids_BT: NDArray[Any], mask_BC: NDArray[Any], first: int, end: int) -> NDArray[Any]:
        """Logits (B, T, V) of the slots from `first` up to `end`, whose cache grows in place."""
        binding = self._bindings.get((first, end))
        if binding is None:
            binding = self._session.io_binding()
            binding.bind_output("logits", "cpu")  # the first output
            for past, present, cache_BHCD in self._cache:
                part = cache_BHCD[first:end]
                place = ("cpu", 0, np.float32, part.shape, part.ctypes.data)
                binding.bind_input(past, *place)
                binding.bind_output(present, *place)
            self._bindings[first, end] = binding
        binding.bind_output("logits", "cpu")  # anew: the last run's array has that run's shape
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids_BT))
        binding.bind_cpu_input("attention_mask", np.ascontiguousarray(mask_BC))
        self._session.run_with_iobinding(binding)
        logits_BTV: NDArray[Any] = binding.get_outputs()[0].numpy()
        return logits_BTV
