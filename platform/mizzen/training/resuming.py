"""Which run `mizzen train --resume` goes on with, and whether the job still is that run's.

A resumed run is a further attempt of the same run: its history, its log and its checkpoints go on. What would
make another training of it is refused, with the field. It starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mizzen.errors import JobError, NotFoundError
from mizzen.settings import Settings
from mizzen.store import runs
from mizzen.store.objects import Objects
from mizzen.store.runs import Place, RunRecord, Runs
from mizzen.training.checkpoints import FOLDER, Checkpoint, Checkpoints
from mizzen.training.job import TrainJob

FREE = ("scaling", "checkpointing", "faults", "cluster", "publish")
"""Sections that may differ: how many workers train, and what becomes of it all, but not what is trained."""
LONGER = ("training.steps", "training.epochs")
"""Fields that may grow."""


def chosen(
    job: TrainJob, run: str | None, place: Place, settings: Settings, ended: Callable[[str], bool]
) -> tuple[RunRecord, Checkpoint]:
    """The run to go on with and its last checkpoint; None: the newest of this job's name that can be.

    `ended` says whether nothing works on a run any more. Raises `JobError` or `NotFoundError`.
    """
    store = Runs(settings.store_url)
    record = store.show(run) if run is not None else _newest(job, store, place, settings)
    _check_can_be(record, place)
    last = _last(record.run_id, place, settings)
    if last is None:
        raise NotFoundError(
            f"run {record.run_id} has left no checkpoint to go on from", saw=f"it ran on {record.host}",
            remedy="Train anew, without --resume; checkpointing.every_steps writes them more often.",
        )  # fmt: skip
    if not ended(record.run_id):
        raise JobError(
            f"run {record.run_id} goes on still", saw=f"process {record.pid} on {record.host}",
            remedy=f"Wait for it, or stop it first: mizzen jobs cancel {record.run_id} --on {place}",
        )  # fmt: skip
    check_same(record.run_id, record.job, job.for_the_record())
    return record, last


def _newest(job: TrainJob, store: Runs, place: Place, settings: Settings) -> RunRecord:
    for record in store.list():
        same = record.job.get("name") == job.name and record.place == place and record.state != "succeeded"
        if same and _last(record.run_id, place, settings) is not None:
            return record
    raise NotFoundError(
        f"there is no run of {job.name} to go on with", saw=f"none of --on {place} that has a checkpoint",
        allowed="a run that has not succeeded", remedy="`mizzen runs list` names all of them.",
    )  # fmt: skip


def _check_can_be(record: RunRecord, place: Place) -> None:
    if record.place != place:
        raise JobError(
            f"run {record.run_id} cannot go on here", saw=f"it ran on {record.place}",
            remedy=f"Say where: --on {record.place}",
        )  # fmt: skip
    if record.state == "succeeded":
        raise JobError(
            f"run {record.run_id} has succeeded: there is nothing left to do",
            saw=f"{record.model}@{record.version}", remedy="Train anew, without --resume.",
        )  # fmt: skip


def _last(run: str, place: Place, settings: Settings) -> Checkpoint | None:
    if place != "local":
        return Checkpoints(Objects(settings.store_url), f"{runs.folder(run)}/{FOLDER}").last()
    folder = settings.runs_dir / run
    return Checkpoints(Objects(folder.as_uri()), FOLDER).last() if (folder / FOLDER).is_dir() else None


def check_same(run: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `JobError` if the job is not the one that `run` has trained; both as they are on record."""
    earlier, later = dict(_flat(before)), dict(_flat(now))
    for field in [*later, *(field for field in earlier if field not in later)]:
        was, value = earlier.get(field), later.get(field)
        # A field of which the record knows nothing, above it or below, a later Mizzen has added.
        known = _knows(earlier, field) and _knows(later, field)
        if not known or was == value or field.split(".")[0] in FREE:
            continue
        if field in LONGER and was is not None and value is not None and value >= was:
            continue
        raise JobError(
            f"run {run} cannot go on with another {field}", saw=repr(value),
            allowed=f"{was!r}, as the run has it" + (", or more" if field in LONGER and was else ""),
            field=field, remedy="Set it back, or train anew, without --resume.",
        )  # fmt: skip


def _knows(fields: Mapping[str, Any], field: str) -> bool:
    """Whether a field is there, or is nothing but its section, or a section that is given by its fields."""
    parts = field.split(".")
    above = {".".join(parts[:number]) for number in range(1, len(parts) + 1)}
    return any(name in above or name.startswith(f"{field}.") for name in fields)


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def check_data(checkpoint: Checkpoint | None, digest: str) -> None:
    """Raise `JobError` if the run trains on other data than the one that wrote `checkpoint`."""
    if checkpoint is not None and checkpoint.lead.data_digest != digest:
        raise JobError(
            "the run cannot go on: its data is not what it was", saw=f"digest {digest[:12]}",
            allowed=checkpoint.lead.data_digest[:12], field="data",
            remedy="Bring the tables back as they were, or train anew.",
        )  # fmt: skip
