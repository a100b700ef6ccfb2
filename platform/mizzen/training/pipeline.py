"""The whole road of a job: prepare, train, export, gate, publish.

It does not serve. What it decides about a failed gate: the version is kept in the store with its report,
so that people can look at it, but no alias is moved to it and serving refuses it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from mizzen import tracing
from mizzen.errors import GateError
from mizzen.settings import Settings
from mizzen.store import measured
from mizzen.store.manifest import Candidate, Draft, Lineage, Manifest
from mizzen.store.runs import EventKind, Place
from mizzen.store.store import ModelStore
from mizzen.training import engine, launch, sharded, start_up, telemetry
from mizzen.training.job import TrainJob
from mizzen.training.journal import Audience, kept
from mizzen.training.mailbox import Notice
from mizzen.training.patience import patiently
from mizzen.training.result import TrainResult, run_id
from mizzen.training.run_series import RunSeries
from mizzen.training.sigterm import heeded
from mizzen.workloads.contract import Prepared

if TYPE_CHECKING:
    import torch

LIBRARIES = (
    "torch", "ray", "deepspeed", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu",
    "onnxruntime-genai", "numpy", "tokenizers", "usearch",
)  # fmt: skip
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Published:
    """A job's outcome."""

    job: TrainJob
    prepared: Prepared
    result: TrainResult
    manifest: Manifest

    def summary(self) -> dict[str, Any]:
        """For scripts."""
        m = self.manifest
        return {
            "model": m.name,
            "version": m.version,
            "digest": m.digest,
            "alias": self.job.publish.alias,
            "run_id": self.result.run_id,
            "stopped_because": self.result.reason,
            "steps": self.result.num_steps,
            "data": dataclasses.asdict(self.prepared.report),
            "metrics": {
                "validation_before": m.lineage.initial_metrics,
                "validation": m.lineage.metrics,
                "test": m.quality,
                "baselines": m.baselines,
            },
            "gate": m.gate.model_dump(mode="json"),
        }


def run(
    job: TrainJob,
    settings: Settings,
    *,
    say: Callable[[str], None],
    watch: launch.Watch,
    log: Callable[[str], None] = lambda _: None,
    run: str | None = None,
    place: Place = "local",
) -> Published:
    """Train `job` and publish the result; the run's record and log are in the store all the while.

    `say` gets what people want to see, `log` each line of the log. `run` is its id if it has one already.
    Raises `GateError` with the report if the export differs too much, `TrainingError`, `DataError`.
    """
    start_up.begin(psutil.Process().create_time())
    engine.choose_accelerator(job)
    run = run or run_id(job)
    series = RunSeries(job.name, run)
    measured.expect(job.model_name)
    store = ModelStore(settings.store_url)
    with (
        telemetry.driver(job, run, settings),
        series.outcome(),
        kept(job, run, place, settings, Audience(say, watch, log, series.event)) as journal,
    ):
        series.attempt(journal.record.attempt)
        journal.say(f"run {journal.record.run_id}")
        start_up.done("python")
        with launch.ray_for([job], settings):
            start_up.done("ray")
            journal.end_on_sigterm()  # Ray has put its own handler there
            with tracing.span("prepare"):
                prepared = launch.prepare(job, settings, journal.say)
            start_up.done("data")
            journal.say(f"training {job.name} on {job.scaling} worker(s)")
            notice = Notice()
            with tracing.span("train"), heeded(journal, notice, job.faults.notice_s):
                result = launch.train(
                    job,
                    prepared,
                    settings,
                    journal.watch,
                    run=run,
                    say=journal.log,
                    began=series.workers_began,
                    event=journal.event,
                    notice=notice,
                    started_up=journal.started_up,
                )
        if not result.initial_metrics:  # it went on from a checkpoint of an earlier attempt
            result = dataclasses.replace(result, initial_metrics=journal.record.initial_metrics)
        manifest = publish(
            job, prepared, result, store, settings, journal.say, journal.published, journal.event
        )
        journal.log(f"published {manifest.name}@{manifest.version}")
        journal.end("succeeded")
    return Published(job, prepared, result, manifest)


def publish(
    job: TrainJob,
    prepared: Prepared,
    result: TrainResult,
    store: ModelStore,
    settings: Settings,
    say: Callable[[str], None],
    published: Callable[[Manifest], None],
    event: Callable[[EventKind, str], None] = launch.untold,
) -> Manifest:
    """Export, gate and publish a run's best checkpoint. Raises `GateError`.

    `published` gets the version that is in the store now, also if its gate has not passed; `event` hears of a
    store that is away, which is tried again for `patience.FOR_S`.
    """
    # Here: ONNX and PyTorch are most of what there is to import, and workers need not wait for that.
    from mizzen.store import distribution
    from mizzen.store.export import OnnxExporter
    from mizzen.store.gate import evaluate_model, make_candidate
    from mizzen.store.runtime import OnnxRuntime

    workload, batch_size = job.implementation, job.training.micro_batch_size
    model = trained_model(job, prepared, result)
    quality: dict[str, float] = {}
    baselines: dict[str, dict[str, float]] = {}
    # What is published as it is need not have anything held out; the gate then stands on parity alone.
    if job.training.steps != 0 or _has_rows(workload.evaluation_data(job.model, prepared, "test")):
        say("evaluating on the test split")
        with tracing.part("evaluation", split="test"):
            quality = evaluate_model(workload, model, job.model, prepared, "test", batch_size=batch_size)
            baselines = workload.baselines(job.model, prepared, "test")
    with tempfile.TemporaryDirectory(dir=result.folder, prefix="export-") as folder:
        say(f"exporting to ONNX ({job.precision}) and comparing with PyTorch")
        candidate = make_candidate(
            workload,
            model,
            job.model,
            prepared,
            Path(folder),
            job.precision,
            OnnxExporter(settings.cache_dir / "export"),
            OnnxRuntime(),
            batch_size=batch_size,
        )
        if job.publish.weights:
            _save_weights(model, candidate.folder / WEIGHTS)
        distribution.write(workload.input_features(job.model, prepared), candidate.folder)
        draft = _draft(job, prepared, result, candidate, quality, baselines)
        with tracing.part("publish", model=draft.name):
            manifest = patiently("publishing", lambda: _published(store, draft, candidate.folder), event)
    published(manifest)
    if not manifest.gate.passed:
        raise GateError(
            f"the gate refused {manifest.name}@{manifest.version}; no alias was moved\n"
            + "\n".join(manifest.gate.lines()),
            remedy=f"See `mizzen models show {manifest.name}@{manifest.version}`; publish.quantize: fp32 is "
            "the closest to the trained model.",
        )
    if job.publish.alias:
        alias, reason = job.publish.alias, f"run {result.run_id}"
        patiently(
            f"moving {alias}",
            lambda: store.set_alias(manifest.name, manifest.version, alias, reason=reason),
            event,
        )
    return manifest


def _published(store: ModelStore, draft: Draft, folder: Path) -> Manifest:
    """The version of this run; an earlier try may have put it there, and not heard that it had.

    An earlier attempt at the run may have published another result: that is another version.
    """
    wanted = draft.lineage.model_dump(mode="json"), dict(draft.quality)
    for number in store.versions(draft.name)[-1:]:
        last = store.manifest(draft.name, number)
        if (last.lineage.model_dump(mode="json"), dict(last.quality)) == wanted:
            return last
    return store.publish(draft, folder)


def _has_rows(data: Any) -> bool:
    return len(data) > 0


def trained_model(job: TrainJob, prepared: Prepared, result: TrainResult) -> torch.nn.Module:
    """The model with the run's best weights, on the CPU, ready for export."""
    model = sharded.trained(job, prepared, result.checkpoint)
    return job.implementation.finish_model(model).eval()


def _draft(
    job: TrainJob,
    prepared: Prepared,
    result: TrainResult,
    candidate: Candidate,
    quality: Mapping[str, float],
    baselines: Mapping[str, Mapping[str, float]],
) -> Draft:
    lineage = Lineage(
        job=job.for_the_record(),
        data_digest=prepared.digest,
        data_report=dataclasses.asdict(prepared.report),
        run_id=result.run_id,
        code_version=version("mizzen"),
        world_size=result.world_size,
        deepspeed=dict(result.deepspeed),
        libraries=libraries(),
        initial_metrics=dict(result.initial_metrics),
        metrics=dict(result.metrics),
        extra=job.implementation.extra_report(job.model, prepared),
    )
    return Draft(
        name=job.model_name,
        workload=job.workload,
        precision=candidate.precision,
        quality=dict(quality),
        baselines={name: dict(metrics) for name, metrics in baselines.items()},
        gate=candidate.gate,
        lineage=lineage,
    )


def libraries() -> dict[str, str]:
    """Versions of the libraries that make a model, of those that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _save_weights(model: torch.nn.Module, file: Path) -> None:
    from safetensors.torch import save_model

    save_model(model, str(file))
