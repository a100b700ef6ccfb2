"""A run's record in the store as a `jobs.Job`. It reads and writes no store."""

from __future__ import annotations

from datetime import UTC, datetime

from mizzen.cluster.jobs import Job, numbers
from mizzen.store.runs import RunRecord

SILENT_AFTER_S = 180.0
"""A run renews its record every half minute while it can reach the store."""


def job_of(record: RunRecord, *, gone: str = "", where: str = "") -> Job:
    """The job; `gone` says why it cannot run any more, if that is known though the record says otherwise."""
    lost = bool(gone) and not record.ended and _silent_s(record) > SILENT_AFTER_S
    # A version that the gate has refused is in the store as well.
    published = record.state == "succeeded"
    min_workers, workers = numbers(str((record.job.get("scaling") or {}).get("workers", "")))
    return Job(
        name=record.run_id,
        state="failed" if lost else record.state,
        reason=gone if lost else record.error or quiet(record),
        job=str(record.job.get("name", "")),
        workload=str(record.job.get("workload", "")),
        created_at=record.created_at,
        started_at=record.started_at,
        ended_at=record.updated_at if lost else record.ended_at,
        workers=workers,
        min_workers=min_workers,
        model=record.model if published else None,
        version=record.version if published else None,
        events=record.events,
        where=where or record.host,
    )


def quiet(record: RunRecord) -> str:
    """What to say about a run that should give signs of life and gives none."""
    silent_s = _silent_s(record)
    if record.ended or silent_s < SILENT_AFTER_S:
        return ""
    return f"nothing was heard of it for {silent_s / 60:.0f} minutes"


def _silent_s(record: RunRecord) -> float:
    return (datetime.now(UTC) - record.updated_at).total_seconds()
