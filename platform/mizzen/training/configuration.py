"""The `deepspeed` section of a job, and DeepSpeed's configuration as it follows from a job.

It does not import DeepSpeed, and it does not judge what goes together: `combinations` does.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from mizzen.files import plain
from mizzen.training import elastic
from mizzen.training.footprint import num_buffers
from mizzen.workloads.contract import Fields

if TYPE_CHECKING:
    from mizzen.training.job import TrainJob

OWNED_BY_MIZZEN = {
    "train_batch_size": "training.micro_batch_size, training.gradient_accumulation_steps and scaling.workers",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "gradient_clipping": "training.gradient_clipping",
    "optimizer": "training.learning_rate and training.weight_decay",
    "scheduler": "training.schedule",
    "bf16": "training.precision",
    "fp16": "training.precision and training.loss_scale",
    "torch_autocast": "training.precision",
    "activation_checkpointing": "training.activation_checkpointing",
    "compile": "training.compile",
    "tensor_parallel": "deepspeed.tensor_parallel",
    "zero_optimization.stage": "deepspeed.zero_stage",
    "zero_optimization.offload_optimizer": "deepspeed.offload, offload_device and nvme_path",
    "zero_optimization.offload_param": "deepspeed.offload, offload_device and nvme_path",
}
"""DeepSpeed options that a typed field sets, with that field: `deepspeed.extra` may not set them too."""


class LossScale(Fields):
    """The factor on the loss under `precision: fp16`, so that small gradients do not vanish.

    It moves: halved when a gradient overflows (that step is then skipped), doubled after `window` steps
    without. Or it stands still at `static`. Micikevicius et al. 2018, arXiv:1710.03740.
    """

    initial_power: int = Field(16, ge=0, le=32)
    """It begins at 2 to the power of this."""
    window: int = Field(1000, ge=1)
    """Steps without an overflow before it is doubled."""
    minimum: int = Field(1, ge=1)
    """It is not halved below this; a gradient that overflows there ends the run."""
    static: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _moves_or_stands(self) -> Self:
        if self.static is not None and len(self.model_fields_set) > 1:
            raise ValueError("static does not move: initial_power, window and minimum do not go with it")
        return self


HOLDING_BUFFERS = ("stage3_max_reuse_distance", "stage3_prefetch_bucket_size")
"""Options that keep parameters gathered which are not in use."""
SUB_GROUP_ON_NVME = 100_000_000
"""Values of the optimiser that are in memory at a time, if they are kept on a disk."""


class DeepSpeedOptions(Fields):
    """What DeepSpeed does with the model's states."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = "none"
    """Keep these states off the device; parameters only at stage 3."""
    offload_device: Literal["cpu", "nvme"] = "cpu"
    """Where they are kept: in host memory, or on a local disk below `nvme_path`."""
    nvme_path: str | None = Field(None, min_length=1)
    """A folder on a fast local disk of every machine."""
    tensor_parallel: int = Field(1, ge=1)
    """Workers that share each layer of one replica of the model (DeepSpeed's AutoTP)."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Any other DeepSpeed option, under DeepSpeed's own names."""

    @field_validator("extra")
    @classmethod
    def _travels_as_json(cls, extra: dict[str, Any]) -> dict[str, Any]:
        return plain(extra)

    @model_validator(mode="after")
    def _not_twice(self) -> Self:
        zero = self.extra.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError(f"extra.zero_optimization is a section with fields, not {zero!r}")
        for option, owner in OWNED_BY_MIZZEN.items():
            section: Any = self.extra
            for part in option.split("."):
                section = section.get(part) if isinstance(section, dict) else None
            if section is not None:
                raise ValueError(f"extra.{option} is set by {owner}; set it there")
        return self


def configuration(job: TrainJob, workers: int | None = None) -> dict[str, Any]:
    """DeepSpeed's configuration for `job`; `deepspeed.extra` is merged in, section by section.

    `workers` is how many they are now; default: as many as the job may have.
    """
    divided = elastic.division(job, workers or job.scaling.max_workers)
    training, options = job.training, job.deepspeed
    on_gpu = job.scaling.gpus_per_worker > 0
    parameters: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": list(elastic.betas(job, divided)),
        "weight_decay": training.weight_decay,
    }
    if not on_gpu or options.offload == "none":
        # PyTorch's AdamW in one kernel: without, it took seven times as long on a CPU. DeepSpeed's own wants
        # a compiler at start, and is needed where the states are not where the gradients are.
        parameters |= {"torch_adam": True, "fused": True}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": divided.micro_batch_size,
        "gradient_accumulation_steps": divided.micro_steps,
        "gradient_clipping": training.gradient_clipping,
        "optimizer": {"type": "AdamW", "params": parameters},
        "zero_optimization": _zero(options, on_gpu),
        "steps_per_print": 2**31,
        **_precision(job),
    }
    if not on_gpu:
        config["zero_force_ds_cpu_optimizer"] = False
    if options.tensor_parallel > 1:
        # The loss is the workload's: it wants logits over the whole vocabulary.
        config["tensor_parallel"] = {"autotp_size": options.tensor_parallel, "vocab_parallel_lm_head": False}
    return _merged(config, options.extra)


def _zero(options: DeepSpeedOptions, on_gpu: bool) -> dict[str, Any]:
    """The section without the size of buffers, which depends on the model (see `with_buffers`)."""
    zero: dict[str, Any] = {"stage": options.zero_stage}
    place: dict[str, Any] = {"device": options.offload_device, "pin_memory": on_gpu}
    if options.offload_device == "nvme":
        place["nvme_path"] = options.nvme_path
        # Several buffers of this size are in host memory: with DeepSpeed's 10^9 a disk would save nothing.
        zero["sub_group_size"] = SUB_GROUP_ON_NVME
    if options.offload != "none":
        zero["offload_optimizer"] = place
    if options.offload == "optimizer_and_parameters":
        zero["offload_param"] = dict(place)
        if options.offload_device == "nvme":
            # DeepSpeed keeps the first 10^9 values of a worker in host memory, if it is not told otherwise.
            zero["offload_param"]["max_in_cpu"] = 0
            # A parameter that stays, or is fetched ahead, holds one of few buffers: they would soon run out.
            zero.update(dict.fromkeys(HOLDING_BUFFERS, 0))
    return zero


def with_buffers(
    config: dict[str, Any], largest: int, frozen_in_a_block: int, workers: int
) -> dict[str, Any]:
    """`config` with buffers for parameters on NVMe: so many as are needed at a time, and of their size.

    `largest`: elements of the largest parameter, of which each of so many `workers` has a part.
    `frozen_in_a_block`: parameters of the model's largest block that are not trained.
    """
    zero = config["zero_optimization"]
    place = zero.get("offload_param", {})
    if place.get("device") != "nvme":
        return config
    buffers = {"buffer_size": ceil(largest / workers), "buffer_count": num_buffers(frozen_in_a_block)}
    return {**config, "zero_optimization": {**zero, "offload_param": {**place, **buffers}}}


def _precision(job: TrainJob) -> dict[str, Any]:
    """In half precision the optimiser keeps a copy of the weights, and its own states, in fp32."""
    precision, scale = job.training.precision, job.training.loss_scale or LossScale()
    if precision == "fp32":
        return {}
    half: dict[str, Any] = {"enabled": True}
    if precision == "fp16":
        half |= (
            {"loss_scale": scale.static}
            if scale.static is not None
            else {
                "loss_scale": 0,  # means that it moves
                "initial_scale_power": scale.initial_power,
                "loss_scale_window": scale.window,
                "min_loss_scale": scale.minimum,
            }
        )
    config: dict[str, Any] = {precision: half}
    if elastic.may_accumulate(job):
        # Sums of many small gradients lose their last bits in bf16's eight. At any number of workers alike:
        # it is another class of optimiser, with another state.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def _merged(config: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    result = dict(config)
    for key, value in extra.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result
