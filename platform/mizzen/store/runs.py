"""Training runs in the store: what became of them, and what they said, also when their machines are gone.

    runs/RUN_ID/record.json          how the run stands; written anew whenever that changes
    runs/RUN_ID/log/00000001.txt     the log in parts: only the last one is written anew
    runs/RUN_ID/history/00000001.jsonl    what it measured, a point a line, in parts as well
    runs/RUN_ID/prepared/...         prepared data on its way to other machines
    runs/RUN_ID/checkpoints/...      Ray Train's, where workers are on other machines

A record has one writer, the process that drives the run. It does not run, watch or stop anything.
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from mizzen.errors import InputError, IntegrityError, NotFoundError
from mizzen.store.history import Point, one_curve
from mizzen.store.manifest import Record
from mizzen.store.objects import AbsentError, Objects
from mizzen.store.parts import PartsReader, PartsWriter

log = logging.getLogger(__name__)

FOLDER = "runs"
RUN_ID_PATTERN = r"^[a-z]([a-z0-9-]{0,45}[a-z0-9])?$"
"""DNS-1035 and at most 47 characters: it is also the name of a RayJob."""
AT_ONCE = 16
"""Records that are read at the same time."""

Place = Literal["local", "ray", "kubernetes"]
State = Literal["waiting", "running", "succeeded", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("succeeded", "failed", "cancelled")
EventKind = Literal[
    "began", "worker_failed", "node_lost", "store_away", "store_back", "nan", "skipped", "rolled_back",
    "stalled", "notice", "resumed", "resized", "checkpoint_refused",
]  # fmt: skip
MAX_EVENTS = 200
"""The last so many are kept."""


class Event(Record):
    """Something that happened to a run, besides its steps. Fields of a later Mizzen are passed over."""

    model_config = ConfigDict(extra="ignore")

    time: datetime
    kind: str
    """An `EventKind`, or one that a later Mizzen has added."""
    text: str
    """One sentence, for people."""


class RunRecord(Record):
    """How a run stands. Fields that a later Mizzen has added are passed over."""

    model_config = ConfigDict(extra="ignore")

    run_id: str
    place: Place
    state: State
    job: dict[str, Any] = Field(default_factory=dict)
    """The job file, written out in full; empty if it could not be read."""
    attempt: int = 1
    """Counts up when the whole run is tried again under its id."""
    created_at: datetime
    started_at: datetime | None = None
    """Of this attempt."""
    updated_at: datetime
    """A run that goes on renews it, whether anything has happened or not."""
    ended_at: datetime | None = None
    host: str = ""
    pid: int | None = None
    process_started_s: float | None = None
    """Seconds since 1970; tells the process from a later one with the same number."""
    step: int | None = None
    num_steps: int | None = None
    start_up_s: dict[str, float] = Field(default_factory=dict)
    """What passed from the command to the end of the first step, by part: see `training.start_up`."""
    initial_metrics: dict[str, float] = Field(default_factory=dict)
    """Validation before training; a later attempt that goes on from a checkpoint has them from here."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """The last validation."""
    error: str | None = None
    """Why it failed or was cancelled, in a sentence."""
    traceback: tuple[str, ...] = ()
    """The lines of the traceback that matter."""
    model: str | None = None
    version: int | None = None
    events: tuple[Event, ...] = ()
    """What happened to it and when, over all its attempts: the last `MAX_EVENTS`."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of this attempt."""
        return self.state in ENDED


class Runs:
    """All runs of a store. Every method raises `StoreError` if the store cannot be reached."""

    def __init__(self, url: str) -> None:
        self.objects = Objects(url)

    def list(self) -> list[RunRecord]:
        """Every run, the newest first; one that has no record yet, or a damaged one, is left out."""
        names = [name for name in self.objects.folders(FOLDER) if re.fullmatch(RUN_ID_PATTERN, name)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = [record for record in pool.map(self._readable, names) if record is not None]
        return sorted(found, key=lambda record: record.created_at, reverse=True)

    def find(self, run_id: str) -> RunRecord | None:
        """How a run stands, or None if there is none. Raises `IntegrityError` if it cannot be understood."""
        where = f"{folder(run_id)}/record.json"
        try:
            return RunRecord.model_validate_json(self.objects.read(where))
        except AbsentError:
            return None
        except ValidationError as cause:
            raise IntegrityError(
                f"{self.objects.url}/{where} is no record of a run",
                saw=f"{cause.error_count()} wrong fields",
                remedy="Remove this object from the store.",
            ) from None

    def _readable(self, run_id: str) -> RunRecord | None:
        try:
            return self.find(run_id)
        except IntegrityError as cause:
            log.warning("%s", cause)
            return None

    def show(self, run_id: str) -> RunRecord:
        """How a run stands. Raises `NotFoundError`."""
        record = self.find(run_id)
        if record is None:
            raise NotFoundError(
                f"{self.objects.url} has no run {run_id!r}",
                remedy="`mizzen jobs list` names those that it has; MIZZEN_STORE says which store is asked.",
            )
        return record

    def write(self, record: RunRecord) -> None:
        """Write how a run stands."""
        self.objects.write(f"{folder(record.run_id)}/record.json", record.model_dump_json(indent=1).encode())

    def delete(self, run_id: str) -> None:
        """Remove a run with its log and checkpoints; what it has published stays."""
        self.objects.delete_folder(folder(run_id))

    # --- what grows -------------------------------------------------------------------------------

    def log(self, run_id: str) -> PartsReader:
        """What a run has said."""
        return PartsReader(self.objects, f"{folder(run_id)}/log", "txt")

    def writer(self, run_id: str) -> PartsWriter:
        """Goes on with a run's log after what earlier attempts have said."""
        return PartsWriter(self.objects, f"{folder(run_id)}/log", "txt")

    def history(self, run_id: str) -> tuple[Point, ...]:
        """What a run has measured so far, over all its attempts, as one curve.

        Raises `IntegrityError` if a point cannot be understood.
        """
        where = f"{folder(run_id)}/history"
        lines = PartsReader(self.objects, where, "jsonl").new_lines()
        try:
            return tuple(one_curve(Point.model_validate_json(line) for line in lines))
        except ValidationError:
            raise IntegrityError(
                f"{self.objects.url}/{where} holds a line that is no point of a history",
                remedy="Remove this folder from the store: the run's record and its model stay.",
            ) from None

    def history_writer(self, run_id: str) -> PartsWriter:
        """Goes on with a run's history after what earlier attempts have measured."""
        return PartsWriter(self.objects, f"{folder(run_id)}/history", "jsonl")


def folder(run_id: str) -> str:
    """Where a run lies in the store. Raises `InputError` for what cannot be a run's id."""
    if not re.fullmatch(RUN_ID_PATTERN, run_id):
        raise InputError(
            "a run's id is wrong", saw=repr(run_id),
            allowed="1 to 47 lower-case letters, digits and dashes, a letter first, no dash last",
            remedy="`mizzen jobs list` names the runs.",
        )  # fmt: skip
    return f"{FOLDER}/{run_id}"
