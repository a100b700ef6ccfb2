from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mizzen.workloads.knowledge import index
from mizzen.workloads.knowledge.index import VectorIndex


def vectors(count: int, dimensions: int = 32) -> NDArray[np.float32]:
    made = np.random.default_rng(0).standard_normal((count, dimensions)).astype(np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)


def test_neighbours_come_best_first_with_their_cosine(tmp_path: Path) -> None:
    made = vectors(50)
    index.write(made, tmp_path / "i")
    found = VectorIndex(tmp_path / "i").nearest(made[7], 5)
    exact = made @ made[7]
    assert [row for row, _ in found] == np.argsort(-exact)[:5].tolist()
    assert [score for _, score in found] == pytest.approx(sorted(exact, reverse=True)[:5], abs=1e-5)


def test_the_graph_finds_what_an_exact_search_finds(tmp_path: Path) -> None:
    made = vectors(3000)
    index.write(made, tmp_path / "i")
    opened = VectorIndex(tmp_path / "i")
    questions = vectors(3100)[3000:]
    same = [
        len(
            {row for row, _ in opened.nearest(question, 5)} & set(np.argsort(-(made @ question))[:5].tolist())
        )
        for question in questions
    ]
    assert sum(same) / (5 * len(questions)) > 0.98


def test_more_than_there_are_gives_all(tmp_path: Path) -> None:
    index.write(vectors(3), tmp_path / "i")
    assert len(VectorIndex(tmp_path / "i").nearest(vectors(1)[0], 10)) == 3


def test_embeddings_come_back_to_the_last_bit_and_the_file_is_the_same_each_time(tmp_path: Path) -> None:
    made = vectors(200)
    index.write(made, tmp_path / "a")
    index.write(made, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (VectorIndex(tmp_path / "a").embeddings(np.arange(200)) == made).all()


def test_threads_may_search_at_the_same_time(tmp_path: Path) -> None:
    made = vectors(500)
    index.write(made, tmp_path / "i")
    opened = VectorIndex(tmp_path / "i")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: opened.nearest(made[row], 1)[0][0], range(500)))
    assert found == list(range(500))


def test_a_file_that_is_no_index_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(b"no index at all" * 100)
    with pytest.raises((ValueError, RuntimeError)):
        VectorIndex(tmp_path / "i")


def test_usearch_and_onnx_runtime_can_live_in_one_process_that_asks_for_the_index_first() -> None:
    program = "import mizzen.workloads.knowledge.index; import onnxruntime; print(onnxruntime.get_device())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "CPU"), done.stderr
