"""Hand-written digits as a workload for Mizzen: 8 by 8 pixels in, a digit out.

A whole vertical in a package of its own. Of Mizzen it knows the contract and the errors.
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
    ServedModel,
    Signature,
    Sources,
    Split,
    TensorSpec,
    Workload,
)
from mizzen_digits.config import DigitsData, DigitsModel

if TYPE_CHECKING:
    import torch

ONNX = "model.onnx"
MAX_COMPARED = 2_000
"""Training images whose brightness is compared with that of requests."""


class DigitsWorkload(Workload):
    """A small convolutional network; its quality is the share of digits that it names."""

    name: ClassVar[str] = "digits"
    summary: ClassVar[str] = "Which digit is in a picture of 8 by 8 pixels"
    data_config: ClassVar[type[BaseModel]] = DigitsData
    model_config: ClassVar[type[BaseModel]] = DigitsModel
    quality: ClassVar[QualityMetric] = QualityMetric("accuracy", higher_is_better=True)
    tolerance: ClassVar[Mapping[Precision, float]] = {"fp32": 1e-4}
    output_names: ClassVar[tuple[str, ...]] = ("logits",)

    def recipes(self) -> Mapping[str, Recipe]:
        jobs = Path(__file__).parent / "jobs"
        return {"quickstart": Recipe(jobs / "quickstart.yaml", "scikit-learn's digits, in some seconds")}

    def prepare(self, data: DigitsData, sources: Sources, folder: Path) -> DataReport:
        from mizzen_digits import data as steps

        return steps.prepare(data, sources, folder)

    def build_model(self, config: DigitsModel, prepared: Prepared, *, dropout: float) -> torch.nn.Module:
        from mizzen_digits.model import DigitsNetwork

        return DigitsNetwork(config.num_channels, config.hidden_size, dropout)

    def training_data(self, config: DigitsModel, prepared: Prepared) -> torch.utils.data.Dataset[Any]:
        from mizzen_digits.data import Digits

        return Digits(prepared.folder, "training")

    def evaluation_data(
        self, config: DigitsModel, prepared: Prepared, split: Split
    ) -> torch.utils.data.Dataset[Any]:
        from mizzen_digits.data import Digits

        return Digits(prepared.folder, split)

    def collate(self, rows: Sequence[Any]) -> Batch:
        import torch

        return {
            "image": torch.stack([torch.from_numpy(image_HW) for image_HW, _ in rows]),
            "label": torch.tensor([label for _, label in rows]),
        }

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(model(batch["image"]), batch["label"])

    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"image": batch["image"]}

    def measure(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        from torch.nn.functional import cross_entropy

        logits_BC, label_B = outputs["logits"], batch["label"]
        return {
            "accuracy": (logits_BC.argmax(-1) == label_B).float(),
            "cross_entropy": cross_entropy(logits_BC.float(), label_B, reduction="none"),
        }

    def baselines(self, config: DigitsModel, prepared: Prepared, split: Split) -> dict[str, dict[str, float]]:
        from mizzen_digits.data import Digits

        training, held_out = Digits(prepared.folder, "training"), Digits(prepared.folder, split)
        return {"most frequent digit": {"accuracy": held_out.share_of(training.most_frequent())}}

    def input_features(self, config: DigitsModel, prepared: Prepared) -> Features:
        from mizzen_digits.data import Digits

        training = Digits(prepared.folder, "training")
        images = (training[index][0] for index in range(min(len(training), MAX_COMPARED)))
        return {"brightness": [float(image_HW.mean()) for image_HW in images]}

    def export(
        self,
        model: torch.nn.Module,
        config: DigitsModel,
        prepared: Prepared,
        folder: Path,
        precision: Precision,
        exporter: Exporter,
    ) -> None:
        import torch

        target = folder / ONNX
        source = target if precision == "fp32" else folder / "unquantised.onnx"
        exporter.to_onnx(
            model,
            {"image": torch.zeros(2, 8, 8)},
            source,
            output_names=self.output_names,
            dynamic={"image": {0: "batch"}},
        )
        if source != target:
            exporter.quantize(source, target, precision)
            for left in folder.glob(f"{source.name}*"):
                left.unlink()

    def probes(self, config: DigitsModel, prepared: Prepared) -> Iterable[Probe]:
        from mizzen_digits.data import Digits

        held_out = Digits(prepared.folder, "test")
        for batch_size in (1, 2, 16, 64):
            rows = [held_out[index % len(held_out)] for index in range(batch_size)]
            yield Probe(f"batch {batch_size}", {"image": self.collate(rows)["image"].numpy()})

    def open(self, folder: Path, runtime: Runtime) -> Predict:
        return runtime.session(folder / ONNX).run

    def endpoint(self, model: ServedModel, options: Any) -> Endpoint:
        from mizzen_digits.endpoint import DigitsEndpoint

        return DigitsEndpoint(model, model.folder / ONNX)

    def signature(self, folder: Path, runtime: Runtime) -> Signature:
        return Signature(
            inputs=(TensorSpec("image", "FP32", (-1, 8, 8)),),
            outputs=(TensorSpec("logits", "FP32", (-1, 10)),),
        )

    def examples(self, folder: Path) -> Sequence[Example]:
        from mizzen_digits import endpoint

        return endpoint.EXAMPLES


workload = DigitsWorkload()
