"""A version of a knowledge base, in one folder.

    model.onnx        input_ids, attention_mask int64 (B, T) -> sentence_embedding float (B, D), of length one
    tokenizer.json    text to word pieces
    chunks.parquet    see `table`
    index.usearch     see `index`
    knowledge.json    what it was made with

The graph is the same for all knowledge bases, so it is kept in the exporter's cache. It compares nothing: the
gate does, with the probes from here. Legend: B texts, T word pieces, D dimensions.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mizzen.errors import RequestError
from mizzen.workloads.contract import Arrays, Exporter, Precision, Predict, Prepared, Probe, Runtime
from mizzen.workloads.knowledge import data, index, model, table
from mizzen.workloads.knowledge.config import MAX_WORD_PIECES
from mizzen.workloads.knowledge.samples import TOKENIZER
from mizzen.workloads.knowledge.word_pieces import WordPieces, batch

ONNX, INDEX = "model.onnx", "index.usearch"
OUTPUT = "sentence_embedding"
LENGTHS = (8, 32, 128, MAX_WORD_PIECES)
BATCHES = (1, 2, 8)
NUM_PROBED = 32
"""Chunks that probes take their words from."""
GRAPH_MAKERS = ("torch", "transformers", "onnx", "onnxscript", "onnx-ir")


def export(
    module: torch.nn.Module, prepared: Prepared, folder: Path, precision: Precision, exporter: Exporter
) -> None:
    """Write the folder that is described above."""
    shutil.copyfile(_graph(module, prepared, precision, exporter), folder / ONNX)
    for name in (table.FILE, data.SETTINGS, TOKENIZER):
        shutil.copyfile(prepared.folder / name, folder / name)
    index.write(np.load(prepared.folder / data.EMBEDDINGS, mmap_mode="r"), folder / INDEX)


def _graph(module: torch.nn.Module, prepared: Prepared, precision: Precision, exporter: Exporter) -> Path:
    """The ONNX file of the embedding model, made if it is not in the cache."""
    makers = "".join(f"{name} {version(name)}\n" for name in GRAPH_MAKERS)
    weights = prepared.read_json(data.SETTINGS)["weights"]
    source = Path(model.__file__).read_text() + makers + weights + precision
    made = exporter.cache_dir / f"embedder-{hashlib.sha256(source.encode()).hexdigest()[:32]}.onnx"
    if made.is_file():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    example = {name: torch.ones(2, 3, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    axes = {0: "batch", 1: "length"}
    with TemporaryDirectory(dir=made.parent, prefix=".embedder-") as scratch:
        plain, final = Path(scratch, "plain.onnx"), Path(scratch, "final.onnx")
        exporter.to_onnx(module, example, plain, output_names=[OUTPUT], dynamic=dict.fromkeys(example, axes))
        if precision == "fp32":
            final = plain
        else:
            exporter.quantize(plain, final, precision)
        final.replace(made)  # in one step: another process may look for it now
    return made


def probes(prepared: Prepared) -> Iterator[Probe]:
    """The documents' own words, in batches of several sizes and lengths; rows of a batch differ in length."""
    chunks = table.Chunks(prepared.folder / table.FILE)
    word_pieces = WordPieces(prepared.folder)
    step = max(1, len(chunks) // NUM_PROBED)
    texts = [chunks[row].chunk.embedded for row in range(0, len(chunks), step)][:NUM_PROBED]
    ids = [word_pieces.read(text)[0] for text in texts]
    words = [number for row in ids for number in row[1:-1]] or ids[0]
    needed = max(BATCHES) * MAX_WORD_PIECES
    words = (words * (needed // len(words) + 1))[:needed]
    for size in BATCHES:
        for length in LENGTHS:
            rows = [words[i * length : (i + 1) * length - i * length // (2 * size)] for i in range(size)]
            yield Probe(f"batch {size}, length {length}", batch(rows))


def open_model(folder: Path, runtime: Runtime) -> Predict:
    """The exported model; inputs that it cannot read raise `RequestError`."""
    session = runtime.session(folder / ONNX)

    def predict(inputs: Arrays) -> dict[str, NDArray[Any]]:
        length = inputs["input_ids"].shape[-1]
        if length > MAX_WORD_PIECES:
            raise RequestError(
                "input_ids are too long", saw=length, allowed=f"{MAX_WORD_PIECES}", field="input_ids"
            )
        if inputs["attention_mask"].shape != inputs["input_ids"].shape:
            raise RequestError(
                "attention_mask has another shape than input_ids",
                saw=list(inputs["attention_mask"].shape),
                allowed=str(list(inputs["input_ids"].shape)),
                field="attention_mask",
            )
        if not (inputs["attention_mask"] > 0).any(axis=-1).all():
            raise RequestError("attention_mask hides a whole text", field="attention_mask")
        return session.run(inputs)

    return predict
