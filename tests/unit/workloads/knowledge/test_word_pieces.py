from __future__ import annotations

from pathlib import Path

from mizzen.workloads.knowledge.config import MAX_WORD_PIECES
from mizzen.workloads.knowledge.word_pieces import WordPieces, batch


def test_the_samples_own_cutting_and_filling_is_switched_off(tiny_embedder: Path) -> None:
    pieces = WordPieces(tiny_embedder)
    assert pieces.count("reset the password " * 10) == 30
    assert pieces.read("the")[0] == [2, pieces.read("the")[0][1], 3]


def test_a_text_that_names_a_mark_does_not_become_one(tiny_embedder: Path) -> None:
    ids, _ = WordPieces(tiny_embedder).read("a [SEP] b [CLS]")
    assert ids.count(3) == 1 and ids[-1] == 3
    assert ids.count(2) == 1 and ids[0] == 2


def test_what_does_not_fit_is_cut_and_counted(tiny_embedder: Path) -> None:
    ids, num_unread = WordPieces(tiny_embedder).read("the " * 300)
    assert (len(ids), ids[-1], num_unread) == (MAX_WORD_PIECES, 3, 300 + 2 - MAX_WORD_PIECES)


def test_a_batch_is_filled_up_at_the_end() -> None:
    inputs = batch([[2, 7, 3], [2, 3]])
    assert inputs["input_ids"].tolist() == [[2, 7, 3], [2, 3, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
