"""What `step_time` trains: job files of a few seconds, and the small language model that one begins with.

It runs nothing.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timed_workloads import PREFIX

SEED = 3
NUM_WORKERS = 2


@dataclass(frozen=True)
class Case:
    """A training that both sides do."""

    name: str
    job: dict[str, Any]
    num_steps: int


def case(name: str, num_steps: int, folder: Path) -> Case:
    """The case called `name`; `folder` keeps the model that it begins with, if it needs one."""
    sections = _chat(folder / "llama") if name == "chat" else _recommendation()
    threads = max(1, (os.cpu_count() or 1) // NUM_WORKERS)
    job = {
        "name": f"step-time-{name}",
        "workload": PREFIX + name,
        **sections,
        "training": {"steps": num_steps, "seed": SEED, **sections["training"]},
        "scaling": {"workers": NUM_WORKERS, "cpus_per_worker": threads},
        "publish": {"quantize": "fp32", "alias": None, "weights": False},
    }
    return Case(name, job, num_steps)


def _chat(folder: Path) -> dict[str, Any]:
    if not (folder / "model.safetensors").exists():
        make_llama(folder)
    return {
        "data": {"dataset": "chatterbot-corpus"},
        "model": {"base": str(folder), "max_length": 128, "evaluation_conversations": 8},
        "training": {"micro_batch_size": 4, "learning_rate": 5e-4, "gradient_clipping": 1.0},
    }


def _recommendation() -> dict[str, Any]:
    """The recipe of `jobs/recommendation.yaml`."""
    return {
        "data": {"dataset": "movielens-100k"},
        "model": {"hidden_size": 64, "num_blocks": 2, "num_heads": 1, "max_length": 50, "loss": "full"},
        "training": {
            "micro_batch_size": 16,
            "learning_rate": 1e-3,
            "betas": [0.9, 0.98],
            "dropout": 0.3,
            "gradient_clipping": 1.0,
        },
    }


def make_llama(folder: Path) -> None:
    """A Llama of 12 million parameters with random weights, and the tokenizer of the chat sample's model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    from mizzen import datasets
    from mizzen.workloads.chat.samples import BASE

    sample = datasets.fetch(BASE)
    folder.mkdir(parents=True, exist_ok=True)
    for file in sample.iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "vocab", "merges", "chat_template")):
            shutil.copy(file, folder)
    logging.disable_progress_bar()
    torch.manual_seed(SEED)
    shape = LlamaConfig(
        vocab_size=49_152,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
