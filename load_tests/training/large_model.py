"""Trains a large language model of random weights for a few steps, stage by stage, and measures its memory.

    python load_tests/training/large_model.py [--size 100m|1b] [--rows 0,1,2,3,3+optimizer,3+all] [--steps N]
                                              [--method full|lora] [--publish] [--floor-gib 1.5] [--out FILE]

The model has the shape of a Llama (`SIZES`), with the tokenizer and the chat template of the sample model;
its weights are drawn as it is built (`model.init: random`), in bf16. Each row is a run of its own through
what `mizzen train` calls (Ray Train, DeepSpeed, checkpoints), on two workers of this machine: a ZeRO stage,
and what is offloaded to host memory (`optimizer`, or `all`: parameters too), or to files (`optimizer-nvme`,
`all-nvme`; they lie in the system's folder of temporary files). With `--publish` the last row goes on to the
export, the gate and the store.

Memory is what the kernel says of the processes: a worker's peak is its highest resident set (`VmHWM`), that
of all together the highest sum over Ray's and the driver's processes at one moment, without the pages of
files. A row ends, and says so, before less than `--floor-gib` of the machine is left.

It runs with Mizzen's own Python. The sample model must be there (`mizzen data fetch smollm2-135m-instruct`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from mizzen import datasets, settings
from mizzen.training import job as jobs
from mizzen.training import launch, pipeline
from mizzen.training.mailbox import Progress
from mizzen.training.result import run_id

BASE = "smollm2-135m-instruct"
DATA = "chatterbot-corpus"
NUM_WORKERS = 2
SAMPLE_EVERY_S = 0.1
GIB = 2**30
TRAINING = "training"
WORKER = "RayTrainWorker"
"""What Ray calls the processes that train."""
SIZES: Mapping[str, Mapping[str, int]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "100m": {
        "hidden_size": 640,
        "intermediate_size": 2560,
        "num_hidden_layers": 11,
        "num_attention_heads": 10,
        "num_key_value_heads": 5,
    },
    # Layers of Llama 3.2 1B, 14 of its 16, and 49,152 words: with 20 bytes a parameter it fits into 24 GiB.
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 14,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
OFFLOADS = {"": "none", "optimizer": "optimizer", "all": "optimizer_and_parameters"}


@dataclass
class Memory:
    """Peaks in bytes, as far as they were seen."""

    of_worker: dict[int, int] = field(default_factory=dict)
    """Highest resident set by process id."""
    together: int = 0
    driver: int = 0
    least_available: int = sys.maxsize


@dataclass(frozen=True)
class Row:
    """One run."""

    stage: int
    offload: str
    num_parameters: int
    worker_peaks_gib: tuple[float, ...]
    together_gib: float
    driver_gib: float
    least_available_gib: float
    build_s: float | None
    step_s: tuple[float, ...]
    losses: tuple[float, ...]
    steps: int
    wall_s: float
    ended: str
    """`trained`, `published`, or why not."""

    @property
    def bytes_a_parameter(self) -> float:
        """Of all workers together."""
        return sum(self.worker_peaks_gib) * GIB / self.num_parameters


def main() -> int:
    """See the module."""
    arguments = _arguments()
    if arguments.child:
        return _child(arguments.child, arguments.publish)
    folder = Path(tempfile.mkdtemp(prefix="mizzen-large-"))
    try:
        base = _base(folder / "base", arguments.size)
        rows = []
        wanted = arguments.rows.split(",")
        for name in wanted:
            job = _job(arguments, base, name)
            row = _measured(job, folder, arguments, publish=arguments.publish and name == wanted[-1])
            rows.append(row)
            print(_line(row), flush=True)
        print("\n" + table(rows, arguments))
        if arguments.out:
            arguments.out.write_text(json.dumps([asdict(row) for row in rows], indent=1))
        return 0 if all(row.ended in ("trained", "published") for row in rows) else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="100m")
    parser.add_argument("--rows", default="0,1,2,3,3+optimizer,3+all")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--length", type=int, default=64, help="longest conversation in tokens")
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--floor-gib", type=float, default=1.5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# --- the job ----------------------------------------------------------------------------------------


def _base(folder: Path, size: str) -> Path:
    """A folder with a shape and a tokenizer, and no weights."""
    from transformers import AutoTokenizer, LlamaConfig

    sample = datasets.fetch(BASE, settings.current(), lambda _: None)
    tokenizer = AutoTokenizer.from_pretrained(sample, local_files_only=True)
    tokenizer.save_pretrained(folder)
    LlamaConfig(
        **SIZES[size],
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    return folder


def _job(arguments: argparse.Namespace, base: Path, row: str) -> dict[str, Any]:
    stage, _, wanted = row.partition("+")
    offload, _, device = wanted.partition("-")
    places = {"offload_device": "nvme", "nvme_path": str(base.parent / "fast")} if device == "nvme" else {}
    zero: dict[str, Any] = {}
    if stage == "3":
        # Else DeepSpeed may keep up to 10^9 gathered parameters on each worker, which is all of them.
        zero = {
            "stage3_max_live_parameters": 30_000_000,
            "reduce_bucket_size": 10_000_000,
            "sub_group_size": 20_000_000,
        }
        if wanted != "all-nvme":  # where they are 0
            zero |= {"stage3_max_reuse_distance": 30_000_000, "stage3_prefetch_bucket_size": 10_000_000}
    return {
        "name": f"large-{arguments.size}-{row.replace('+', '-')}",
        "workload": "chat",
        "data": {"dataset": DATA},
        "model": {
            "base": str(base),
            "init": "random",
            "method": arguments.method,
            "max_length": arguments.length,
            "evaluation_conversations": 2,
        },
        "training": {
            "steps": arguments.steps,
            "micro_batch_size": 1,
            "learning_rate": 1e-4,
            "precision": "bf16",
        },
        "deepspeed": {
            "zero_stage": int(stage),
            "offload": OFFLOADS[offload],
            **places,
            **({"extra": {"zero_optimization": zero}} if zero else {}),
        },
        "scaling": {"workers": NUM_WORKERS},
        "publish": {"alias": None, "quantize": "fp32", "weights": False},
    }


def _child(file: Path, publish: bool) -> int:
    """Run the job in `file` as `mizzen train` does, and tell of it in lines of JSON."""
    content = json.loads(file.read_text())
    job, own = jobs.parse(content, str(file)), settings.current()

    def tell(**what: Any) -> None:
        print(json.dumps({"time": time.time(), **what}), flush=True)

    def watch(progress: Progress) -> None:
        if progress.loss is not None:
            seconds = progress.figures.get("step_seconds")
            tell(step=progress.step, loss=progress.loss, step_s=seconds)

    def say(line: str) -> None:
        tell(said=line)

    if publish:
        published = pipeline.run(job, own, say=say, watch=watch)
        tell(ended="published", steps=published.result.num_steps)
        return 0
    with launch.ray_for([job], own):
        prepared = launch.prepare(job, own, say)
        say(TRAINING)
        result = launch.train(job, prepared, own, watch, run=run_id(job), say=say)
    tell(ended="trained", steps=result.num_steps)
    shutil.rmtree(result.folder, ignore_errors=True)  # the checkpoint of a large model
    return 0


# --- measuring --------------------------------------------------------------------------------------


def _measured(job: Mapping[str, Any], folder: Path, arguments: argparse.Namespace, *, publish: bool) -> Row:
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    command = [sys.executable, __file__, "--child", str(file), *(["--publish"] if publish else [])]
    log = folder / "lines"
    started = time.time()
    with log.open("w") as lines, (folder / "errors").open("w") as errors:
        child = subprocess.Popen(command, stdout=lines, stderr=errors, env={**os.environ})
        memory = Memory()
        ended = _watched(child, memory, arguments.floor_gib * GIB)
    told = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    steps = [one for one in told if "step_s" in one]
    last = told[-1] if told else {}
    if not ended:
        ended = last.get("ended") or (folder / "errors").read_text()[-400:].strip()
    began = [one["time"] for one in told if str(one.get("said", "")).startswith(TRAINING)]
    peaks = sorted(memory.of_worker.values(), reverse=True)[:NUM_WORKERS]
    return Row(
        stage=job["deepspeed"]["zero_stage"],
        offload=job["deepspeed"]["offload"] + (" on NVMe" if "nvme_path" in job["deepspeed"] else ""),
        num_parameters=num_parameters(job),
        worker_peaks_gib=tuple(round(peak / GIB, 3) for peak in peaks),
        together_gib=round(memory.together / GIB, 3),
        driver_gib=round(memory.driver / GIB, 3),
        least_available_gib=round(memory.least_available / GIB, 3),
        build_s=round(steps[0]["time"] - began[0], 1) if steps and began else None,
        step_s=tuple(round(one["step_s"], 2) for one in steps if one["step_s"]),
        losses=tuple(round(one["loss"], 4) for one in steps),
        steps=last.get("steps", len(steps)),
        wall_s=round(time.time() - started, 1),
        ended=ended,
    )


def num_parameters(job: Mapping[str, Any]) -> int:
    """Of the model that `job` trains, adapters included; nothing of it is built."""
    parsed = jobs.parse(dict(job), "the job")
    model = parsed.implementation.skeleton(parsed.model, None, dropout=0.0).model  # type: ignore[union-attr,arg-type]
    return sum(parameter.numel() for parameter in model.parameters())


def _watched(child: subprocess.Popen[bytes], memory: Memory, floor: float) -> str:
    """Follow the processes to their end; why they were ended here, if they were."""
    while child.poll() is None:
        together = 0
        for process in _family(child.pid):
            peak, resident = _resident(process.pid)
            together += resident
            if process.pid == child.pid:
                memory.driver = max(memory.driver, peak)
            elif WORKER in _name(process):
                memory.of_worker[process.pid] = max(memory.of_worker.get(process.pid, 0), peak)
        memory.together = max(memory.together, together)
        available = psutil.virtual_memory().available
        memory.least_available = min(memory.least_available, available)
        if available < floor:
            family = _family(child.pid)
            for process in reversed(family):
                process.kill()
            child.wait()
            return f"ended here: less than {floor / GIB:.1f} GiB of the machine was left"
        time.sleep(SAMPLE_EVERY_S)
    return ""


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


def _resident(pid: int) -> tuple[int, int]:
    """The highest resident set of a process so far, and what is resident now but for pages of files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {name: int(value.split()[0]) * 1024 for name, _, value in (x.partition(":") for x in lines)
             if name in ("VmHWM", "RssAnon", "RssShmem")}  # fmt: skip
    return found.get("VmHWM", 0), found.get("RssAnon", 0) + found.get("RssShmem", 0)


# --- telling ----------------------------------------------------------------------------------------


def _line(row: Row) -> str:
    return json.dumps(asdict(row))


def table(rows: Sequence[Row], arguments: argparse.Namespace) -> str:
    """The rows as Markdown."""
    parameters = rows[0].num_parameters / 1e6
    head = [
        f"{parameters:,.0f} million parameters, {arguments.method}, bf16, {NUM_WORKERS} workers, "
        f"batch 1 x {arguments.length} tokens a worker",
        "",
        "| ZeRO stage | offload | peak of each worker, GiB | all processes, GiB | bytes a parameter, workers "
        "| first step after, s | step, s | steps | |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        peaks = " and ".join(f"{peak:.2f}" for peak in row.worker_peaks_gib)
        step = f"{min(row.step_s):.1f}" if row.step_s else ""
        build = f"{row.build_s:.0f}" if row.build_s is not None else ""
        head.append(
            f"| {row.stage} | {row.offload} | {peaks} | {row.together_gib:.2f} | "
            f"{row.bytes_a_parameter:.1f} | {build} | {step} | {row.steps} | {row.ended} |"
        )
    return "\n".join(head)


if __name__ == "__main__":
    sys.exit(main())
