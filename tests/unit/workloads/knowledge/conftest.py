"""A tiny BERT of random weights with a real word-piece tokenizer, laid down as the sample would be."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mizzen import settings
from mizzen.errors import NotFoundError
from mizzen.workloads.contract import DataReport, ModelIdentity, Prepared
from mizzen.workloads.knowledge import data
from mizzen.workloads.knowledge.config import EMBEDDER, KnowledgeData
from mizzen.workloads.knowledge.samples import CONFIG, SAMPLES, TOKENIZER, WEIGHTS

WORDS = ["printer", "paper", "password", "reset", "the", "##er", "##ing", "screen", "how", "to"]
IDENTITY = ModelIdentity("kb", 3, "d" * 64)

GUIDE = """# Printer

It prints on paper.

## Paper jam

Open the lid. Pull the paper out. Close the lid.

# Password

To reset the password, open the settings.
"""
FAQ = "question,answer\n" + "".join(
    f"How to do task {i}?,Do it in {i} steps and rest after step {i % 7}.\n" for i in range(40)
)


@pytest.fixture(scope="session")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an embedder of 16 dimensions; like the real one, its tokenizer's file cuts and fills."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in letters), *WORDS]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    folder = tmp_path_factory.mktemp("embedder")
    tokenizer.save(str(folder / TOKENIZER))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
        initializer_range=0.5,
    )
    save_file(BertModel(config).state_dict(), str(folder / WEIGHTS))
    config.to_json_file(str(folder / CONFIG))
    return folder


class Sources:
    """The contract's `Sources`: one sample, and versions by reference."""

    def __init__(self, embedder: Path) -> None:
        self.embedder = embedder
        self.versions: dict[str, Path] = {}

    def table(self, address: str) -> Any:
        raise AssertionError("documents are no tables")

    def sample(self, name: str) -> Path:
        assert name == EMBEDDER
        return self.embedder

    def version(self, reference: str) -> Path:
        if reference not in self.versions:
            raise NotFoundError("no such version", saw=reference)
        return self.versions[reference]


@pytest.fixture
def sources(tiny_embedder: Path) -> Sources:
    return Sources(tiny_embedder)


@pytest.fixture
def embedder_here(tiny_embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which the tiny embedder lies where the real one would."""
    home = tmp_path / "home-with-embedder"
    (home / "datasets").mkdir(parents=True)
    name = f"{EMBEDDER}-{SAMPLES[EMBEDDER].wheel.sha256[:12]}"
    (home / "datasets" / name).symlink_to(tiny_embedder)
    monkeypatch.setenv("MIZZEN_HOME", str(home))
    settings.current.cache_clear()
    return home


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Mapping[str, str | bytes]], Path]:
    """Writes a folder `docs` of files."""

    def writing(files: Mapping[str, str | bytes]) -> Path:
        for name, content in files.items():
            file = tmp_path / "docs" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "docs"

    return writing


def prepared_from(folder: Path, sources: Sources, to: Path, **fields: Any) -> Prepared:
    """A folder of documents, prepared."""
    to.mkdir(parents=True)
    report: DataReport = data.prepare(KnowledgeData(paths=[str(folder)], **fields), sources, to)
    return Prepared(folder=to, digest="0" * 64, report=report)


@pytest.fixture
def prepare(sources: Sources, tmp_path: Path) -> Callable[..., Prepared]:
    """Prepares a folder of documents, each time into another folder."""
    return lambda folder, **fields: prepared_from(
        folder, sources, tmp_path / f"prepared-{len(list(tmp_path.iterdir()))}", **fields
    )


@pytest.fixture(scope="session")
def base(tiny_embedder: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A guide and 40 questions with answers, prepared."""
    docs = tmp_path_factory.mktemp("base") / "docs"
    docs.mkdir()
    (docs / "guide.md").write_text(GUIDE)
    (docs / "faq.csv").write_text(FAQ)
    return prepared_from(docs, Sources(tiny_embedder), docs.parent / "prepared")


@pytest.fixture(scope="session")
def version(base: Prepared, tiny_embedder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, exported in fp32."""
    from mizzen.store.export import OnnxExporter
    from mizzen.workloads.knowledge import export, model

    folder = tmp_path_factory.mktemp("version")
    exporter = OnnxExporter(tmp_path_factory.mktemp("cache"))
    export.export(model.build(tiny_embedder), base, folder, "fp32", exporter)
    return folder
