"""The one door between the platform and a workload.

A workload says how its data is prepared, what its model is, how it is trained, judged, exported and
answered for over HTTP. The platform runs that: it distributes, checkpoints, gates, stores and serves,
and never names a workload. A workload of somebody else's registers an instance of `Workload` under the
entry-point group `mizzen.workloads`.

A workload imports from Mizzen this module, `errors`, `settings` and `metrics`, and nothing else; what it
needs of the platform (`Sources`, `Exporter`, `Runtime`) is handed to it.

Flow, with the method that the platform calls at each step:

    prepare ─► build_model ─► training_data/collate/loss ─► evaluation_data/inputs/predict/measure/summarise
            ─► finish_model ─► export ─► probes/open (parity) ─► endpoint
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from mizzen.errors import InputError, NotFoundError
from mizzen.workloads.described import DataReport, Probe, QualityMetric, Sample, Wheel
from mizzen.workloads.handed import (
    METER,
    SILENT,
    Arrays,
    Batching,
    Example,
    Exporter,
    Features,
    Lake,
    Meter,
    ModelIdentity,
    Passage,
    Precision,
    Predict,
    Recipe,
    Recorder,
    Retriever,
    Runtime,
    ServedModel,
    Session,
    Signature,
    Sources,
    TensorSpec,
    TrainingMode,
    count_tokens,
)
from mizzen.workloads.skeleton import Begin, Outline, Reader, Skeleton

if TYPE_CHECKING:
    import numpy as np
    import torch
    from fastapi import APIRouter

__all__ = [
    "METER",
    "SILENT",
    "Arrays",
    "Batch",
    "Batching",
    "Begin",
    "DataReport",
    "Endpoint",
    "Example",
    "Exporter",
    "Features",
    "Fields",
    "Lake",
    "Meter",
    "ModelIdentity",
    "NoOptions",
    "Outline",
    "Passage",
    "Precision",
    "Predict",
    "Prepared",
    "Probe",
    "QualityMetric",
    "Reader",
    "Recipe",
    "Recorder",
    "Retriever",
    "Runtime",
    "Sample",
    "ServedModel",
    "Session",
    "Signature",
    "Skeleton",
    "Sources",
    "Split",
    "TensorSpec",
    "TrainingMode",
    "Wheel",
    "Workload",
    "count_tokens",
]

Split = Literal["validation", "test"]
Batch = dict[str, Any]
"""A collated batch: tensors by name, the first dimension of each being the batch."""


class Fields(BaseModel):
    """Base of every file section and HTTP body: unknown fields are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


@dataclass(frozen=True)
class Prepared:
    """Cleaned and split data in a folder, as `Workload.prepare` wrote it."""

    folder: Path
    digest: str
    """sha256 over the names and bytes of all files in the folder."""
    report: DataReport

    def read_json(self, name: str) -> Any:
        """The content of a JSON file that `prepare` wrote."""
        return json.loads((self.folder / name).read_text())


class Endpoint(ABC):
    """The HTTP routes of one served model; built anew for each version that is loaded."""

    router: APIRouter
    """Paths below the application's route prefix, for instance `/v1/recommendations`."""
    read_only: ClassVar[Mapping[str, frozenset[str]]] = {}
    """Templates of routes that change nothing: requests may be copied. With fields that differ each time."""

    async def start(self) -> None:
        """Load what must be loaded before the application says that it is ready; warm it up."""
        return None

    def problem(self) -> str | None:
        """Why this endpoint cannot answer any more, if so: it is asked by the readiness probe."""
        return None

    async def close(self) -> None:
        """Let go of threads and memory; no request is in flight any more."""
        return None


class NoOptions(Fields):
    """A workload without options of its own in the serve file."""


class Workload(ABC):
    """What the platform must know of a kind of model. One stateless instance is registered.

    Anything kept between steps lies in the prepared folder or in the exported folder.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    data_config: ClassVar[type[BaseModel]]
    """The `data` section of a job file."""
    model_config: ClassVar[type[BaseModel]]
    """The `model` section of a job file."""
    serve_options: ClassVar[type[BaseModel]] = NoOptions
    """The `options` of an application in a serve file."""
    quality: ClassVar[QualityMetric]
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "int8")
    """What `export` can make; the first is used when a job names none."""
    tolerance: ClassVar[Mapping[Precision, float]]
    """Largest allowed absolute difference of any output to PyTorch's; a precision that is not named here
    is judged by the quality metric alone."""
    output_names: ClassVar[tuple[str, ...]]
    """Names of the model's outputs, in order, in PyTorch as in ONNX."""
    throughput_unit: ClassVar[Literal["samples", "tokens"]] = "samples"
    checkpoints_activations: ClassVar[bool] = False
    """Whether `checkpoint_activations` works."""
    splits_layers: ClassVar[bool] = False
    """Whether DeepSpeed's AutoTP knows the model's layers, so that workers can share each of them."""

    # --- data -------------------------------------------------------------------------------------

    def samples(self) -> Mapping[str, Sample]:
        """Sample data sets and base models by name."""
        return {}

    def samples_needed(self, data: Any, model: Any) -> Sequence[str]:
        """Names of samples that a job with these validated sections reads outside `prepare`.

        A base model, say. The platform fetches them before the job starts, on each machine that runs it.
        """
        return ()

    def recipes(self) -> Mapping[str, Recipe]:
        """Ready job files by name; `quickstart` is the one that `mizzen quickstart` runs."""
        return {}

    @abstractmethod
    def prepare(self, data: Any, sources: Sources, folder: Path) -> DataReport:
        """Clean, split (by time) and normalise into files in `folder`.

        `data` is a validated `data_config`. Nothing may assume that the rows fit in memory.
        The same input gives the same bytes. Raises `DataError` with the column and the value seen.
        """

    # --- model and training -----------------------------------------------------------------------

    def check(self, config: Any, mode: TrainingMode) -> None:
        """Raise `JobError` if a model of `config` cannot be trained in this way.

        It is asked whenever a job is read, also where the base model is not at hand.
        """
        return None

    @abstractmethod
    def build_model(self, config: Any, prepared: Prepared, *, dropout: float) -> torch.nn.Module:
        """A fresh model (of a validated `model_config`), the same for the same torch seed on every rank.

        Where training starts from a base model, its weights are loaded here. Under `precision: bf16` or
        `fp16` the parameters get that type while floating-point inputs stay in fp32: the model casts them,
        once it has scaled them.
        """

    def skeleton(self, config: Any, prepared: Prepared, *, dropout: float) -> Skeleton | None:
        """The model of `build_model` without values, for one that may be too large for a worker.

        The platform fills it as each worker needs it. Checkpoints leave out what is frozen: it is filled
        anew then. None (the default): the platform takes what `build_model` gives.
        """
        return None

    def outline(self, config: Any, *, dropout: float, batch_size: int) -> Outline | None:
        """What `skeleton` and the largest micro-batch look like, if that is known without data and weights.

        `mizzen plan` asks it. None (the default): data is prepared, and its largest examples are taken.
        """
        return None

    def begin_training(self, config: Any, model: torch.nn.Module) -> None:
        """The model is about to be trained: switch on what only training wants, kernels say."""
        return None

    def checkpoint_activations(self, model: torch.nn.Module) -> None:
        """Have the model keep the inputs of its blocks alone, and reckon the rest again on the way back.

        The default is for models of transformers, with or without adapters. Raises `InputError`.
        """
        try:
            enable: Any = model.gradient_checkpointing_enable
            # Not reentrant: that one needs inputs with gradients, which frozen embeddings do not give.
            enable({"use_reentrant": False})
        except (AttributeError, ValueError) as cause:
            raise InputError(
                "the model cannot checkpoint its activations",
                saw=str(cause).splitlines()[0],
                field="training.activation_checkpointing",
            ) from None

    def finish_model(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model as it is exported: adapters merged, training-only parts taken off."""
        return model

    @abstractmethod
    def training_data(self, config: Any, prepared: Prepared) -> torch.utils.data.Dataset[Any]:
        """A map-style data set of training examples, read from disk as they are asked for."""

    @abstractmethod
    def evaluation_data(self, config: Any, prepared: Prepared, split: Split) -> torch.utils.data.Dataset[Any]:
        """A map-style data set of held-out examples; `test` is looked at once, after training."""

    @abstractmethod
    def collate(self, rows: Sequence[Any]) -> Batch:
        """Rows of either data set as one batch."""

    @abstractmethod
    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The scalar that is minimised, a mean over the batch."""

    def count(self, batch: Batch) -> int:
        """How many samples (or tokens, by `throughput_unit`) the batch holds."""
        return len(next(iter(batch.values())))

    # --- quality ----------------------------------------------------------------------------------

    @abstractmethod
    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The part of a batch that the model is called with; the names are the ONNX inputs' too."""

    def predict(self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Outputs by name of `model(**inputs)`; a model that returns a mapping overrides this."""
        result = model(**inputs)
        values = result if isinstance(result, tuple) else (result,)
        return dict(zip(self.output_names, values, strict=True))

    @abstractmethod
    def measure(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        """One value a row of the batch for each figure, shape (B,); the platform takes means over rows."""

    def summarise(self, means: Mapping[str, float]) -> dict[str, float]:
        """Metrics from the means; a ratio of means (perplexity, say) is made here."""
        return dict(means)

    def baselines(self, config: Any, prepared: Prepared, split: Split) -> dict[str, dict[str, float]]:
        """The same metrics for methods that need no training, by the method's name."""
        return {}

    def input_features(self, config: Any, prepared: Prepared) -> Features:
        """Features of inputs as training had them, a sample of some thousand values each.

        Their distribution is published with the version; what an endpoint hands to `ServedModel.watch_inputs`
        is compared with it (population stability index). No feature may tell who a user is.
        """
        return {}

    def extra_report(self, config: Any, prepared: Prepared) -> dict[str, Any]:
        """Anything else that belongs in the manifest."""
        return {}

    # --- export -----------------------------------------------------------------------------------

    @abstractmethod
    def export(
        self,
        model: torch.nn.Module,
        config: Any,
        prepared: Prepared,
        folder: Path,
        precision: Precision,
        exporter: Exporter,
    ) -> None:
        """Write everything that serving needs into `folder`: ONNX files, vocabularies, scalers.

        No pickle. Nothing is read from `prepared` again once the model is served.
        """

    @abstractmethod
    def probes(self, config: Any, prepared: Prepared) -> Iterable[Probe]:
        """Held-out inputs for parity: several batch sizes and lengths."""

    @abstractmethod
    def open(self, folder: Path, runtime: Runtime) -> Predict:
        """The exported model as a function with the PyTorch model's inputs and outputs."""

    def reference(self, model: torch.nn.Module, probe: Probe) -> dict[str, np.ndarray[Any, Any]]:
        """What PyTorch answers to a probe."""
        import torch

        with torch.inference_mode():
            outputs = self.predict(model, {k: torch.from_numpy(v.copy()) for k, v in probe.inputs.items()})
        return {name: value.float().numpy() for name, value in outputs.items()}

    # --- serving ----------------------------------------------------------------------------------

    @abstractmethod
    def endpoint(self, model: ServedModel, options: Any) -> Endpoint:
        """The HTTP routes for a model version; `options` is a validated `serve_options`."""

    def signature(self, folder: Path, runtime: Runtime) -> Signature | None:
        """The tensors of the exported model in `folder`, if it can be asked for tensors (`open`).

        None (the default): the Open Inference Protocol does not offer it.
        """
        return None

    def retriever(self, folder: Path, runtime: Runtime, identity: ModelIdentity) -> Retriever:
        """The exported model in `folder` as a knowledge base. Raises `NotFoundError` if it is none."""
        raise NotFoundError(
            f"{identity.name}@{identity.version} is no knowledge base",
            saw=f"a model of the workload {self.name!r}",
            remedy="Name a model that was made with `mizzen knowledge build`.",
        )

    def examples(self, folder: Path) -> Sequence[Example]:
        """Requests that work on the exported model in `folder`; the first is the one to show."""
        return ()
