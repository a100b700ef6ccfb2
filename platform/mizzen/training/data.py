"""Prepares a job's data: fetches what it needs, has the workload clean and split it, and keeps the result.

Where workers are on other machines, prepared data reaches them through the store: `share` there, `received`
here. It does not read tables: `tables` does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from mizzen import datasets
from mizzen.errors import DataError, IntegrityError, TrainingError
from mizzen.settings import Settings
from mizzen.store import runs
from mizzen.store.objects import Objects
from mizzen.training.job import TrainJob
from mizzen.training.tables import RaySources
from mizzen.workloads.contract import DataReport, Prepared

REPORT = "report.json"


def prepare(job: TrainJob, sources: RaySources, settings: Settings, say: Callable[[str], None]) -> Prepared:
    """The job's data, cleaned and split, in a folder named by its digest. Raises `DataError`."""
    workload = job.implementation
    fetch_samples(job, settings, say)
    settings.prepared_dir.mkdir(parents=True, exist_ok=True)
    say("preparing data")
    with tempfile.TemporaryDirectory(dir=settings.prepared_dir, prefix=".new-") as new:
        folder = Path(new) / "data"
        folder.mkdir()
        with sources.explained():
            report = workload.prepare(job.data, sources, folder)
        if report.rows_kept == 0:
            raise DataError(
                "cleaning left no row", saw=f"dropped {dict(report.dropped)} of {report.rows_read}",
                remedy="Check the column names in the job's data section.", field="data",
            )  # fmt: skip
        content = dataclasses.asdict(report)
        del content["work"]  # or the same data would have another digest when less was to do
        (folder / REPORT).write_text(json.dumps(content, indent=1, sort_keys=True))
        digest = folder_digest(folder)
        final = settings.prepared_dir / digest
        if not final.exists():
            try:
                folder.rename(final)
            except OSError:
                if not final.exists():  # else another run made the same data in this moment
                    raise
    return dataclasses.replace(opened(final), report=report)


def fetch_samples(job: TrainJob, settings: Settings, say: Callable[[str], None]) -> None:
    """Bring the base model that the job names, if it names one, to this machine."""
    for name in job.implementation.samples_needed(job.data, job.model):
        datasets.fetch(name, settings, say)


def opened(folder: Path) -> Prepared:
    """The prepared data in `folder`, which `prepare` made."""
    report = DataReport(**json.loads((folder / REPORT).read_text()))
    return Prepared(folder=folder, digest=folder.name, report=report)


def share(prepared: Prepared, run_id: str, settings: Settings) -> None:
    """Put prepared data into the run's folder of the store."""
    objects = Objects(settings.store_url)
    for file in sorted(p for p in prepared.folder.rglob("*") if p.is_file()):
        objects.send(f"{_shared(run_id)}/{file.relative_to(prepared.folder).as_posix()}", file)


def unshare(run_id: str, settings: Settings) -> None:
    """Remove what `share` has put into the store; nodes keep their copies."""
    Objects(settings.store_url).delete_folder(_shared(run_id))


def received(run_id: str, digest: str, settings: Settings) -> Prepared:
    """The prepared data with this digest on this machine, fetched by the first process that wants it.

    Raises `TrainingError` if it is not in the store that this machine sees, `IntegrityError` if it is not
    what was shared.
    """
    final = settings.prepared_dir / digest
    with datasets.one_process(settings.prepared_dir / f".{digest}.lock"):
        if not final.exists():
            _fetch(run_id, final, settings)
    return opened(final)


def _fetch(run_id: str, final: Path, settings: Settings) -> None:
    objects = Objects(settings.store_url)
    names = objects.sizes_bytes(_shared(run_id))
    if not names:
        raise TrainingError(
            f"the run's prepared data is not in the store that {socket.gethostname()} sees", saw=objects.url,
            remedy="Set MIZZEN_STORE to a store that all machines of the cluster reach: s3://..., gs://..., "
            "az://..., or file:// below a volume that each has mounted at the same place.",
        )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".new-") as new:
        folder = Path(new) / "data"
        for name, size_bytes in names.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                for chunk in objects.chunks(f"{_shared(run_id)}/{name}", size_bytes):
                    stream.write(chunk)
        digest = folder_digest(folder)
        if digest != final.name:
            raise IntegrityError(
                "the prepared data in the store is not what the run has put there", saw=digest,
                allowed=final.name, remedy="Start the run again.",
            )  # fmt: skip
        folder.rename(final)


def _shared(run_id: str) -> str:
    return f"{runs.folder(run_id)}/prepared"


def folder_digest(folder: Path) -> str:
    """sha256 over the names and bytes of all files below `folder`, in the order of their names."""
    total = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()
