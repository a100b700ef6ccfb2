"""The TrainJob file: one YAML file that trains the same on a laptop and on a cluster.

It does not know any workload: `data` and `model` are validated by the workload that `workload` names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mizzen.errors import JobError
from mizzen.files import read_yaml, set_value, validate
from mizzen.settings import sayable
from mizzen.training import combinations
from mizzen.training.checkpoints import Checkpointing
from mizzen.training.configuration import DeepSpeedOptions, LossScale
from mizzen.training.elastic import Scaling
from mizzen.training.faults import Faults
from mizzen.workloads import registry
from mizzen.workloads.contract import Fields, Precision, Workload

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?$")]
"""Lower-case letters, digits and dashes, at most 47: it becomes the name of Kubernetes resources."""

Decay = Annotated[float, Field(ge=0, lt=1)]

LABEL = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"


class Schedule(Fields):
    """How the learning rate moves over the run."""

    type: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    final_ratio: float = Field(0.0, ge=0.0, le=1.0)
    """The last learning rate as a share of the peak, for `linear` and `cosine`."""


class EarlyStopping(Fields):
    """Stop when the workload's quality metric has not improved on validation for a while."""

    patience: int = Field(gt=0)
    """Evaluations without improvement before the run stops."""
    min_improvement: float = Field(0.0, ge=0.0)


class Training(Fields):
    """The optimisation."""

    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=0)
    """Optimiser steps; 0 publishes the base model as it is."""
    micro_batch_size: int = Field(32, ge=1)
    """Examples a worker takes at a time."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Schedule = Schedule()
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Of Adam: how much of the means of gradients and of their squares is kept from step to step."""
    dropout: float = Field(0.0, ge=0, lt=1)
    gradient_clipping: float = Field(1.0, ge=0)
    """Largest global norm of the gradient; 0 does not clip."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    loss_scale: LossScale | None = None
    """Under `precision: fp16`; default: it begins at 2^16 and moves by itself."""
    activation_checkpointing: bool = False
    """Keep only the input of each block of the model and reckon the rest once more on the way back: far less
    memory for about a third more time."""
    compile: bool = False
    """Compile the model with `torch.compile`: minutes at the start, for faster steps on GPUs."""
    seed: int = Field(0, ge=0, lt=2**31)
    evaluate_every_steps: int | None = Field(None, ge=1)
    """Default: at the end of each epoch, or at the end of the run if it is given in steps."""
    early_stopping: EarlyStopping | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, not both and not neither")
        return self


class Publish(Fields):
    """What becomes of the trained model."""

    model: Name | None = None
    """The model's name in the store; default: the job's name."""
    alias: Name | None = "production"
    """The alias that is moved to the new version once its gate has passed; null moves none."""
    quantize: Precision | None = None
    """Default: the workload's own choice."""
    weights: bool = True
    """Keep the PyTorch weights (safetensors) beside the ONNX files."""


class Cluster(Fields):
    """How a cluster runs the job; on a machine of one's own nothing of it applies."""

    image: str | None = Field(None, min_length=1)
    """Container image with Mizzen in it; default: the one that the chart was installed with."""
    working_dir: Path | None = None
    """Folder or zip file that is sent with the job: there the run starts, and relative paths in `data` begin
    there. Code that is more than a few files belongs into the image."""
    retries: int = Field(0, ge=0, le=100)
    """How often the whole job is tried again, on a new cluster."""
    deadline_s: int = Field(86_400, ge=1)
    """The job is stopped this long after its start, whatever it does."""
    ttl_s: int = Field(300, ge=60)
    """How long the job's machines are kept after its end, where nothing else can use them. The log and the
    reason of a failure stay. Prometheus has to see how it ended, hence the minute."""
    queue: Annotated[str, Field(pattern=LABEL)] | None = None
    """The local queue of Kueue in which the job waits."""
    priority_class: Annotated[str, Field(pattern=LABEL)] | None = None
    worker_memory: Annotated[str, Field(pattern=QUANTITY)] | None = None
    """Memory of a worker as Kubernetes writes it, for instance `16Gi`; default: the chart's."""
    head_memory: Annotated[str, Field(pattern=QUANTITY)] | None = None
    """Memory of the head, where the model is exported and evaluated; default: the chart's."""


class TrainJob(Fields):
    """A training job, validated: what `mizzen train` runs."""

    name: Name
    workload: str
    data: Any
    model: Any
    training: Training
    deepspeed: DeepSpeedOptions = DeepSpeedOptions()
    scaling: Scaling = Scaling()
    checkpointing: Checkpointing = Checkpointing()
    faults: Faults = Faults()
    publish: Publish = Publish()
    cluster: Cluster = Cluster()

    @property
    def model_name(self) -> str:
        """The name under which the result is published."""
        return self.publish.model or self.name

    @property
    def precision(self) -> Precision:
        """The precision of the export."""
        return self.publish.quantize or self.implementation.precisions[0]

    @property
    def implementation(self) -> Workload:
        """The workload that this job trains."""
        return registry.get(self.workload)

    def for_the_record(self) -> dict[str, Any]:
        """The job file as others see it: written out in full, as JSON has it, without secrets."""
        shown: dict[str, Any] = _sayable(self.model_dump(mode="json"))
        return shown

    @property
    def global_batch_size(self) -> int:
        """Examples behind one optimiser step; of an elastic job at `max_workers`."""
        t = self.training
        replicas = self.scaling.max_workers // self.deepspeed.tensor_parallel
        return t.micro_batch_size * t.gradient_accumulation_steps * replicas


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sayable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_sayable(each) for each in value]
    # The name of a file need not be UTF-8, and JSON has to be.
    return sayable(value) if isinstance(value, str) else value


def load(path: Path, assignments: Sequence[str] = ()) -> TrainJob:
    """The job in the YAML file at `path`, with `--set` assignments applied. Raises `JobError`."""
    content = read_yaml(path, JobError)
    for assignment in assignments:
        set_value(content, assignment, JobError)
    return parse(content, str(path))


def parse(content: dict[str, Any], where: str) -> TrainJob:
    """The job in `content`; `where` is named in errors. Raises `JobError` or `NotFoundError`."""
    given = {"data": {}, "model": {}, **content}
    job = validate(TrainJob, given, JobError, where)
    workload = registry.get(job.workload)
    data = validate(workload.data_config, given["data"] or {}, JobError, where, "data")
    model = validate(workload.model_config, given["model"] or {}, JobError, where, "model")
    if job.publish.quantize not in (None, *workload.precisions):
        raise JobError(
            f"{where} is wrong: publish.quantize",
            saw=job.publish.quantize,
            allowed=", ".join(workload.precisions),
            field="publish.quantize",
        )
    job = job.model_copy(update={"data": data, "model": model})
    combinations.check(job)
    return job
