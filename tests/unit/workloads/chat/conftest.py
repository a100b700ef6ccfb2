"""A tiny language model of random weights with a real tokenizer, as a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.4,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    folder = tmp_path_factory.mktemp("base")
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
