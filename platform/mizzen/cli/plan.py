"""`mizzen plan`: what a job needs, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mizzen.cli import output

if TYPE_CHECKING:
    from mizzen.training.gpus import Gpu
    from mizzen.training.plan import Choice, Sizes

GIB = 2**30
LIST = "list"
KINDS = ("weights", "gradients", "optimizer", "activations", "buffers")
"""Fields of `footprint.Held`."""


def plan(
    job_file: Annotated[
        Path | None, typer.Argument(metavar="JOB.yaml", help="The job file.", show_default=False)
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the job; may be repeated."),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The kind of GPU, for instance h100-80gb; `list` shows all."),
    ] = None,
    json: output.JsonOption = False,
) -> None:
    """Say what a training job needs: parameters, memory a worker, the fewest GPUs that fit, and a speed.

    Nothing is trained and no GPU is needed. Memory is reckoned for each ZeRO stage and offload, from the
    model's shape and a micro-batch that is run without values; speed is an estimate.

    A job for GPUs is planned for h100-80gb if `--gpu` names no other; a job for CPUs for this machine.

    Example: [bold]mizzen plan jobs/chat.yaml --gpu a100-40gb --set training.precision=bf16[/bold]
    """
    if gpu == LIST:
        _show_gpus(json=json)
        return
    if job_file is None:
        raise typer.BadParameter("name a job file, or say --gpu list")
    from mizzen.training import job as jobs
    from mizzen.training import plan as plans
    from mizzen.training.gpus import DEFAULT, gpu_of

    job = jobs.load(job_file, assignments or [])
    name = gpu or (DEFAULT if job.scaling.gpus_per_worker > 0 else None)
    chosen = None if name is None else (name.lower(), gpu_of(name))
    sizes = _measured(job)
    found = plans.choices(job, sizes, None if chosen is None else chosen[1])
    if json:
        output.show_json(plans.as_json(job, sizes, found, chosen))
        return
    _show(job, sizes, found, chosen)


def _measured(job: Any) -> Sizes:
    """The job's model and micro-batch; data is prepared if their shapes follow from it."""
    from mizzen.settings import current
    from mizzen.training import data, launch, sketch

    settings = current()
    data.fetch_samples(job, settings, output.say)
    outlined = sketch.outline(job)
    if outlined is None:
        output.say("the model's shape follows from the data, so the data is prepared first")
        with launch.ray_for([job], settings):
            prepared = launch.prepare(job, settings, output.say)
        outlined = sketch.outline_of(job, prepared)
    return sketch.measure(job, outlined)


def _show(job: Any, sizes: Sizes, found: tuple[Choice, ...], gpu: tuple[str, Gpu] | None) -> None:
    from mizzen.training import plan as plans

    parameters = sizes.parameters
    frozen = f", {sum(parameters.frozen):,} frozen" if parameters.frozen else ""
    output.out.print(f"{parameters.num_trainable:,} parameters are trained{frozen}")
    activations = max(at.activation_bytes for at in sizes.moments)
    output.out.print(
        f"a micro-batch: {job.training.micro_batch_size} examples, {sizes.count:,} {sizes.unit}, "
        f"{sizes.flops / 1e12:,.3g} TFLOP, {_gib(activations)} GiB of activations at most "
        f"({job.training.precision})"
    )
    where = gpu[0] if gpu else "CPUs"
    title = f"GiB a worker, of {found[0].workers} on {where}; * the job's own choice"
    _show_bytes(title, found, gpu)
    if gpu is None:
        _show_machine(job, sizes)
    else:
        _show_numbers(sizes, found, gpu)
    for line in plans.assumptions(gpu[1] if gpu else None, job):
        output.say(line)


def _show_bytes(title: str, found: tuple[Choice, ...], gpu: Any) -> None:
    rows = []
    for one in found:
        needs, worst = one.needs, one.needs.worst
        rows.append(
            [
                _named(one),
                *(_gib(needs.largest(kind)) for kind in KINDS),
                _gib(worst.device if gpu else needs.together),
                worst.moment,
                _gib(needs.host) if needs.host else "",
                _gib(needs.disk) if needs.disk else "",
            ]
        )
    output.show_table(
        title,
        ["ZeRO, offload", *(f"{kind}#" for kind in KINDS), "peak#", "peak at", "host#", "disk#"],
        rows,
    )


def _show_numbers(sizes: Sizes, found: tuple[Choice, ...], gpu: tuple[str, Gpu]) -> None:
    from mizzen.training.gpus import GPUS_A_NODE

    rows = []
    for one in found:
        least = one.least
        a_node = min(GPUS_A_NODE, one.workers) * one.needs.host
        rows.append(
            [
                _named(one),
                "yes" if one.fits else "no",
                _rate(one.per_second),
                "none up to 1024" if least is None else str(least),
                _rate(one.per_second_at_least),
                _gib(a_node) if a_node else "",
            ]
        )
    usable = _gib(gpu[1].usable_bytes)
    workers = found[0].workers
    output.show_table(
        f"{gpu[0]}: {usable} GiB can be used; {sizes.unit} a second are estimates",
        [
            *("ZeRO, offload", f"fits {workers}", f"{sizes.unit}/s#"),
            *("fewest GPUs#", f"{sizes.unit}/s on those#", "host GiB a node#"),
        ],
        rows,
    )


def _show_machine(job: Any, sizes: Sizes) -> None:
    import psutil

    from mizzen.training.plan import PROCESS_BYTES, need

    free = psutil.virtual_memory().available
    # Of an elastic job the fewest need most each, and the most may need more together.
    wanted, workers = max(
        (number * (need(job, sizes, number).together + PROCESS_BYTES), number)
        for number in (job.scaling.min_workers, job.scaling.max_workers)
    )
    verdict = "fit" if wanted <= free else "do not fit"
    output.out.print(
        f"the job's {workers} workers need {_gib(wanted)} GiB, {_gib(workers * PROCESS_BYTES)} of it "
        f"for their processes: they {verdict} this machine, which has {_gib(free)} GiB free"
    )


def _show_gpus(*, json: bool) -> None:
    from dataclasses import asdict

    from mizzen.training.gpus import GPUS

    if json:
        output.show_json({name: asdict(gpu) for name, gpu in GPUS.items()})
        return
    output.show_table(
        "GPUs that --gpu takes",
        [
            *("name", "memory GiB#", "can be used GiB#", "bf16 TFLOPS#", "fp16 TFLOPS#", "fp32 TFLOPS#"),
            *("memory GB/s#", "link GB/s#", "network GB/s#"),
        ],
        [
            [
                name,
                f"{gpu.memory_mib / 1024:.1f}",
                _gib(gpu.usable_bytes),
                *(_tera(gpu.flops(arithmetic)) for arithmetic in ("bf16", "fp16", "fp32")),
                f"{gpu.memory_bandwidth:,.0f}",
                f"{gpu.link:g}",
                f"{gpu.network:g}",
            ]
            for name, gpu in GPUS.items()
        ],
    )


def _named(one: Choice) -> str:
    away = "" if one.offload == "none" else f", {one.offload.replace('_', ' ')} on {one.offload_device}"
    return f"{'* ' if one.is_jobs else '  '}{one.stage}{away}"


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / GIB:.2f}"


def _tera(flops: float | None) -> str:
    return "" if flops is None else f"{flops / 1e12:.0f}"


def _rate(per_second: float | None) -> str:
    return "" if per_second is None else f"{per_second:,.3g}" if per_second < 100 else f"{per_second:,.0f}"
