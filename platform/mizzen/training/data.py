"""Prepares a job's data: fetches what it needs, has the workload clean and split it, and keeps the result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from mizzen import datasets
from mizzen.errors import DataError
from mizzen.settings import Settings
from mizzen.training.job import TrainJob
from mizzen.workloads.contract import DataReport, Prepared, Sources

REPORT = "report.json"


def prepare(job: TrainJob, sources: Sources, settings: Settings, say: Callable[[str], None]) -> Prepared:
    """The job's data, cleaned and split, in a folder named by its digest. Raises `DataError`."""
    workload = job.implementation
    fetch_samples(job, settings, say)
    settings.prepared_dir.mkdir(parents=True, exist_ok=True)
    say("preparing data")
    with tempfile.TemporaryDirectory(dir=settings.prepared_dir, prefix=".new-") as new:
        folder = Path(new) / "data"
        folder.mkdir()
        report = workload.prepare(job.data, sources, folder)
        if report.rows_kept == 0:
            raise DataError(
                "cleaning left no row", saw=f"dropped {dict(report.dropped)} of {report.rows_read}",
                remedy="Check the column names in the job's data section.", field="data",
            )  # fmt: skip
        (folder / REPORT).write_text(json.dumps(dataclasses.asdict(report), indent=1, sort_keys=True))
        digest = folder_digest(folder)
        final = settings.prepared_dir / digest
        if not final.exists():
            try:
                folder.rename(final)
            except OSError:
                if not final.exists():  # else another run made the same data in this moment
                    raise
    return opened(final)


def fetch_samples(job: TrainJob, settings: Settings, say: Callable[[str], None]) -> None:
    """Bring the base model that the job names, if it names one, to this machine."""
    for name in job.implementation.samples_needed(job.data, job.model):
        datasets.fetch(name, settings, say)


def opened(folder: Path) -> Prepared:
    """The prepared data in `folder`, which `prepare` made."""
    report = DataReport(**json.loads((folder / REPORT).read_text()))
    return Prepared(folder=folder, digest=folder.name, report=report)


def folder_digest(folder: Path) -> str:
    """sha256 over the names and bytes of all files below `folder`, in the order of their names."""
    total = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()
