"""Runs the exported model on several sequences at once, each in a slot of one key-value cache.

Sequences of different lengths share a step, and may come and go between steps: onnxruntime-genai's own
engine does that with paged attention, which it has for CUDA alone; elsewhere it batches statically, and a
request that comes later waits for the whole batch. The graph is the one of its builder: grouped-query
attention writes new keys and values into the cache in place, at the place that the attention mask tells.

Legend: B sequences, T tokens, C tokens of context, N blocks, V words of the vocabulary, H key-value heads, D
head size. It does not pick tokens (`sampling`), and decides neither whose turn it is (`engine`) nor what is
kept (`prefixes`).
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mizzen.errors import ServingError
from mizzen.workloads.chat.graph import CHOSEN, LOGITS, with_chosen_logits
from mizzen.workloads.chat.prefixes import BLOCK_TOKENS

MODEL = "model.onnx"
GENAI_CONFIG = "genai_config.json"
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""ONNX Runtime's setting for where the weights lie of a graph that is handed over as bytes."""


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
    """One ONNX Runtime session and a cache of `num_slots` sequences; for one thread at a time.

    Beside the slots it keeps `num_blocks` blocks of earlier sequences, which can be copied into a slot.
    """

    def __init__(
        self,
        folder: Path,
        *,
        provider: str,
        num_threads: int,
        num_slots: int,
        max_context: int,
        num_blocks: int = 0,
    ) -> None:
        import onnxruntime

        self.shape = Shape.read(folder)
        self.num_slots = num_slots
        self.num_blocks = num_blocks
        self.context_length = min(max_context, self.shape.context_length)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.add_session_config_entry(WEIGHTS_FOLDER, str(folder))
        providers = [provider] if provider == "CPUExecutionProvider" else [provider, "CPUExecutionProvider"]
        graph = with_chosen_logits(folder / MODEL)
        self._session = onnxruntime.InferenceSession(graph, options, providers=providers)
        num_words = self._session.get_outputs()[0].shape[-1]
        self._logits_BV = np.empty((num_slots, num_words), np.float32)
        # One slot more, so that a sequence can always be moved out of another's way.
        cache_BHCD = (num_slots + 1, self.shape.num_heads, self.context_length, self.shape.head_size)
        blocks_NHTD = (num_blocks, self.shape.num_heads, BLOCK_TOKENS, self.shape.head_size)
        self._cache = [
            _Layer(past, present, np.zeros(cache_BHCD, np.float32), _untouched(blocks_NHTD))
            for pair in self.shape.cache_names()
            for past, present in pair
        ]
        # NumPy asks for huge pages, with which attention over 1,500 tokens is a quarter faster. A slot's
        # first token would take nearly all of its memory then, so it is taken here, not under first requests.
        for layer in self._cache:
            layer.cache_BHCD[:num_slots] = 0
        self._bindings: dict[tuple[int, int], Any] = {}

    def prefill(self, slot: int, tokens: Sequence[int], past: int) -> NDArray[Any]:
        """Append `tokens` to the `past` tokens that `slot` holds; logits after the last, (V,).

        They are valid until the next call, like those of `step`.
        """
        mask_BC = np.ones((1, past + len(tokens)), np.int64)
        logits_V: NDArray[Any] = self._run(np.array([tokens], np.int64), mask_BC, slot, slot + 1)[0]
        return logits_V

    def step(self, tokens: Sequence[int], pasts: Sequence[int]) -> NDArray[Any]:
        """Append one token to each of the first `len(tokens)` slots; logits after it, (B, V)."""
        lengths_B = np.array(pasts, np.int64) + 1
        mask_BC = (np.arange(lengths_B.max()) < lengths_B[:, None]).astype(np.int64)
        return self._run(np.array(tokens, np.int64)[:, None], mask_BC, 0, len(tokens))

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot's cache into another's."""
        for layer in self._cache:
            layer.cache_BHCD[target, :, :length] = layer.cache_BHCD[source, :, :length]

    def keep(self, slot: int, start: int, places: Sequence[int]) -> None:
        """Copy the tokens of `slot` from `start` on into the blocks at `places`."""
        for layer in self._cache:
            part_HNTD = layer.in_blocks(slot, start, len(places))
            layer.blocks_NHTD[places] = part_HNTD.transpose(1, 0, 2, 3)

    def reuse(self, slot: int, places: Sequence[int]) -> None:
        """Let `slot` begin with the blocks at `places`."""
        for layer in self._cache:
            part_HNTD = layer.in_blocks(slot, 0, len(places))
            part_HNTD[...] = layer.blocks_NHTD[places].transpose(1, 0, 2, 3)

    def _run(self, ids_BT: NDArray[Any], mask_BC: NDArray[Any], first: int, end: int) -> NDArray[Any]:
        """Logits (B, V) after the last token of the slots from `first` up to `end`, whose cache grows."""
        binding = self._bindings.get((first, end))
        if binding is None:
            binding = self._bindings[first, end] = self._bind(first, end)
        num_rows, num_tokens = ids_BT.shape
        chosen_B2 = np.stack([np.arange(num_rows), np.full(num_rows, num_tokens - 1)], axis=1)
        binding.bind_cpu_input("input_ids", ids_BT)
        binding.bind_cpu_input("attention_mask", mask_BC)
        binding.bind_cpu_input(CHOSEN, chosen_B2)
        self._session.run_with_iobinding(binding)
        return self._logits_BV[:num_rows]

    def _bind(self, first: int, end: int) -> Any:
        binding = self._session.io_binding()
        logits_BV = self._logits_BV[: end - first]
        binding.bind_output(LOGITS, "cpu", 0, np.float32, logits_BV.shape, logits_BV.ctypes.data)
        for layer in self._cache:
            part = layer.cache_BHCD[first:end]
            place = ("cpu", 0, np.float32, part.shape, part.ctypes.data)
            binding.bind_input(layer.past, *place)
            binding.bind_output(layer.present, *place)
        return binding


def _untouched(shape: tuple[int, ...]) -> NDArray[Any]:
    """Zeros that cost memory only where something is written, in small pages: they are copied, no more."""
    size_bytes = math.prod(shape) * np.dtype(np.float32).itemsize
    if size_bytes == 0:
        return np.zeros(shape, np.float32)
    pages = mmap.mmap(-1, size_bytes)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.float32).reshape(shape)


@dataclass(frozen=True)
class _Layer:
    """The keys, or the values, of one layer."""

    past: str
    present: str
    cache_BHCD: NDArray[Any]
    blocks_NHTD: NDArray[Any]

    def in_blocks(self, slot: int, start: int, num_blocks: int) -> NDArray[Any]:
        """A view of a slot's tokens from `start` on as blocks, (H, N, T, D)."""
        end = start + num_blocks * BLOCK_TOKENS
        part_HCD = self.cache_BHCD[slot, :, start:end]
        return part_HCD.reshape(len(part_HCD), num_blocks, BLOCK_TOKENS, -1)
