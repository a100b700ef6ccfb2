"""From a PyTorch model to the files that serving needs, and how to run those for the gate.

The ONNX graph with its key-value cache is made by onnxruntime-genai's builder, in a process of its own.
Legend: B conversations, T tokens, V words of the vocabulary.
It does not judge the export: the platform's gate does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mizzen.errors import MizzenError
from mizzen.workloads.chat.decoder import GENAI_CONFIG, MODEL, Decoder, Shape
from mizzen.workloads.chat.tokens import Example
from mizzen.workloads.contract import Arrays, Precision, Predict, Probe, Runtime, Session

if TYPE_CHECKING:
    import torch

BUILDER_TIMEOUT_S = 3600
BUILDER_OPTIONS: Mapping[Precision, str] = {"int8": "algo_config=k_quant"}
"""Beside the builder's defaults. Its plain int8 rounds symmetrically, and cost SmolLM2-135M 0.9 to 3.5% of
perplexity on held-out dialogues; k-quant, with a zero point for each block, cost nothing (-0.1%)."""
PREFILLS = ((1, 8), (1, 32), (2, 16), (4, 24))
"""(B, T) of the probes that read a text at once."""
DECODES = ((1, 24, 8), (3, 24, 8))
"""(B, T, tokens at the end that are decoded one by one) of the probes that use the cache."""


def export(
    model: torch.nn.Module, tokenizer: Any, folder: Path, precision: Precision, cache_dir: Path
) -> None:
    """Write the ONNX graph, tokenizer, chat template and `genai_config.json` into `folder`."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="chat-export-", dir=cache_dir) as scratch:
        weights, made = Path(scratch, "weights"), Path(scratch, "made")
        saved: Any = model
        saved.save_pretrained(weights)
        tokenizer.save_pretrained(weights)
        _build(weights, made, precision, Path(scratch, "cache"))
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(made.iterdir()):
            file.rename(folder / file.name)
    tokenizer.save_pretrained(folder)


def _build(weights: Path, made: Path, precision: Precision, cache: Path) -> None:
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-m", str(weights), "-i", str(weights), "-o", str(made), "-c", str(cache)]
    command += ["-p", precision, "-e", "cpu", "--extra_options", "hf_token=false"]
    if precision in BUILDER_OPTIONS:
        command.append(BUILDER_OPTIONS[precision])
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        command, env=offline, capture_output=True, text=True, timeout=BUILDER_TIMEOUT_S, check=False
    )
    if done.returncode != 0 or not (made / MODEL).is_file() or not (made / GENAI_CONFIG).is_file():
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise MizzenError(
            f"onnxruntime-genai cannot export this model: {lines[-1] if lines else 'no output'}",
            saw=f"exit code {done.returncode}, precision {precision}",
            allowed="an architecture that its builder knows, such as Llama, Qwen, Phi, Gemma or Mistral",
        )


def probes(examples: Sequence[Example]) -> Iterator[Probe]:
    """Held-out text in several shapes, read at once and token by token; the second row on is shorter."""
    tokens = [token for example in examples for token in example.input_ids]
    needed = max(b * t for b, t, *_ in (*PREFILLS, *DECODES))
    tokens = (tokens * (needed // len(tokens) + 1))[:needed]
    for num_rows, length in PREFILLS:
        yield Probe(f"prefill, batch {num_rows}, length {length}", _rows(tokens, num_rows, length))
    for num_rows, length, num_steps in DECODES:
        inputs = _rows(tokens, num_rows, length)
        prefill_B = inputs["attention_mask"].sum(axis=1) - num_steps
        yield Probe(
            f"decode, batch {num_rows}, {num_steps} tokens after {length - num_steps}",
            {**inputs, "prefill_length": prefill_B},
        )


def _rows(tokens: Sequence[int], num_rows: int, length: int) -> dict[str, NDArray[Any]]:
    ids_BT = np.array(tokens[: num_rows * length], np.int64).reshape(num_rows, length)
    lengths_B = length - 3 * np.arange(num_rows)
    mask_BT = (np.arange(length) < lengths_B[:, None]).astype(np.int64)
    return {"input_ids": ids_BT * mask_BT, "attention_mask": mask_BT}


def reference(model: torch.nn.Module, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """PyTorch's logits (B, T, V), from one pass over the whole text; 0 where there is padding."""
    import torch

    from mizzen.workloads.chat import evaluate

    tensors = {name: torch.from_numpy(inputs[name].copy()) for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        logits_BTV = evaluate.predict(model, tensors)["logits"].float().numpy()
    return {"logits": logits_BTV * inputs["attention_mask"][:, :, None]}


def open_model(folder: Path, runtime: Runtime) -> Predict:
    """The export as a function of `input_ids` and `attention_mask`, (B, T) each, to `logits`.

    With `prefill_length` (B,) beside them, each row's text up to there is read at once, and the rest token
    by token, all rows together, through the decoder that serves requests; it tells the logits after the
    last token of what it reads at once, and those before are the graph's own.
    """
    shape = Shape.read(folder)
    session = runtime.session(folder / MODEL)

    def predict(inputs: Arrays) -> dict[str, NDArray[Any]]:
        ids_BT, mask_BT = inputs["input_ids"], inputs["attention_mask"]
        if "prefill_length" not in inputs:
            logits_BTV = _prefill(session, shape, ids_BT, mask_BT)
        else:
            decoder = Decoder(
                folder,
                provider=runtime.provider,
                num_threads=runtime.num_threads,
                num_slots=len(ids_BT),
                max_context=ids_BT.shape[1],
            )
            logits_BTV = _prefill(session, shape, ids_BT, mask_BT)
            _decode(decoder, ids_BT, mask_BT.sum(axis=1), inputs["prefill_length"], logits_BTV)
        return {"logits": logits_BTV * mask_BT[:, :, None].astype(np.float32)}

    return predict


def _prefill(session: Session, shape: Shape, ids_BT: NDArray[Any], mask_BT: NDArray[Any]) -> NDArray[Any]:
    inputs: Mapping[str, NDArray[Any]] = {
        "input_ids": ids_BT,
        "attention_mask": mask_BT,
        **shape.empty_cache(len(ids_BT)),
    }
    return session.run(inputs)["logits"]


def _decode(
    decoder: Decoder,
    ids_BT: NDArray[Any],
    lengths_B: NDArray[Any],
    prefill_B: NDArray[Any],
    logits_BTV: NDArray[Any],
) -> None:
    """Overwrite the logits from each row's token `prefill_B - 1` on with what the decoder says."""
    for b, row_T in enumerate(ids_BT):
        logits_BTV[b, prefill_B[b] - 1] = decoder.prefill(b, row_T[: prefill_B[b]].tolist(), 0)
    rows = np.arange(len(ids_BT))
    for step in range(int((lengths_B - prefill_B)[0])):
        at_B = prefill_B + step
        logits_BTV[rows, at_B] = decoder.step(ids_BT[rows, at_B].tolist(), at_B.tolist())
