"""Checks exported models of the store on a GPU: the same answers under onnxruntime-gpu as PyTorch gives?

    python load_tests/training/gpu_exports.py [NAME[@ALIAS or @VERSION]...] [--out FOLDER]
    python load_tests/training/gpu_exports.py --device cpu     the same road without a GPU: keeps no figures

Without names: every model of the store that has an alias `production`. For each version the model is built
from the weights that were published with it, and the gate's own probes and tolerance decide
(`mizzen.store.gate`); a quantised one is judged by its workload's quality too. Then a probe is asked again
and again, on the GPU and on the CPU. It runs with Mizzen's own Python, extra `gpu`, where the models were
trained: it reads the prepared data of their runs, or prepares it anew.

The exit code is 0 if all passed, 1 if not, 2 if there is no GPU or a model cannot be checked.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # what all load tests share

from pydantic_core import to_jsonable_python

import report
from mizzen import settings
from mizzen.errors import MizzenError, NotFoundError
from mizzen.settings import Settings
from mizzen.store.gate import judge
from mizzen.store.manifest import Manifest
from mizzen.store.runtime import OnnxRuntime, cuda_devices
from mizzen.store.store import ModelStore
from mizzen.training import data, launch
from mizzen.training import job as jobs
from mizzen.training.job import TrainJob
from mizzen.workloads import registry
from mizzen.workloads.contract import Predict, Prepared, Probe

HERE = Path(__file__).parent
ALIAS = "production"
WEIGHTS = "weights.safetensors"
WARM_UP, TIMES = 3, 20


class NoGpu(Exception):
    """There is none."""


@dataclass(frozen=True)
class Checked:
    """What was found of one version."""

    model: str
    precision: str
    provider: str
    passed: bool
    max_abs: float | None
    """The largest difference of all probes to PyTorch; None if only quality is judged."""
    tolerance: float | None
    relative_loss: float | None
    """Of the workload's quality, of a quantised one."""
    probe: str
    gpu_ms: float | None
    cpu_ms: float
    """The median of asking the largest probe."""


def demand(device: str) -> None:
    """Raises `NoGpu` if `device` is cuda and there is none, with what to do."""
    if device == "cuda" and cuda_devices() == 0:
        raise NoGpu(
            "there is no CUDA device here, and this checks models on one. Try the road alone: --device cpu"
        )


def chosen(store: ModelStore, names: Sequence[str]) -> list[Manifest]:
    """The versions to check. Raises `NotFoundError`."""
    if names:
        return [store.resolve(name if "@" in name else f"{name}@{ALIAS}") for name in names]
    found = [name for name in store.models() if ALIAS in store.aliases(name)]
    if not found:
        raise NotFoundError(
            "no model of the store has this alias", saw=ALIAS, remedy="Name versions, or train one."
        )
    return [store.resolve(f"{name}@{ALIAS}") for name in found]


def job_of(manifest: Manifest) -> TrainJob:
    """The job that a version was made by. Raises `JobError`."""
    written = dict(manifest.lineage.job)
    workload = registry.get(written["workload"])
    # Written out in full, a section may name what excludes each other: what is as by default is left out.
    for section, fields in (("data", workload.data_config), ("model", workload.model_config)):
        defaults = {
            name: to_jsonable_python(field.get_default(call_default_factory=True))
            for name, field in fields.model_fields.items()
            if not field.is_required()
        }
        written[section] = {
            name: value
            for name, value in written[section].items()
            if name not in defaults or value != defaults[name]
        }
    return jobs.parse(written, f"the job of {manifest.name}@{manifest.version}")


def prepared_of(job: TrainJob, manifest: Manifest, here: Settings) -> Prepared:
    """The data of the version's run: as it lies here, or prepared anew. Raises `NotFoundError`."""
    digest = manifest.lineage.data_digest
    if (here.prepared_dir / digest).is_dir():
        return data.opened(here.prepared_dir / digest)
    with launch.ray_for([job], here):
        prepared = launch.prepare(job, here, print)
    if prepared.digest != digest:
        raise NotFoundError(
            f"the data of {manifest.name}@{manifest.version} is not there any more", saw=prepared.digest,
            allowed=digest, remedy="Train it anew.",
        )  # fmt: skip
    return prepared


def trained(job: TrainJob, prepared: Prepared, folder: Path) -> Any:
    """The model with the weights that were published with it. Raises `NotFoundError`."""
    from safetensors.torch import load_model

    if not (folder / WEIGHTS).exists():
        raise NotFoundError(
            "the version was published without its weights", saw=str(folder),
            remedy="Train with publish.weights: true.",
        )  # fmt: skip
    workload = job.implementation
    model = workload.build_model(job.model, prepared, dropout=0.0)
    model = workload.finish_model(model.float()).eval()
    load_model(model, str(folder / WEIGHTS))
    return model


def asked_ms(predict: Predict, probe: Probe) -> float:
    """The median time of an answer."""
    took_ms = []
    for number in range(WARM_UP + TIMES):
        started_s = time.perf_counter()
        predict(probe.inputs)
        if number >= WARM_UP:
            took_ms.append((time.perf_counter() - started_s) * 1e3)
    return statistics.median(took_ms)


def check(store: ModelStore, manifest: Manifest, device: str, here: Settings) -> Checked:
    """Hold one version against PyTorch."""
    job = job_of(manifest)
    workload = job.implementation
    prepared = prepared_of(job, manifest, here)
    folder = store.fetch(manifest, here.cache_dir)
    model = trained(job, prepared, folder)
    runtime, on_cpu = OnnxRuntime(device), OnnxRuntime("cpu")
    gate = judge(workload, model, job.model, prepared, folder, job.precision, runtime)
    probes = list(workload.probes(job.model, prepared))
    largest = max(probes, key=lambda probe: sum(array.size for array in probe.inputs.values()))
    cpu_ms = asked_ms(workload.open(folder, on_cpu), largest)
    gpu_ms = asked_ms(workload.open(folder, runtime), largest) if device == "cuda" else None
    return Checked(
        model=f"{manifest.name}@{manifest.version}",
        precision=job.precision,
        provider=gate.provider,
        passed=gate.passed,
        max_abs=max((result.max_abs for result in gate.parity), default=None),
        tolerance=next((result.tolerance for result in gate.parity), None),
        relative_loss=None if gate.quality is None else gate.quality.relative_loss,
        probe=largest.name,
        gpu_ms=gpu_ms,
        cpu_ms=cpu_ms,
    )


def markdown(facts: dict[str, Any], found: Sequence[Checked]) -> str:
    """The table."""
    lines = [
        report.heading(facts),
        "",
        "| model | precision | provider | largest difference to PyTorch | tolerance | quality lost | probe |"
        " GPU, ms | CPU, ms | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| {one.model} | {one.precision} | {one.provider} | {_said(one.max_abs)} |"
            f" {_said(one.tolerance)} | {_said(one.relative_loss)} | {one.probe} | {_said(one.gpu_ms)} |"
            f" {_said(one.cpu_ms)} | {'passed' if one.passed else '**refused**'} |"
        )
    return "\n".join(lines) + "\n"


def _said(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME[@VERSION]", help=f"default: all with @{ALIAS}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results", help="where the tables go")
    return parser.parse_args(arguments)


def main(say: Callable[[str], None] = print) -> int:
    """The exit code."""
    arguments = parsed()
    try:
        demand(arguments.device)
        here = settings.current()
        store = ModelStore(here.store_url)
        found = [check(store, one, arguments.device, here) for one in chosen(store, arguments.names)]
    except (NoGpu, MizzenError) as cause:
        print(f"not checked: {cause}", file=sys.stderr)
        return 2
    facts = report.machine()
    text = markdown(facts, found)
    say(text)
    if arguments.device == "cuda":
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "exports-gpu.md").write_text(text)
        content = {"machine": facts, "models": [asdict(one) for one in found]}
        (arguments.out / "exports-gpu.json").write_text(json.dumps(content, indent=1))
    return 0 if all(one.passed for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
