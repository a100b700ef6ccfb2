"""A tiny language model of random weights with a real tokenizer, as a Hugging Face directory.

And a knowledge base whose embeddings are words."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mizzen.workloads.contract import ModelIdentity, Passage

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
TEXTS = [
    "My printer does not print.",
    "Switch it off and on again.",
    "The screen stays black.",
    "Grüße aus Köln",
]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Llama of two layers whose words are single bytes and a few pairs of them."""
    return make_tiny_base(tmp_path_factory.mktemp("base"))


def make_tiny_base(folder: Path, intermediate_size: int = 128) -> Path:
    """Write it into `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=288,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|start|>", "<|end|>"],
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|start|>", eos_token="<|end|>", pad_token="<|end|>"
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=intermediate_size,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            initializer_range=0.4,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_base: Path) -> Any:
    """The model in `tiny_base`, for evaluation."""
    from mizzen.workloads.chat import model

    return model.build(model.ChatModel(base=str(tiny_base)), dropout=0.0).eval()


@pytest.fixture(scope="session")
def tiny_export(tiny_base: Path, tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fp32 export of `tiny_base`."""
    from mizzen.workloads.chat import export
    from mizzen.workloads.chat.tokens import tokenizer_of

    folder = tmp_path_factory.mktemp("export")
    export.export(tiny_model, tokenizer_of(tiny_base), folder, "fp32", tmp_path_factory.mktemp("cache"))
    return folder


class WordBase:
    """A knowledge base (`Retriever`) whose embeddings are the words of a text, hashed."""

    DIMENSIONS = 512

    def __init__(self, documents: Mapping[str, Sequence[str]], version: int = 3) -> None:
        """`documents` are chunks by the document's name."""
        self.identity = ModelIdentity("kb", version, "c" * 64)
        self.max_tokens = 64
        self._chunks = [
            (name, i, text) for name, chunks in documents.items() for i, text in enumerate(chunks)
        ]

    def embed(self, texts: Sequence[str]) -> Any:
        vectors_ND = np.zeros((len(texts), self.DIMENSIONS), np.float32)
        for vector_D, text in zip(vectors_ND, texts, strict=True):
            for word in self._words(text):
                vector_D[zlib.crc32(word.encode()) % self.DIMENSIONS] += 1
        norms_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        return vectors_ND / np.maximum(norms_N, 1e-9)

    def search(self, question: str, num_passages: int) -> Sequence[Passage]:
        scores = self.embed([text for *_, text in self._chunks]) @ self.embed([question])[0]
        best = np.argsort(-scores, kind="stable")[:num_passages]
        return [Passage(*self._chunks[i], float(scores[i]), self._chunks[i][0].upper()) for i in best]

    def count_tokens(self, texts: Sequence[str]) -> int:
        return sum(len(self._words(text)) for text in texts)

    @staticmethod
    def _words(text: str) -> list[str]:
        return "".join(c if c.isalnum() else " " for c in text.lower()).split()


@pytest.fixture(scope="session")
def word_base() -> type[WordBase]:
    """Makes knowledge bases."""
    return WordBase
