"""What the platform hands to a workload: rows, an exporter, ONNX sessions, batching, a lake, retrievers.

These are interfaces; `training.tables`, `store.export`, `store.runtime`, `store.lake` and `serving` are
behind them. Workloads import them from `contract`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from mizzen.errors import NotFoundError
from mizzen.series import Series

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch

Precision = Literal["fp32", "int8", "int4"]
Arrays = Mapping[str, "np.ndarray[Any, Any]"]

T = TypeVar("T")
R = TypeVar("R")


class Sources(Protocol):
    """Where `prepare` gets its rows from."""

    def table(self, address: str) -> Any:
        """A `ray.data.Dataset` that streams the CSV, Parquet or JSON Lines file(s) at `address`.

        `address` is a path, a folder, or an object-storage URL; the format follows from the ending
        (`.csv`, `.parquet`, `.jsonl`, `.ndjson`, `.json`, also with `.gz` for text).
        Raises `DataError` if nothing is there or the ending is unknown.
        """
        ...

    def sample(self, name: str) -> Path:
        """The folder of the named sample, fetched if it is not here yet. Raises `NotFoundError`."""
        ...

    def version(self, reference: str) -> Path:
        """The files of the version in the store that `reference` means. Raises `NotFoundError`."""
        ...


class Exporter(Protocol):
    """Makes ONNX files; handed to `Workload.export`."""

    cache_dir: Path

    def to_onnx(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, torch.Tensor],
        path: Path,
        *,
        output_names: Sequence[str],
        dynamic: Mapping[str, Mapping[int, str]],
    ) -> None:
        """Write `model`, called as `model(**inputs)`, to `path` with `torch.onnx`.

        `dynamic` names the dimensions that may vary: `{"history": {0: "batch", 1: "length"}}`.
        """
        ...

    def quantize(self, source: Path, target: Path, precision: Precision) -> None:
        """Write a copy of the ONNX model `source` with its weights quantised to `precision`."""
        ...


@dataclass(frozen=True)
class TrainingMode:
    """How a job trains its model; handed to `Workload.check`."""

    on_gpu: bool
    precision: Literal["fp32", "bf16", "fp16"]
    zero_stage: int
    tensor_parallel: int
    """Workers that share each layer."""
    micro_batch_size: int
    """The most examples that a worker takes at a time."""
    dropout: float
    compile: bool


class Session(Protocol):
    """One ONNX Runtime session on the execution provider that was chosen; safe to call from threads."""

    @property
    def provider(self) -> str:
        """The execution provider that it runs on."""
        ...

    @property
    def input_names(self) -> Sequence[str]:
        """Names of the graph's inputs, in order."""
        ...

    @property
    def output_names(self) -> Sequence[str]:
        """Names of the graph's outputs, in order."""
        ...

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name. Inputs that the graph does not have are left out."""
        ...


class Runtime(Protocol):
    """Opens exported models; handed to `Workload.open` and to `Workload.endpoint`."""

    provider: str
    """`CPUExecutionProvider`, `CUDAExecutionProvider`, ...: what the machine has, or what was demanded."""
    num_threads: int
    """Threads for one operator; 0 leaves the choice to ONNX Runtime."""

    def session(self, path: Path) -> Session:
        """A session for the ONNX file at `path`."""
        ...


Predict = Callable[[Arrays], dict[str, "np.ndarray[Any, Any]"]]
"""From model inputs by name to outputs by name; the same for a PyTorch model and its export."""


@dataclass(frozen=True)
class ModelIdentity:
    """Which model answered: shown in every response."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a model's signature, as the Open Inference Protocol v2 describes it."""

    name: str
    datatype: str
    """`FP32`, `INT64`, `BOOL`, ...: the protocol's names."""
    shape: tuple[int, ...]
    """-1 stands for a dimension that may vary."""


@dataclass(frozen=True)
class Signature:
    """What a tensor model takes and gives; the names are those of `Workload.open`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Passage:
    """A part of a document that a retriever found for a question."""

    document: str
    """The document's name, as its owner knows it (a path, say)."""
    chunk: int
    """Which part of the document, from 0."""
    text: str
    score: float
    """Cosine similarity to the question, -1 to 1."""
    title: str = ""


@dataclass(frozen=True)
class Example:
    """A request that works on a quickstart model: for the README, `mizzen quickstart` and warm-up."""

    path: str
    """Below the route prefix."""
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A ready job file of a workload."""

    file: Path
    summary: str


class Retriever(Protocol):
    """A knowledge base, open for questions; safe to call from threads, and each call blocks its own."""

    identity: ModelIdentity
    max_tokens: int
    """Most tokens of a text that the model reads; those behind them are cut off."""

    def search(self, question: str, num_passages: int) -> Sequence[Passage]:
        """The passages nearest in meaning, the best first."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Embeddings of unit length, float32, shape (number of texts, dimensions)."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens `texts` have, those that are cut off too."""
        ...


class Lake(Protocol):
    """Where an endpoint keeps what happens (feedback, say), as tables of Parquet files beside the models."""

    async def append(self, table: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
        """Return once `rows` are durable: not even a killed process loses them then.

        `schema` names the columns and their types, the same ones for a table always; what a row lacks is
        null. Rows of concurrent callers share a file. Raises `StoreError`, and `OverloadedError` if too many
        rows wait already; then the caller must not acknowledge them.
        """
        ...


class Recorder(Protocol):
    """Records series of `mizzen.metrics`, or of the workload's own, for one served version.

    The labels `app`, `model` and `version` are filled in; the others are given by name.
    Safe to call from threads. A label's value must come from a bounded set, never from a request: what its
    `Label` does not allow is recorded as `other`.
    """

    def count(self, series: Series, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        ...

    def set(self, series: Series, value: float, **labels: str) -> None:
        """Set a gauge."""
        ...

    def observe(self, series: Series, value: float, exemplar: str | None = None, **labels: str) -> None:
        """Note a value in a histogram; `exemplar` is the id of the trace that it belongs to."""
        ...


class Silent:
    """A `Recorder` that records nothing: for a model that is opened outside of serving."""

    def count(self, series: Series, amount: float = 1.0, **labels: str) -> None:
        """See `Recorder`."""

    def set(self, series: Series, value: float, **labels: str) -> None:
        """See `Recorder`."""

    def observe(self, series: Series, value: float, exemplar: str | None = None, **labels: str) -> None:
        """See `Recorder`."""


SILENT = Silent()

Features = Mapping[str, Sequence[float]]
"""Values of inputs by the feature's name, to be compared with those that the model was trained on."""


def unwatched(features: Features) -> None:
    """For a model whose inputs are not compared with its training data."""


METER = "mizzen-meter"
"""Where an ASGI scope keeps the `Meter` of its request, if somebody wants to know."""


@dataclass
class Meter:
    """What a request has cost so far: rate limits in tokens a minute are kept with it."""

    num_tokens: int = 0


def count_tokens(scope: MutableMapping[str, Any], num_tokens: int) -> None:
    """Say that the request of `scope` has cost so many tokens (more)."""
    meter = scope.get(METER)
    if isinstance(meter, Meter):
        meter.num_tokens += num_tokens


def no_retriever(reference: str) -> Retriever:
    """For a model that is served where there are no knowledge bases. Raises `NotFoundError`."""
    raise NotFoundError("there are no knowledge bases here", saw=repr(reference))


@dataclass(frozen=True)
class ServedModel:
    """A model version, fetched and verified, that an endpoint is to answer with."""

    identity: ModelIdentity
    folder: Path
    runtime: Runtime
    batched: Batching
    app: str
    """The application's name in the serve file."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """From the manifest: `quality`, `baselines`, `precision`, `created_at`."""
    retriever: Callable[[str], Retriever] = no_retriever
    """Opens the knowledge base that a reference (`NAME@ALIAS`) means now. It blocks, so call it in a thread.
    As long as the reference means the same version it returns the same object, so asking again is cheap.
    Raises `NotFoundError`, `StoreError`."""
    lake: Lake | None = None
    """None where there is no store to write to."""
    recorder: Recorder = SILENT
    """Records what this version does."""
    watch_inputs: Callable[[Features], None] = unwatched
    """Takes the features of inputs that a request had, for `Workload.input_features`; it is cheap, and it
    may be called from any thread. Features that training did not have are passed over."""


class Batching(Protocol):
    """Wraps a function over a list so that concurrent callers share one call of it."""

    def __call__(self, function: Callable[[list[T]], list[R]]) -> Callable[[T], Awaitable[R]]:
        """`function` runs in a thread with the items that arrived together; order is kept.

        An item whose result is an exception instance gets that exception raised to its own caller.
        """
        ...
