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


RULES: tuple[Rule, ...] = (
    Rule(
        "deepspeed.offload",
        lambda job: job.deepspeed.offload == "optimizer" and job.deepspeed.zero_stage == 0,
        "offload: optimizer needs zero_stage 1, 2 or 3: at stage 0 the optimiser is not DeepSpeed's to move",
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
        "deepspeed.offload_device",
        lambda job: job.deepspeed.offload_device == "nvme" and job.deepspeed.zero_stage != 3,
        "offload_device: nvme needs zero_stage 3: stages 1 and 2 offload to host memory alone",
        "Set deepspeed.zero_stage: 3, or offload_device: cpu.",
    ),
    Rule(
        "deepspeed.nvme_path",
        lambda job: (job.deepspeed.offload_device == "nvme") != (job.deepspeed.nvme_path is not None),
        "offload_device: nvme and nvme_path go together",
        "Set deepspeed.nvme_path to a folder on a fast local disk, or neither of the two.",
    ),
    Rule(
        "training.loss_scale",
        lambda job: job.training.loss_scale is not None and job.training.precision != "fp16",
        "loss_scale goes with precision: fp16: bf16 and fp32 have the exponents that small gradients need",
        "Leave training.loss_scale out, or set training.precision: fp16.",
    ),
    Rule(
        "training.precision",
        lambda job: job.training.precision == "fp16" and not _on_gpu(job),
        "precision: fp16 needs GPUs: on CPUs DeepSpeed's CPU accelerator does not train in it",
        "Set training.precision: bf16 or fp32, or scaling.gpus_per_worker: 1.",
    ),
)


def check(job: TrainJob) -> None:
    """Raises `JobError` with the reason if `job` breaks a rule."""
    for rule in RULES:
        if rule.broken(job):
            raise JobError(rule.reason, remedy=rule.remedy, field=rule.field)
