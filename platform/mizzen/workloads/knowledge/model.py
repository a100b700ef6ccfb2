"""The embedding model: BERT, the mean over word pieces, and a length of one, all inside one graph.

Sentence-BERT (Reimers and Gurevych 2019, arXiv:1908.10084) as all-MiniLM-L6-v2 was trained.
Legend: B texts, T word pieces, D dimensions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mizzen.workloads.knowledge.word_pieces import WordPieces, batch

logger = logging.getLogger(__name__)

TELL_EVERY_S = 10.0


class Embedder(torch.nn.Module):
    """Texts of equal length to embeddings; padding has no part in them."""

    def __init__(self, bert: torch.nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, T) twice, int64, the mask 1 for a word piece and 0 for padding -> (B, D), of length one."""
        hidden_BTD = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights_BT1 = attention_mask.to(hidden_BTD.dtype).unsqueeze(-1)
        mean_BD = (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1)
        return torch.nn.functional.normalize(mean_BD, dim=-1)


def build(folder: Path) -> Embedder:
    """The model in `folder`, in fp32, for evaluation."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    from mizzen.workloads.knowledge.samples import CONFIG, WEIGHTS

    config = BertConfig.from_json_file(str(folder / CONFIG))
    bert = BertModel(config, add_pooling_layer=False)
    weights = load_file(str(folder / WEIGHTS))
    # The pooler is of BERT's own training and no part of a sentence's embedding; positions are numbered anew.
    unused = ("pooler.", "embeddings.position_ids")
    bert.load_state_dict({name: value for name, value in weights.items() if not name.startswith(unused)})
    return Embedder(bert.float()).eval()


def embed(model: torch.nn.Module, word_pieces: WordPieces, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings of `texts`, (B, D).

    Each text alone, by one thread: so an embedding depends on its text alone, to the last bit, not on what
    else is embedded nor on how many cores there are.
    """

    def one(text: str) -> NDArray[Any]:
        inputs = {name: torch.from_numpy(v) for name, v in batch([word_pieces.read(text)[0]]).items()}
        with torch.inference_mode():
            embedding_D: NDArray[Any] = model(**inputs)[0].numpy()
        return embedding_D

    rows: list[NDArray[Any]] = []
    begun_s = told_s = time.monotonic()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(num_threads, thread_name_prefix="mizzen-embed") as pool:
            for row_D in pool.map(one, texts):
                rows.append(row_D)
                if time.monotonic() - told_s > TELL_EVERY_S:
                    told_s = time.monotonic()
                    rate = len(rows) / (told_s - begun_s)
                    logger.info("embedded %d of %d chunks, %.0f/s", len(rows), len(texts), rate)
    finally:
        torch.set_num_threads(num_threads)
    return np.stack(rows).astype(np.float32)
