"""The chat workload: what each step of the road is, told to the platform. The work is in the modules beside.

Heavy libraries are imported when a step runs, so that importing this package costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mizzen.workloads.chat import data as rows
from mizzen.workloads.chat import model as base
from mizzen.workloads.chat.options import ChatOptions
from mizzen.workloads.chat.recipes import RECIPES
from mizzen.workloads.chat.samples import SAMPLES
from mizzen.workloads.contract import (
    Batch,
    DataReport,
    Endpoint,
    Example,
    Exporter,
    Features,
    Outline,
    Precision,
    Predict,
    Prepared,
    Probe,
    QualityMetric,
    Recipe,
    Runtime,
    Sample,
    ServedModel,
    Skeleton,
    Sources,
    Split,
    TrainingMode,
    Workload,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

NUM_PROBED = 16
"""Held-out conversations that probes take their tokens from."""


class ChatWorkload(Workload):
    """A causal language model that continues conversations."""

    name = "chat"
    summary = "Fine-tune a language model on conversations; OpenAI's chat protocol"
    data_config = rows.ChatData
    model_config = base.ChatModel
    serve_options = ChatOptions
    quality = QualityMetric("perplexity", higher_is_better=False, max_relative_loss=0.02)
    precisions: ClassVar[tuple[Precision, ...]] = ("int8", "fp32", "int4")
    tolerance: ClassVar[Mapping[Precision, float]] = {"fp32": 2e-3}
    output_names = ("logits",)
    throughput_unit = "tokens"
    checkpoints_activations = True
    splits_layers = True

    def samples(self) -> Mapping[str, Sample]:
        return SAMPLES

    def samples_needed(self, data: Any, model: Any) -> Sequence[str]:
        return base.samples_needed(model)

    def recipes(self) -> Mapping[str, Recipe]:
        return RECIPES

    def prepare(self, data: Any, sources: Sources, folder: Path) -> DataReport:
        return rows.prepare(data, sources, folder)

    def check(self, config: Any, mode: TrainingMode) -> None:
        from mizzen.workloads.chat import training

        training.check(config, mode)

    def build_model(self, config: Any, prepared: Prepared, *, dropout: float) -> torch.nn.Module:
        return base.build(config, dropout=dropout)

    def skeleton(self, config: Any, prepared: Prepared, *, dropout: float) -> Skeleton | None:
        return base.skeleton(config, dropout=dropout)

    def outline(self, config: Any, *, dropout: float, batch_size: int) -> Outline | None:
        from mizzen.workloads.chat import outline

        return outline.outline(config, dropout=dropout, batch_size=batch_size)

    def begin_training(self, config: Any, model: torch.nn.Module) -> None:
        from mizzen.workloads.chat import training

        training.begin(config, model)

    def finish_model(self, model: torch.nn.Module) -> torch.nn.Module:
        return base.finish(model)

    def training_data(self, config: Any, prepared: Prepared) -> torch.utils.data.Dataset[Any]:
        examples: Any = _examples(config, prepared, "train", None)
        if config.packing:
            from mizzen.workloads.chat import packing

            base_folder = base.base_folder(config)
            lengths = packing.lengths_of(examples, prepared.digest, base_folder, config.max_length)
            examples = packing.PackedExamples(examples, lengths.tolist(), config.max_length)
        data: torch.utils.data.Dataset[Any] = examples
        return data

    def evaluation_data(self, config: Any, prepared: Prepared, split: Split) -> torch.utils.data.Dataset[Any]:
        limit = config.evaluation_conversations
        examples: torch.utils.data.Dataset[Any] = _examples(config, prepared, split, limit)
        return examples

    def collate(self, rows: Sequence[Any]) -> Batch:
        from mizzen.workloads.chat import packing, tokens

        return packing.collate(rows) if isinstance(rows[0], packing.Row) else tokens.collate(rows)

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        from mizzen.workloads.chat import evaluate

        return evaluate.loss(model, batch)

    def count(self, batch: Batch) -> int:
        return int(batch["attention_mask"].sum())

    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def predict(self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        from mizzen.workloads.chat import evaluate

        return evaluate.predict(model, inputs)

    def measure(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        from mizzen.workloads.chat import evaluate

        return evaluate.measure(outputs, batch)

    def summarise(self, means: Mapping[str, float]) -> dict[str, float]:
        from mizzen.workloads.chat import evaluate

        return evaluate.summarise(means)

    def input_features(self, config: Any, prepared: Prepared) -> Features:
        from mizzen.workloads.chat import features
        from mizzen.workloads.chat.tokens import tokenizer_of

        conversations = rows.Conversations(prepared.folder, "train")
        return features.in_training(conversations, tokenizer_of(base.base_folder(config)))

    def extra_report(self, config: Any, prepared: Prepared) -> dict[str, Any]:
        held_out: Any = self.evaluation_data(config, prepared, "validation")
        cut = sum(held_out[i].cut for i in range(len(held_out)))
        report = {"base": config.base, "method": config.method, "cut_share": cut / len(held_out)}
        if config.packing:
            rows: Any = self.training_data(config, prepared)
            report |= {"packed_rows": len(rows), "filled_share": rows.filled_share}
        return report

    def export(
        self,
        model: torch.nn.Module,
        config: Any,
        prepared: Prepared,
        folder: Path,
        precision: Precision,
        exporter: Exporter,
    ) -> None:
        from mizzen.workloads.chat import export
        from mizzen.workloads.chat.tokens import tokenizer_of

        tokenizer = tokenizer_of(base.base_folder(config))
        export.export(model, tokenizer, folder, precision, exporter.cache_dir)

    def probes(self, config: Any, prepared: Prepared) -> Iterable[Probe]:
        from mizzen.workloads.chat import export

        held_out: Any = _examples(config, prepared, "validation", NUM_PROBED)
        return export.probes([held_out[i] for i in range(len(held_out))])

    def open(self, folder: Path, runtime: Runtime) -> Predict:
        from mizzen.workloads.chat import export

        return export.open_model(folder, runtime)

    def reference(self, model: torch.nn.Module, probe: Probe) -> dict[str, np.ndarray[Any, Any]]:
        from mizzen.workloads.chat import export

        return export.reference(model, probe.inputs)

    def endpoint(self, model: ServedModel, options: Any) -> Endpoint:
        from mizzen.workloads.chat.endpoint import ChatEndpoint

        return ChatEndpoint(model, options)

    def examples(self, folder: Path) -> Sequence[Example]:
        messages = [{"role": "user", "content": "My internet is not working."}]
        body = {"model": "chat", "messages": messages, "max_tokens": 64, "temperature": 0}
        return (Example("/v1/chat/completions", body),)


def _examples(config: Any, prepared: Prepared, split: str, limit: int | None) -> Any:
    from mizzen.workloads.chat.tokens import Examples, tokenizer_of

    conversations = rows.Conversations(prepared.folder, split, limit)
    return Examples(conversations, tokenizer_of(base.base_folder(config)), config.max_length)
