"""Next-item recommendation: what a user meets next, from what the user met before.

PyTorch, Arrow and FastAPI are imported inside the methods, so that asking for the workload costs little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from mizzen.workloads.contract import (
    Batch,
    DataReport,
    Endpoint,
    Example,
    Exporter,
    Features,
    Precision,
    Predict,
    Prepared,
    Probe,
    QualityMetric,
    Recipe,
    Runtime,
    Sample,
    ServedModel,
    Signature,
    Sources,
    Split,
    Workload,
)
from mizzen.workloads.recommendation.config import MOVIELENS, DataConfig, ModelConfig
from mizzen.workloads.recommendation.recipes import RECIPES

if TYPE_CHECKING:
    import torch


class RecommendationWorkload(Workload):
    """A SASRec-class model, or the mean of several, over one history a user."""

    name: ClassVar[str] = "recommendation"
    summary: ClassVar[str] = "What a user meets next, from the items met before (SASRec)"
    data_config: ClassVar[type[BaseModel]] = DataConfig
    model_config: ClassVar[type[BaseModel]] = ModelConfig
    quality: ClassVar[QualityMetric] = QualityMetric("ndcg@10", higher_is_better=True)
    tolerance: ClassVar[Mapping[Precision, float]] = {"fp32": 1e-4}
    output_names: ClassVar[tuple[str, ...]] = ("scores",)

    def samples(self) -> Mapping[str, Sample]:
        from mizzen.workloads.recommendation import movielens

        return {MOVIELENS: movielens.SAMPLE}

    def recipes(self) -> Mapping[str, Recipe]:
        return RECIPES

    def prepare(self, data: DataConfig, sources: Sources, folder: Path) -> DataReport:
        from mizzen.workloads.recommendation import data as steps

        return steps.prepare(data, sources, folder)

    def build_model(self, config: ModelConfig, prepared: Prepared, *, dropout: float) -> torch.nn.Module:
        from mizzen.workloads.recommendation import data as steps
        from mizzen.workloads.recommendation.model import Ensemble, SASRec

        num_items = int(prepared.read_json(steps.META)["num_items"])
        members = [
            SASRec(
                num_items,
                hidden_size=config.hidden_size,
                num_blocks=config.num_blocks,
                num_heads=config.num_heads,
                max_length=config.max_length,
                dropout=dropout,
                history_dropout=config.history_dropout,
                num_negatives=config.num_negatives if config.loss == "sampled" else None,
            )
            for _ in range(config.num_members)
        ]
        return members[0] if len(members) == 1 else Ensemble(members)

    def training_data(self, config: ModelConfig, prepared: Prepared) -> torch.utils.data.Dataset[Any]:
        from mizzen.workloads.recommendation.sequences import TrainingWindows

        return TrainingWindows(prepared, config.max_length)

    def evaluation_data(
        self, config: ModelConfig, prepared: Prepared, split: Split
    ) -> torch.utils.data.Dataset[Any]:
        from mizzen.workloads.recommendation.sequences import Questions

        return Questions(prepared, config.max_length, split)

    def collate(self, rows: Sequence[Any]) -> Batch:
        from mizzen.workloads.recommendation import sequences

        return sequences.collate(rows)

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        # Inside `forward`, so that the parameters that it needs are gathered where they are sharded.
        loss: torch.Tensor = model(batch["history"], batch["target"])
        return loss

    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"history": batch["history"]}

    def measure(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        from mizzen.workloads.recommendation import evaluate

        return evaluate.measure(outputs, batch)

    def baselines(self, config: ModelConfig, prepared: Prepared, split: Split) -> dict[str, dict[str, float]]:
        from mizzen.workloads.recommendation import evaluate

        return evaluate.baselines(prepared, split)

    def input_features(self, config: ModelConfig, prepared: Prepared) -> Features:
        from mizzen.workloads.recommendation import features

        return features.in_training(prepared, config.max_length)

    def export(
        self,
        model: torch.nn.Module,
        config: ModelConfig,
        prepared: Prepared,
        folder: Path,
        precision: Precision,
        exporter: Exporter,
    ) -> None:
        from mizzen.workloads.recommendation import export

        export.export(model, config, prepared, folder, precision, exporter)

    def probes(self, config: ModelConfig, prepared: Prepared) -> Iterable[Probe]:
        from mizzen.workloads.recommendation import export

        return export.probes(config, prepared)

    def open(self, folder: Path, runtime: Runtime) -> Predict:
        from mizzen.workloads.recommendation import export

        return export.open_model(folder, runtime)

    def endpoint(self, model: ServedModel, options: Any) -> Endpoint:
        from mizzen.workloads.recommendation.endpoint import RecommendationEndpoint

        return RecommendationEndpoint(model)

    def signature(self, folder: Path, runtime: Runtime) -> Signature:
        from mizzen.workloads.recommendation import export

        return export.signature(folder)

    def examples(self, folder: Path) -> Sequence[Example]:
        from mizzen.workloads.recommendation import endpoint

        return endpoint.examples(folder)


workload = RecommendationWorkload()
