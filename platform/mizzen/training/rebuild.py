"""A job without training steps, run in this process: prepare, export, gate, publish, if anything has changed.

It starts no Ray: what it prepares must not be tables. `pipeline` runs the same job anywhere, to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from mizzen import recording
from mizzen.errors import InputError, JobError
from mizzen.settings import Settings
from mizzen.store.manifest import Manifest
from mizzen.store.store import ModelStore
from mizzen.training import launch, pipeline
from mizzen.training.job import TrainJob
from mizzen.training.journal import Audience, kept
from mizzen.training.result import run_id
from mizzen.workloads.contract import Prepared


@dataclass(frozen=True)
class Rebuilt:
    """The version that the job's data is in now."""

    manifest: Manifest
    prepared: Prepared
    is_new: bool
    """False if the newest version had been made of the same data by the same code already."""


def latest(store: ModelStore, job: TrainJob) -> Manifest | None:
    """The newest version of the job's model. Raises `InputError` if it is of another workload."""
    versions = store.versions(job.model_name)
    if not versions:
        return None
    manifest = store.manifest(job.model_name, versions[-1])
    if manifest.workload != job.workload:
        raise InputError(
            f"the store has a model of this name, which is none of the workload {job.workload!r}",
            saw=f"{manifest.name}@{manifest.version}, {manifest.workload}",
            remedy="Choose another name.",
            field="name",
        )
    return manifest


def rebuild(job: TrainJob, settings: Settings, say: Callable[[str], None]) -> Rebuilt:
    """Publish the job's model anew unless its newest version is the same; the alias points at it in the end.

    Raises `GateError` with the report, `DataError`, `StoreError`.
    """
    if job.training.steps != 0:
        raise JobError("this job trains", allowed="training: {steps: 0}", field="training.steps")
    recording.begin_beside_others()
    store = ModelStore(settings.store_url)
    with kept(job, run_id(job), "local", settings, Audience(say, lambda _: None)) as journal:
        before = latest(store, job)
        prepared = launch.prepare(job, settings, journal.say)
        is_new = before is None or not _same(before, job, prepared)
        if before is not None and not is_new:
            manifest = before
            _point(store, manifest, job, journal.record.run_id)
        else:
            run = journal.record.run_id
            result = launch.train(job, prepared, settings, journal.watch, run=run, say=journal.log)
            manifest = pipeline.publish(
                job, prepared, result, store, settings, journal.say, journal.published, journal.event
            )
        journal.end("succeeded", model=manifest.name, version=manifest.version)
    return Rebuilt(manifest, prepared, is_new)


def _same(before: Manifest, job: TrainJob, prepared: Prepared) -> bool:
    """Whether `before` passed its gate, and the job would make it again."""
    lineage = before.lineage
    return (
        before.gate.passed
        and before.precision == job.precision
        and lineage.data_digest == prepared.digest
        and lineage.job["model"] == job.for_the_record()["model"]
        and (lineage.code_version, lineage.libraries) == (version("mizzen"), pipeline.libraries())
    )


def _point(store: ModelStore, manifest: Manifest, job: TrainJob, run: str) -> None:
    alias = job.publish.alias
    if alias and getattr(store.aliases(manifest.name).get(alias), "version", None) != manifest.version:
        store.set_alias(manifest.name, manifest.version, alias, reason=f"run {run}")
