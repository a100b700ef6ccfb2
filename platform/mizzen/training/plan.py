"""What a job needs and how fast it may be, under each ZeRO stage and offload: sizes in, an answer out.

It measures nothing: `sketch` and `activations` do that for a job's model. Memory is reckoned (`footprint`);
speed is an estimate, by peaks of data sheets times the shares below, and no more than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from math import ceil
from typing import Any, Literal, get_args

from mizzen.errors import JobError
from mizzen.training import combinations
from mizzen.training.configuration import DeepSpeedOptions, configuration
from mizzen.training.footprint import (
    Adam,
    Division,
    Footprint,
    Moment,
    Offload,
    Options,
    Parameters,
    footprint,
)
from mizzen.training.gpus import FRAGMENTATION, GIB, GIGA, GPUS_A_NODE, RUNTIME_BYTES, Gpu
from mizzen.training.job import TrainJob

UTILISATION: Mapping[str, float] = {"bf16": 0.4, "fp16": 0.4, "fp32": 0.6}
"""Assumed: the share of the peak that matrix products of a training step reach."""
RECOMPUTED = 4 / 3
"""Activation checkpointing reckons the forward pass, a third of the work, once more."""
PASSES = 3
"""How often a micro-batch reads the weights at least: forward, and twice on the way back."""
STEP_BYTES = 28
"""What AdamW reads and writes a value: weight, gradient and two moments in fp32, three of them back."""
HOST_LINK = 25 * GIGA
"""Assumed: bytes a second between a GPU and its host."""
HOST_BANDWIDTH = 20 * GIGA
"""Assumed: bytes a second of host memory for a worker's optimiser."""
DISK_BANDWIDTH = 3 * GIGA
"""Assumed: bytes a second of a local NVMe disk for a worker."""

MAX_WORKERS = 1024
STAGES = (0, 1, 2, 3)
OFFLOADS: tuple[Offload, ...] = get_args(Offload)
PROCESS_BYTES = 900 * 2**20
"""Assumed: what a worker on CPUs holds before it builds a model: Python, PyTorch, DeepSpeed, Ray's client."""


@dataclass(frozen=True)
class Sizes:
    """What is known of a job's model and of one micro-batch."""

    parameters: Parameters
    moments: Sequence[Moment]
    entered_bytes: int
    flops: float
    """Of one micro-batch, forward and backward, without what is done twice."""
    count: int
    """Samples or tokens of one micro-batch."""
    unit: Literal["samples", "tokens"]
    has_skeleton: bool = False
    """Whether workers build the model parameter by parameter."""


@dataclass(frozen=True)
class Choice:
    """A ZeRO stage and an offload, at a number of workers."""

    stage: int
    offload: Offload
    offload_device: Literal["cpu", "nvme"]
    workers: int
    needs: Footprint
    per_second: float | None
    """Samples or tokens over all workers; None where no peak is known."""
    is_jobs: bool = False
    fits: bool | None = None
    """Whether it fits the GPU; None if none was named."""
    least: int | None = None
    """The smallest number of GPUs that fits; None if no number up to 1024 does, or no GPU was named."""
    per_second_at_least: float | None = None
    """Samples or tokens a second on so many."""


def choices(job: TrainJob, sizes: Sizes, gpu: Gpu | None) -> tuple[Choice, ...]:
    """All that `combinations` lets through, the job's own among them; with a GPU, as if on those."""
    found = []
    for stage in STAGES:
        for offload in OFFLOADS:
            variant = _variant(job, stage, offload, on_gpu=gpu is not None)
            if variant is not None:
                own = (stage, offload) == (job.deepspeed.zero_stage, job.deepspeed.offload)
                found.append(_choice(variant, sizes, gpu, is_jobs=own))
    return tuple(found)


def _variant(job: TrainJob, stage: int, offload: Offload, *, on_gpu: bool) -> TrainJob | None:
    """The job with another stage and offload; None if that is refused."""
    options = job.deepspeed
    to_disk = options.offload_device == "nvme" and stage == 3 and offload != "none"
    fields = {
        "zero_stage": stage,
        "offload": offload,
        "offload_device": "nvme" if to_disk else "cpu",
        "nvme_path": options.nvme_path if to_disk else None,
    }
    changed: dict[str, Any] = {"deepspeed": DeepSpeedOptions(**{**dict(options), **fields})}
    if on_gpu and job.scaling.gpus_per_worker == 0:
        changed["scaling"] = job.scaling.model_copy(update={"gpus_per_worker": 1})
    variant = job.model_copy(update=changed)
    try:
        combinations.check(variant)
    except JobError:
        return None
    return variant


def _choice(job: TrainJob, sizes: Sizes, gpu: Gpu | None, *, is_jobs: bool) -> Choice:
    workers = job.scaling.min_workers  # of an elastic job: there each needs most
    needs = need(job, sizes, workers)
    fits = least = at_least = None
    if gpu is not None:
        fits = needs.worst.device <= gpu.usable_bytes
        least = _least(job, sizes, gpu)
        at_least = None if least is None else per_second(job, sizes, gpu, least)
    return Choice(
        stage=job.deepspeed.zero_stage,
        offload=job.deepspeed.offload,
        offload_device=job.deepspeed.offload_device,
        workers=workers,
        needs=needs,
        per_second=None if gpu is None else per_second(job, sizes, gpu, workers),
        is_jobs=is_jobs,
        fits=fits,
        least=least,
        per_second_at_least=at_least,
    )


def numbers_of_workers(together: int) -> Iterable[int]:
    """Those that are tried, rising: any up to a node, then whole nodes; multiples of `together` alone."""
    tried = chain(range(1, GPUS_A_NODE), range(GPUS_A_NODE, MAX_WORKERS + 1, GPUS_A_NODE))
    return (number for number in tried if number % together == 0)


def _least(job: TrainJob, sizes: Sizes, gpu: Gpu) -> int | None:
    for workers in numbers_of_workers(job.deepspeed.tensor_parallel):
        if need(job, sizes, workers).worst.device <= gpu.usable_bytes:
            return workers
    return None


def need(job: TrainJob, sizes: Sizes, workers: int) -> Footprint:
    """The bytes of one of so many workers of `job`."""
    divided = replace(division(job, workers), builds_in_fp32=not sizes.has_skeleton)
    return footprint(sizes.parameters, sizes.moments, sizes.entered_bytes, divided)


def _with(job: TrainJob, workers: int) -> TrainJob:
    """`job` if it may have so many workers; else as it would be written for so many."""
    scaling = job.scaling
    if scaling.min_workers <= workers <= scaling.max_workers:
        return job
    return job.model_copy(update={"scaling": scaling.model_copy(update={"workers": workers})})


def division(job: TrainJob, workers: int) -> Division:
    """How so many workers divide the states of `job`'s model."""
    job = _with(job, workers)
    configured = configuration(job, workers)
    given = configured["optimizer"]["params"]
    on_gpu = job.scaling.gpus_per_worker > 0
    fused = bool(given.get("fused")) or not given.get("torch_adam")  # DeepSpeed's own are fused
    adam: Adam = "fused" if fused else "foreach" if on_gpu else "single"
    return Division(
        stage=job.deepspeed.zero_stage,
        offload=job.deepspeed.offload,
        workers=max(1, workers // job.deepspeed.tensor_parallel),
        value_bytes=4 if job.training.precision == "fp32" else 2,
        on_gpu=on_gpu,
        accumulates=int(configured["gradient_accumulation_steps"]) > 1,
        to_disk=job.deepspeed.offload_device == "nvme",
        sums_in_fp32=job.training.precision != "fp32" and "data_types" in configured,
        adam=adam,
        host_adam="fused" if fused else "single",
        options=Options.of(configured),
    )


def per_second(job: TrainJob, sizes: Sizes, gpu: Gpu, workers: int) -> float | None:
    """An estimate of samples or tokens a second over so many GPUs; None if the GPU lacks the precision."""
    peak = gpu.flops(job.training.precision)
    if peak is None:
        return None
    d = division(job, workers)
    micro_steps = int(configuration(_with(job, workers), workers)["gradient_accumulation_steps"])
    memory = gpu.memory_bandwidth * GIGA
    work = sizes.flops * (RECOMPUTED if job.training.activation_checkpointing else 1)
    weights = d.value_bytes * sizes.parameters.num_values
    products = work / job.deepspeed.tensor_parallel / (peak * UTILISATION[job.training.precision])
    compute = micro_steps * max(products, PASSES * weights / memory)
    exchange = _exchanged(sizes.parameters, d, micro_steps) / gpu.link_bytes_per_second(workers)
    # Stage 3 fetches and reduces while it reckons; the other stages wait.
    step = max(compute, exchange) if d.stage == 3 else compute + exchange
    step += _optimizer_seconds(sizes.parameters, d, memory)
    if d.offload == "optimizer_and_parameters":
        fetched = 2 * micro_steps * weights / d.workers
        step += fetched / (min(HOST_LINK, DISK_BANDWIDTH) if d.to_disk else HOST_LINK)
    return sizes.count * micro_steps * d.workers / step


def _exchanged(parameters: Parameters, d: Division, micro_steps: int) -> float:
    """Bytes that a worker sends in a step; an all-reduce sends everything twice, other exchanges once."""
    share = (d.workers - 1) / d.workers
    trained, everything = d.value_bytes * parameters.num_trainable, d.value_bytes * parameters.num_values
    if d.stage == 0:
        return share * 2 * trained
    if d.stage == 1:
        return share * 3 * trained
    if d.stage == 2:
        return share * (2 * micro_steps + 1) * trained
    return share * micro_steps * (2 * everything + trained)


def _optimizer_seconds(parameters: Parameters, d: Division, memory: float) -> float:
    part = parameters.num_trainable if d.stage == 0 else ceil(parameters.num_trainable / d.workers)
    if d.offload == "none":
        return STEP_BYTES * part / memory
    seconds = STEP_BYTES * part / HOST_BANDWIDTH + 2 * d.value_bytes * part / HOST_LINK
    return seconds + (2 * 12 * part / DISK_BANDWIDTH if d.to_disk else 0)


def as_json(
    job: TrainJob, sizes: Sizes, found: Sequence[Choice], gpu: tuple[str, Gpu] | None
) -> dict[str, Any]:
    """The answer for programs; sizes in bytes."""
    return {
        "name": job.name,
        "parameters": {
            "total": sizes.parameters.num_values,
            "trainable": sizes.parameters.num_trainable,
            "frozen": sum(sizes.parameters.frozen),
        },
        "precision": job.training.precision,
        "micro_batch": {"size": job.training.micro_batch_size, sizes.unit: sizes.count, "flops": sizes.flops},
        "gpu": None if gpu is None else {"name": gpu[0], "usable_bytes": gpu[1].usable_bytes},
        "choices": [
            {
                "zero_stage": one.stage,
                "offload": one.offload,
                "offload_device": None if one.offload == "none" else one.offload_device,
                "workers": one.workers,
                "is_the_jobs": one.is_jobs,
                "peak_bytes": one.needs.worst.device if gpu else one.needs.together,
                "host_bytes": one.needs.host,
                "disk_bytes": one.needs.disk,
                "moments": [asdict(held) for held in largest_of_each(one.needs)],
                "fits": one.fits,
                "smallest_number_of_gpus": one.least,
                f"{sizes.unit}_per_second": one.per_second,
                f"{sizes.unit}_per_second_on_smallest": one.per_second_at_least,
            }
            for one in found
        ],
    }


def largest_of_each(needs: Footprint) -> list[Any]:
    """The worst moment of each name, in their order."""
    worst: dict[str, Any] = {}
    for held in needs.moments:
        if (
            held.moment not in worst
            or held.device + held.host > worst[held.moment].device + worst[held.moment].host
        ):
            worst[held.moment] = held
    return list(worst.values())


def assumptions(gpu: Gpu | None, job: TrainJob) -> list[str]:
    """What the answer rests on, for people."""
    said = ["activations: PyTorch's eager kernels; where rows are picked by a mask, all are taken to be"]
    if job.deepspeed.tensor_parallel > 1:
        said.append("tensor parallelism: linear layers are divided, activations are taken as undivided")
    if job.scaling.is_elastic:
        fewest = job.scaling.min_workers
        said.append(f"elastic: as at {fewest} worker(s), the fewest of the job, where each needs most")
    if gpu is None:
        return said
    share = UTILISATION[job.training.precision]
    return [
        *said,
        f"usable: the card's memory less {RUNTIME_BYTES / GIB:.1f} GiB for CUDA and NCCL, less "
        f"{FRAGMENTATION:.0%} for gaps between blocks",
        f"speed: {share:.0%} of the data sheet's dense peak, {gpu.link:g} GB/s between GPUs of a node of "
        f"{GPUS_A_NODE}, {gpu.network:g} beyond; {HOST_LINK / GIGA:.0f} GB/s to the host",
    ]
