"""The forecasting workload behind the platform's contract: each method hands over to its module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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
from mizzen.workloads.forecasting.config import DataConfig, ModelConfig, ServeOptions

if TYPE_CHECKING:
    import torch


class ForecastingWorkload(Workload):
    """See the package's modules: data, windows, model, evaluate, export, endpoint."""

    name: ClassVar[str] = "forecasting"
    summary: ClassVar[str] = "quantile forecasts of many time series by one global model"
    data_config = DataConfig
    model_config = ModelConfig
    serve_options = ServeOptions
    quality = QualityMetric("mase", higher_is_better=False)
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "int8")
    tolerance: ClassVar[Mapping[Precision, float]] = {"fp32": 1e-3}
    """In scaled units, of which a usual step (or deviation) is one: see `scaling`."""
    output_names = ("quantiles", "mean")

    def samples(self) -> Mapping[str, Sample]:
        """The M1 yearly series and Taylor's electricity demand."""
        from mizzen.workloads.forecasting import samples

        return samples.samples()

    def recipes(self) -> Mapping[str, Recipe]:
        """`quickstart`, `benchmark` and `taylor`."""
        from mizzen.workloads.forecasting import recipes

        return recipes.recipes()

    def prepare(self, data: DataConfig, sources: Sources, folder: Path) -> DataReport:
        """Series on a regular grid; see `data`."""
        from mizzen.workloads.forecasting import data as preparation

        return preparation.prepare(data, sources, folder)

    def build_model(self, config: ModelConfig, prepared: Prepared, *, dropout: float) -> torch.nn.Module:
        """A fresh network; see `model`."""
        from mizzen.workloads.forecasting import model
        from mizzen.workloads.forecasting.series import Store

        return model.build(config, Store(prepared).meta, dropout)

    def training_data(self, config: ModelConfig, prepared: Prepared) -> torch.utils.data.Dataset[Any]:
        """All windows before the held-out ones."""
        from mizzen.workloads.forecasting.series import Store
        from mizzen.workloads.forecasting.windows import TrainingWindows

        return TrainingWindows(Store(prepared), config.quantiles)

    def evaluation_data(
        self, config: ModelConfig, prepared: Prepared, split: Split
    ) -> torch.utils.data.Dataset[Any]:
        """The held-out windows of `split`."""
        from mizzen.workloads.forecasting.series import Store
        from mizzen.workloads.forecasting.windows import HeldOutWindows

        return HeldOutWindows(Store(prepared), split, config.quantiles)

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Padded on the left."""
        from mizzen.workloads.forecasting import windows

        return windows.collate(rows)

    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The scaled past, its mask, and covariates where the data has them."""
        from mizzen.workloads.forecasting.export import INPUT_NAMES

        return {name: batch[name] for name in INPUT_NAMES if name in batch}

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The pinball loss in scaled units."""
        from mizzen.workloads.forecasting.model import pinball_loss

        quantiles_BHQ, _ = model(**self.inputs(batch))
        return pinball_loss(quantiles_BHQ, batch["future_target"], batch["future_mask"], batch["levels"][0])

    def measure(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        """Errors by window, in raw units."""
        from mizzen.workloads.forecasting import evaluate

        location_B, scale_B = batch["scale"].unbind(dim=1)
        quantiles_BHQ = location_B[:, None, None] + scale_B[:, None, None] * outputs["quantiles"].double()
        return evaluate.measure(
            quantiles_BHQ, batch["future_raw"], batch["future_mask"], batch["mase_scale"], batch["levels"][0]
        )

    def summarise(self, means: Mapping[str, float]) -> dict[str, float]:
        """MASE, sMAPE, weighted quantile loss, coverage."""
        from mizzen.workloads.forecasting import evaluate

        return evaluate.summarise(means)

    def baselines(self, config: ModelConfig, prepared: Prepared, split: Split) -> dict[str, dict[str, float]]:
        """Naive, drift, drift over the last three steps, seasonal naives."""
        from mizzen.workloads.forecasting import evaluate
        from mizzen.workloads.forecasting.series import Store

        return evaluate.baselines(Store(prepared), split, config.quantiles)

    def input_features(self, config: ModelConfig, prepared: Prepared) -> Features:
        """Length, level, variation, trend and gaps of contexts."""
        from mizzen.workloads.forecasting import features

        return features.in_training(prepared)

    def extra_report(self, config: ModelConfig, prepared: Prepared) -> dict[str, Any]:
        """How the held-out windows lie, without which the figures mean little."""
        from mizzen.workloads.forecasting import evaluate
        from mizzen.workloads.forecasting.series import Store

        return {"windows": evaluate.describe(Store(prepared), config.quantiles)}

    def export(
        self,
        model: torch.nn.Module,
        config: ModelConfig,
        prepared: Prepared,
        folder: Path,
        precision: Precision,
        exporter: Exporter,
    ) -> None:
        """One ONNX graph and what a request must look like."""
        from mizzen.workloads.forecasting import export

        export.export(model, config, prepared, folder, precision, exporter, self.output_names)

    def probes(self, config: ModelConfig, prepared: Prepared) -> Iterable[Probe]:
        """Several batch sizes and lengths of past."""
        from mizzen.workloads.forecasting import export

        return export.probes(config, prepared)

    def open(self, folder: Path, runtime: Runtime) -> Predict:
        """The graph, in scaled units."""
        from mizzen.workloads.forecasting import export

        return export.open_graph(folder, runtime)

    def endpoint(self, model: ServedModel, options: ServeOptions) -> Endpoint:
        """Forecasts, backtests, anomalies, and Nixtla's protocol."""
        from mizzen.workloads.forecasting.endpoint import ForecastEndpoint

        return ForecastEndpoint(model, options)

    def signature(self, folder: Path, runtime: Runtime) -> Signature:
        """The graph's tensors, in scaled units."""
        from mizzen.workloads.forecasting import export

        return export.signature(folder, runtime)

    def examples(self, folder: Path) -> Sequence[Example]:
        """One request a route, with made-up series of the model's frequency."""
        from mizzen.workloads.forecasting import examples

        return examples.examples(folder)
