from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.contract import ModelIdentity, Prepared
from mizzen.workloads.knowledge import data, table, workload
from mizzen.workloads.knowledge.retriever import KnowledgeRetriever

IDENTITY = ModelIdentity("kb", 3, "d" * 64)


@pytest.fixture(scope="module")
def retriever(version: Path) -> KnowledgeRetriever:
    opened = workload.retriever(version, OnnxRuntime("cpu", 1), IDENTITY)
    assert isinstance(opened, KnowledgeRetriever)
    return opened


def test_every_chunk_is_found_by_its_own_text_also_from_many_threads(
    retriever: KnowledgeRetriever, base: Prepared
) -> None:
    chunks = table.Chunks(base.folder / table.FILE)
    located = [chunks[row] for row in range(len(chunks))]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: retriever.search(one.chunk.embedded, 1)[0], located))
    for one, passage in zip(located, found, strict=True):
        assert (passage.document, passage.chunk) == (one.document, one.number)
        assert (passage.text, passage.title) == (one.chunk.text, one.chunk.title)
        assert passage.score == pytest.approx(1, abs=1e-5)


def test_passages_come_best_first_and_never_more_than_asked(retriever: KnowledgeRetriever) -> None:
    passages = retriever.search("How to reset the password?", 7)
    assert len(passages) == 7
    assert [p.score for p in passages] == sorted((p.score for p in passages), reverse=True)


def test_embeddings_are_those_of_pytorch_whatever_the_company(
    retriever: KnowledgeRetriever, base: Prepared
) -> None:
    chunks = table.Chunks(base.folder / table.FILE)
    texts = [chunks[row].chunk.embedded for row in range(len(chunks))]
    together = retriever.embed(texts)
    assert together == pytest.approx(np.load(base.folder / data.EMBEDDINGS), abs=1e-5)
    assert together.dtype == np.float32
    assert (retriever.embed(texts[3:4])[0] == together[3]).all()
    assert retriever.embed([]).shape == (0, 16)


def test_tokens_are_counted_with_those_that_mark_start_and_end_and_those_that_are_cut_off(
    retriever: KnowledgeRetriever,
) -> None:
    assert retriever.count_tokens(["the password", "the"]) == 4 + 3
    assert retriever.count_tokens(["the " * 1000]) == 1002 and retriever.max_tokens == 256


def test_a_question_that_is_too_long_is_read_from_its_start(retriever: KnowledgeRetriever) -> None:
    assert retriever.search("the " * 5000, 1)
