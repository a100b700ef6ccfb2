"""What a chat model's section goes together with in training, and what is switched on for it.

It does not train: the platform does.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mizzen.errors import InputError, JobError, NotFoundError
from mizzen.workloads.chat.model import ChatModel, base_folder
from mizzen.workloads.chat.packing import KINDS
from mizzen.workloads.contract import TrainingMode

if TYPE_CHECKING:
    import torch

SHARED_KINDS = frozenset({"llama"})
"""Kinds of models (`model_type`) whose layers AutoTP was seen to split so that the loss stays the same."""
IMPLEMENTATIONS = {"sdpa": "sdpa", "flash": "flash_attention_2", "eager": "eager"}
"""transformers' names."""


def check(config: ChatModel, mode: TrainingMode) -> None:
    """See `Workload.check`. Raises `JobError`."""
    if config.attention == "flash":
        _check_flash(config, mode)
    if mode.tensor_parallel > 1 and config.method == "lora":
        raise JobError(
            "deepspeed.tensor_parallel does not go with method: lora: AutoTP splits linear layers that it "
            "knows by name, and below adapters they have other names",
            remedy="Set deepspeed.tensor_parallel: 1 and deepspeed.zero_stage: 3, or model.method: full.",
            field="deepspeed.tensor_parallel",
        )
    shape = _shape(config)
    if shape is None:
        return  # the base model is elsewhere; each worker asks again
    if config.packing and shape.get("model_type") not in KINDS:
        raise JobError(
            "this kind of model would let packed conversations see each other",
            saw=shape.get("model_type"),
            allowed=", ".join(sorted(KINDS)),
            remedy="Set model.packing: false.",
            field="model.packing",
        )
    _check_tensor_parallel(shape, mode.tensor_parallel)


def _check_flash(config: ChatModel, mode: TrainingMode) -> None:
    if not mode.on_gpu:
        reason, remedy = "has no kernels for CPUs", "Set model.attention: sdpa."
    elif mode.precision == "fp32":
        reason, remedy = "reckons in bf16 and fp16 alone", "Set training.precision: bf16."
    elif config.packing and mode.micro_batch_size > 1:
        # transformers' _is_packed_sequence: of several rows it does not look for beginnings.
        reason = "lets packed conversations see each other where a worker takes several rows at a time"
        remedy = "Set training.micro_batch_size: 1 and a larger model.max_length, or model.attention: sdpa."
    else:
        return
    raise JobError(f"attention: flash {reason}", remedy=remedy, field="model.attention")


def _check_tensor_parallel(shape: dict[str, Any], ranks: int) -> None:
    """Heads must divide: else some workers would hold more of them, and the others wait for those."""
    if ranks == 1:
        return
    if shape.get("model_type") not in SHARED_KINDS:
        raise JobError(
            "it was not tried whether AutoTP splits this kind of model rightly",
            saw=shape.get("model_type"),
            allowed=", ".join(sorted(SHARED_KINDS)),
            remedy="Set deepspeed.tensor_parallel: 1; deepspeed.zero_stage: 3 spreads any model.",
            field="deepspeed.tensor_parallel",
        )
    heads = shape.get("num_attention_heads") or shape.get("n_head") or 0
    groups = shape.get("num_key_value_heads") or heads
    if not heads or groups % ranks or heads % ranks:
        raise JobError(
            f"{ranks} workers cannot share the model's attention evenly",
            saw=f"{heads} heads that share {groups} keys and values",
            allowed="a number of workers that divides both",
            remedy="Choose another deepspeed.tensor_parallel.",
            field="deepspeed.tensor_parallel",
        )


def _shape(config: ChatModel) -> dict[str, Any] | None:
    """The base model's config.json, if it is here."""
    try:
        shape: dict[str, Any] = json.loads((base_folder(config) / "config.json").read_text())
    except (NotFoundError, InputError, OSError, ValueError):
        return None  # what is wrong with it is said where it is built
    return shape


def begin(config: ChatModel, model: torch.nn.Module) -> None:
    """See `Workload.begin_training`. Raises `InputError`.

    Here and not where the model is built: the process that exports it may have no GPU.
    """
    if config.attention == "auto":
        return
    inner: Any = model
    if hasattr(inner, "get_base_model"):  # below adapters
        inner = inner.get_base_model()
    try:
        inner.set_attn_implementation(IMPLEMENTATIONS[config.attention])
    except (ValueError, ImportError) as cause:
        raise InputError(
            f"attention: {config.attention} cannot be had for this model",
            saw=str(cause).splitlines()[0],
            remedy="Set model.attention: auto."
            + (" Or install flash-attn." if config.attention == "flash" else ""),
            field="model.attention",
        ) from None
