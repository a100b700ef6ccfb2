"""What does not go together in a job, in one table: refused when the job is read, before any worker starts.

A rule names a combination that DeepSpeed (0.19.8) or PyTorch cannot do, or would do otherwise than the job
says. It does not look at single fields: their classes do. What a workload's own `model` section cannot do,
the workload refuses itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mizzen.errors import JobError
from mizzen.training import elastic
from mizzen.training.configuration import HOLDING_BUFFERS
from mizzen.workloads.contract import TrainingMode

if TYPE_CHECKING:
    from mizzen.training.job import TrainJob


@dataclass(frozen=True)
class Rule:
    """A combination that is refused."""

    field: str
    """The field to name, which is nearest to what has to change."""
    broken: Callable[[TrainJob], bool]
    reason: str
    remedy: str


def _on_gpu(job: TrainJob) -> bool:
    return job.scaling.gpus_per_worker > 0


def _half(job: TrainJob) -> bool:
    return job.training.precision != "fp32"


RULES: tuple[Rule, ...] = (
    # --- ZeRO and offload -------------------------------------------------------------------------
    Rule(
        "deepspeed.offload",
        lambda job: job.deepspeed.offload == "optimizer" and job.deepspeed.zero_stage == 0,
        "offload: optimizer needs zero_stage 1, 2 or 3: at stage 0 DeepSpeed passes over it",
        "Set deepspeed.zero_stage: 1, or offload: none.",
    ),
    Rule(
        "deepspeed.offload",
        lambda job: job.deepspeed.offload == "optimizer_and_parameters" and job.deepspeed.zero_stage != 3,
        "offload: optimizer_and_parameters needs zero_stage 3: only there are parameters partitioned",
        "Set deepspeed.zero_stage: 3, or offload: optimizer.",
    ),
    Rule(
        "deepspeed.offload_device",
        lambda job: job.deepspeed.offload_device == "nvme" and job.deepspeed.offload == "none",
        "offload_device: nvme with offload: none keeps nothing on the disk",
        "Set deepspeed.offload: optimizer or optimizer_and_parameters.",
    ),
    Rule(
        # stage_1_and_2.py knows of no swapper: it would keep the states in host memory without a word.
        "deepspeed.offload_device",
        lambda job: job.deepspeed.offload_device == "nvme" and job.deepspeed.zero_stage != 3,
        "offload_device: nvme needs zero_stage 3: at stages 1 and 2 the states would stay in host memory",
        "Set deepspeed.zero_stage: 3, or offload_device: cpu.",
    ),
    Rule(
        "deepspeed.nvme_path",
        lambda job: (job.deepspeed.offload_device == "nvme") != (job.deepspeed.nvme_path is not None),
        "offload_device: nvme and nvme_path go together",
        "Set deepspeed.nvme_path to a folder on a fast local disk, or neither of the two.",
    ),
    Rule(
        # partitioned_param_swapper.py: "Not enough buffers", in the middle of a step.
        "deepspeed.extra",
        lambda job: (
            job.deepspeed.offload_device == "nvme"
            and job.deepspeed.offload == "optimizer_and_parameters"
            and any(job.deepspeed.extra.get("zero_optimization", {}).get(name) for name in HOLDING_BUFFERS)
        ),
        f"with parameters on NVMe {' and '.join(HOLDING_BUFFERS)} are 0: what stays gathered keeps a buffer, "
        "and DeepSpeed runs out of them",
        "Leave them out of deepspeed.extra.zero_optimization, or set offload_device: cpu.",
    ),
    # --- precision --------------------------------------------------------------------------------
    Rule(
        "training.loss_scale",
        lambda job: job.training.loss_scale is not None and job.training.precision != "fp16",
        "loss_scale goes with precision: fp16: bf16 and fp32 have the exponents that small gradients need",
        "Leave training.loss_scale out, or set training.precision: fp16.",
    ),
    Rule(
        # deepspeed.accelerator.cpu_accelerator: is_fp16_supported only where oneDNN has fp16 kernels (AMX).
        "training.precision",
        lambda job: job.training.precision == "fp16" and not _on_gpu(job),
        "precision: fp16 needs GPUs: few CPUs reckon in it, and DeepSpeed refuses the others",
        "Set training.precision: bf16 or fp32, or scaling.gpus_per_worker: 1.",
    ),
    Rule(
        # engine._do_optimizer_sanity_check: "unsupported mix" of a half type and fp32 sums without ZeRO.
        "training.gradient_accumulation_steps",
        lambda job: _half(job) and job.deepspeed.zero_stage == 0 and elastic.may_accumulate(job),
        "at zero_stage 0 DeepSpeed sums the gradients of several micro-batches in half precision",
        "Set deepspeed.zero_stage: 1, which sums them in fp32.",
    ),
    # --- activations ------------------------------------------------------------------------------
    Rule(
        "training.activation_checkpointing",
        lambda job: job.training.activation_checkpointing and not job.implementation.checkpoints_activations,
        "this workload's models cannot checkpoint their activations",
        "Leave training.activation_checkpointing out; lower training.micro_batch_size to save memory.",
    ),
    # --- tensor parallel --------------------------------------------------------------------------
    Rule(
        "deepspeed.tensor_parallel",
        lambda job: job.deepspeed.tensor_parallel > 1 and not job.implementation.splits_layers,
        "this workload's models cannot be shared layer by layer: AutoTP does not know them",
        "Set deepspeed.tensor_parallel: 1; deepspeed.zero_stage: 3 spreads any model over the workers.",
    ),
    Rule(
        "deepspeed.tensor_parallel",
        lambda job: job.deepspeed.tensor_parallel > 1 and job.scaling.is_elastic,
        "tensor_parallel needs a fixed number of workers: Ray takes any number between min and max, and a "
        "replica of the model needs tensor_parallel of them",
        "Set scaling.workers to one number.",
    ),
    Rule(
        "scaling.workers",
        lambda job: job.scaling.max_workers % job.deepspeed.tensor_parallel != 0,
        "scaling.workers must be a multiple of deepspeed.tensor_parallel: so many share one replica",
        "Set scaling.workers to a multiple, or deepspeed.tensor_parallel: 1.",
    ),
    Rule(
        # Stage 0 in fp32 leaves clipping to the engine and forgets the norm; each worker sees a part of it.
        "deepspeed.tensor_parallel",
        lambda job: job.deepspeed.tensor_parallel > 1 and job.deepspeed.zero_stage not in (1, 2),
        "tensor_parallel goes with zero_stage 1 and 2: at stage 0 nobody reckons the norm of the whole "
        "gradient, and at stage 3 the model is spread over all workers before AutoTP can split it",
        "Set deepspeed.zero_stage: 1.",
    ),
    Rule(
        "deepspeed.tensor_parallel",
        lambda job: job.deepspeed.tensor_parallel > 1 and job.training.compile,
        "compile does not go with tensor_parallel: AutoTP's collectives break the graph in every layer",
        "Set training.compile: false.",
    ),
)


def check(job: TrainJob) -> None:
    """Raises `JobError` with the reason if `job` breaks a rule, or one of its workload's."""
    for rule in RULES:
        if rule.broken(job):
            raise JobError(rule.reason, remedy=rule.remedy, field=rule.field)
    training = job.training
    mode = TrainingMode(
        on_gpu=_on_gpu(job),
        precision=training.precision,
        zero_stage=job.deepspeed.zero_stage,
        tensor_parallel=job.deepspeed.tensor_parallel,
        micro_batch_size=training.micro_batch_size,
        dropout=training.dropout,
        compile=training.compile,
    )
    job.implementation.check(job.model, mode)
