"""Measures how much of a GPU's peak training reaches: Mizzen's loop through DeepSpeed beside plain PyTorch.

    python load_tests/training/gpu_mfu.py [--batch N] [--length N] [--steps N] [--rounds N] [--out FOLDER]
    python load_tests/training/gpu_mfu.py --device cpu --tiny     the same road at a toy's size: no figures

A Llama of 1.04 billion parameters in bf16 on random tokens, on one GPU: plain, with `torch.compile`, with
activation checkpointing, and with both. Model FLOPs utilisation is what forward and backward need
(`shapes.Shape.flops_a_step`; nothing that is computed again counts) over the time of a step and the peak of
the data sheet (`mizzen.training.peaks`). It runs with Mizzen's own Python, extra `gpu`.

The exit code is 0 if all budgets are met (`load_tests/budgets.yaml`), 1 if not, 2 if the run failed or there
is no GPU whose peak is known.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # what all load tests share

from shapes import SHAPES, ShapeName
from timed_workloads import FOLDER_VARIABLE, PREFIX, STEPS_VARIABLE, WARM_UP_STEPS, plugged_in

import report
import verdicts
from mizzen.training.peaks import peak_flops

HERE = Path(__file__).parent
LIMIT_S = 900.0
OURS, PLAIN = "mizzen", "pytorch"
SCRIPTS = {OURS: "mizzen_loop.py", PLAIN: "plain_loop.py"}
WORKLOAD = "training-gpu"
SLOWER_LOSS = 0.02
"""Relative difference of the last losses that two ways to reckon in bf16 may have."""


class NoGpu(Exception):
    """There is none, or its peak is not known."""


@dataclass(frozen=True)
class Variant:
    """A way to train."""

    name: str
    compile: bool
    checkpointing: bool


VARIANTS = (
    Variant("plain", False, False),
    Variant("compiled", True, False),
    Variant("checkpointed", False, True),
    Variant("compiled-checkpointed", True, True),
)


@dataclass(frozen=True)
class Setting:
    """What is trained where."""

    shape: ShapeName
    batch_size: int
    length: int
    num_steps: int
    device: str

    def job(self, variant: Variant) -> dict[str, Any]:
        """As a job file."""
        on_gpu = self.device == "cuda"
        return {
            "name": "gpu-mfu",
            "workload": PREFIX + "tokens",
            "model": {"shape": self.shape, "length": self.length},
            "training": {
                "steps": self.num_steps,
                "micro_batch_size": self.batch_size,
                "learning_rate": 1e-4,
                "precision": "bf16",
                "compile": variant.compile,
                "activation_checkpointing": variant.checkpointing,
            },
            "scaling": {"workers": 1, "gpus_per_worker": 1 if on_gpu else 0},
        }


@dataclass(frozen=True)
class Figures:
    """One side, one variant, one round."""

    step_ms: float
    tokens_per_s: float
    mfu: float | None
    """None on a device without a known peak."""
    peak_bytes: int
    """Of the GPU's memory; on a CPU the process's."""
    last_loss: float


def figures_of(rank: Mapping[str, Any], setting: Setting, peak: float | None) -> Figures:
    """What the clock says: the mean over the steps after the warm-up: the GPU was waited for at both ends."""
    began_s = rank["began_s"]
    step_s = (began_s[-1] - began_s[WARM_UP_STEPS]) / (len(began_s) - 1 - WARM_UP_STEPS)
    needed = SHAPES[setting.shape].flops_a_step(setting.batch_size, setting.length)
    return Figures(
        step_ms=step_s * 1e3,
        tokens_per_s=setting.batch_size * setting.length / step_s,
        mfu=None if peak is None else needed / step_s / peak,
        peak_bytes=rank["peak_bytes"],
        last_loss=rank["losses"][-1],
    )


def device_peak(device: str) -> tuple[str, float | None]:
    """The device's name and its peak in bf16. Raises `NoGpu`."""
    import torch

    if device == "cpu":
        return "CPU", None
    if not torch.cuda.is_available():
        raise NoGpu(
            "PyTorch can use no GPU here, and this measures one. Install Mizzen with the extra `gpu`"
            " on a machine with an NVIDIA GPU, or try the road alone: --device cpu --tiny"
        )
    name = torch.cuda.get_device_name()
    peak = peak_flops(name, "bf16")
    if peak is None:
        raise NoGpu(f"the peak of {name} in bf16 is not known: add it to mizzen.training.peaks")
    return name, peak


class Bench:
    """Runs both sides."""

    def __init__(
        self, setting: Setting, peak: float | None, scratch: Path, say: Callable[[str], None]
    ) -> None:
        self.setting, self.peak, self.scratch, self.say = setting, peak, scratch, say
        self.num_runs = 0

    def run(self, side: str, variant: Variant) -> Figures:
        """Train once."""
        clock = self.scratch / f"clock-{self.num_runs}"
        self.num_runs += 1
        clock.mkdir()
        setting = self.setting
        given = clock / "given.json"
        given.write_text(
            json.dumps(
                {"job": setting.job(variant), "num_steps": setting.num_steps, "device": setting.device}
            )
        )
        environ = {
            **os.environ,
            **plugged_in(self.scratch / "site"),
            "MIZZEN_HOME": str(self.scratch / "home"),
            "MIZZEN_STORE": f"file://{self.scratch / 'store'}",
            FOLDER_VARIABLE: str(clock),
            STEPS_VARIABLE: str(setting.num_steps),
        }
        if setting.device == "cpu":
            environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        log = clock / "log"
        with log.open("w") as stream:
            done = subprocess.run(
                [sys.executable, str(HERE / SCRIPTS[side]), str(given)],
                env=environ,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=LIMIT_S,
            )
        if done.returncode != 0:
            raise RuntimeError(f"{SCRIPTS[side]} has failed ({done.returncode}):\n{log.read_text()[-3000:]}")
        found = figures_of(json.loads((clock / "rank-0.json").read_text()), setting, self.peak)
        share = "" if found.mfu is None else f"  {found.mfu:.1%} of the peak"
        self.say(
            f"  {variant.name:22} {side:8} {found.step_ms:8.1f} ms a step  {found.tokens_per_s:9.0f} tokens/s"
            f"  {found.peak_bytes / 2**30:5.1f} GiB{share}"
        )
        return found


def same_training(ours: Figures, plain: Figures) -> None:
    """Raises `RuntimeError` if the two have not learnt the same."""
    if not abs(ours.last_loss - plain.last_loss) <= SLOWER_LOSS * plain.last_loss:
        raise RuntimeError(f"the last losses differ: {ours.last_loss} and {plain.last_loss}")


def summary(rounds: Sequence[Mapping[str, Mapping[str, Figures]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The median over rounds of each figure, by side and variant; `best` has the shortest step."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for side, variants in rounds[0].items():
        of_side: dict[str, dict[str, Any]] = {}
        for variant in variants:
            several = [asdict(one[side][variant]) for one in rounds]
            of_side[variant] = {
                name: None if several[0][name] is None else statistics.median(one[name] for one in several)
                for name in several[0]
            }
        of_side["best"] = min(of_side.values(), key=lambda figures: figures["step_ms"])
        result[side] = of_side
    return result


def markdown(facts: Mapping[str, Any], results: Mapping[str, Any], found: Sequence[verdicts.Verdict]) -> str:
    """The tables."""
    lines = [
        f"On {facts['device']}; {facts['setting']}.",
        report.heading(facts),
        "",
        "| variant | side | step, ms | tokens/s | model FLOPs utilisation | peak memory, GiB |",
        "|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        for side, variants in results.items():
            if variant.name in variants:
                f = variants[variant.name]
                share = "no peak known" if f["mfu"] is None else f"{f['mfu']:.1%}"
                lines.append(
                    f"| {variant.name} | {side} | {f['step_ms']:.1f} | {f['tokens_per_s']:.0f} | {share} |"
                    f" {f['peak_bytes'] / 2**30:.1f} |"
                )
    return "\n".join([*lines, "", *(report.judged(found) if found else [])]) + "\n"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a toy's size, to try the road: no figures")
    parser.add_argument("--batch", type=int, default=8, help="examples of a step (8)")
    parser.add_argument("--length", type=int, default=2048, help="tokens of an example (2048)")
    parser.add_argument(
        "--steps", type=int, default=40, help=f"of each training, {WARM_UP_STEPS} to warm up (40)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="how often each is measured (2)")
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--variants", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results", help="where the tables go")
    found = parser.parse_args(arguments)
    if found.device == "cpu" and not found.tiny:
        parser.error("a CPU needs days for this; --device cpu goes with --tiny")
    if found.steps < WARM_UP_STEPS + 2 or found.rounds < 1 or found.batch < 1 or found.length < 2:
        parser.error(f"at least {WARM_UP_STEPS + 2} steps, 1 round, 1 example and 2 tokens")
    return found


def setting_of(arguments: argparse.Namespace) -> Setting:
    """What the command line asks for."""
    if arguments.tiny:
        return Setting("tiny", 2, 32, WARM_UP_STEPS + 4, arguments.device)
    return Setting("1b", arguments.batch, arguments.length, arguments.steps, arguments.device)


def main() -> int:
    """The exit code."""
    arguments = parsed()
    started_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started_s:5.0f} s  {text}", flush=True)

    try:
        return 0 if _run(arguments, say) else 1
    except (NoGpu, RuntimeError, OSError, subprocess.TimeoutExpired) as cause:
        print(f"not measured: {cause}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace, say: Callable[[str], None]) -> bool:
    name, peak = device_peak(arguments.device)
    setting = setting_of(arguments)
    rounds: list[dict[str, dict[str, Figures]]] = []
    with tempfile.TemporaryDirectory(prefix="mizzen-mfu-") as folder:
        bench = Bench(setting, peak, Path(folder), say)
        for number in range(1 if arguments.tiny else arguments.rounds):
            say(f"round {number + 1}, {name}")
            rounds.append({OURS: {}, PLAIN: {}})
            for variant in VARIANTS:
                if variant.name in arguments.variants:
                    order = (PLAIN, OURS) if number % 2 == 0 else (OURS, PLAIN)
                    for side in order:
                        rounds[-1][side][variant.name] = bench.run(side, variant)
                    same_training(rounds[-1][OURS][variant.name], rounds[-1][PLAIN][variant.name])
    results = summary(rounds)
    budgets = [one for one in verdicts.read(HERE.parent / "budgets.yaml") if one.workload == WORKLOAD]
    # A toy reaches nothing: it only shows that the road is there.
    found = [] if arguments.tiny else verdicts.judge(budgets, {WORKLOAD: results})
    facts = {**report.machine(), "device": name, "setting": str(setting)}
    text = markdown(facts, results, found)
    print(text)
    if not arguments.tiny:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "training-gpu.md").write_text(text)
        content = {"machine": facts, "results": results, "verdicts": [asdict(one) for one in found]}
        (arguments.out / "training-gpu.json").write_text(json.dumps(content, indent=1))
    return all(verdict.met for verdict in found)


if __name__ == "__main__":
    sys.exit(main())
