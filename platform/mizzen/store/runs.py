"""Training runs in the store: what became of them, and what they said, also when their machines are gone.

    runs/RUN_ID/record.json          how the run stands; written anew whenever that changes
    runs/RUN_ID/log/00000001.txt     the log in parts: only the last one is written anew
    runs/RUN_ID/prepared/...         prepared data on its way to other machines
    runs/RUN_ID/checkpoints/...      Ray Train's, where workers are on other machines

A record has one writer, the process that drives the run. It does not run, watch or stop anything.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from mizzen.errors import InputError, IntegrityError, NotFoundError
from mizzen.store.manifest import Record
from mizzen.store.objects import AbsentError, Objects, TakenError

log = logging.getLogger(__name__)

FOLDER = "runs"
RUN_ID_PATTERN = r"^[a-z]([a-z0-9-]{0,45}[a-z0-9])?$"
"""DNS-1035 and at most 47 characters: it is also the name of a RayJob."""
LOG_PART_BYTES = 64 * 1024
AT_ONCE = 16
"""Records that are read at the same time."""

Place = Literal["local", "ray", "kubernetes"]
State = Literal["waiting", "running", "succeeded", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("succeeded", "failed", "cancelled")


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

    # --- logs -------------------------------------------------------------------------------------

    def log(self, run_id: str) -> LogReader:
        """What a run has said."""
        return LogReader(self.objects, run_id)

    def writer(self, run_id: str) -> LogWriter:
        """Goes on with a run's log after what earlier attempts have said."""
        return LogWriter(self.objects, run_id)


class LogWriter:
    """Adds lines to a run's log. Object stores cannot append, so it keeps the last part in memory."""

    def __init__(self, objects: Objects, run_id: str) -> None:
        self._objects, self._folder = objects, f"{folder(run_id)}/log"
        self._number: int | None = None
        self._part = b""

    def add(self, lines: list[str]) -> None:
        """Write `lines`; if that raises, none of them counts as written and all may be added again."""
        if self._number is None:
            self._number = (log_parts(self._objects, self._folder) or [0])[-1] + 1
        part = self._part + "".join(f"{line}\n" for line in lines).encode(errors="replace")
        if self._part:
            self._objects.write(f"{self._folder}/{self._number:08d}.txt", part)
        else:
            self._number = self._created(self._number, part)
        self._part = part
        if len(part) >= LOG_PART_BYTES:
            self._number, self._part = self._number + 1, b""

    def _created(self, number: int, part: bytes) -> int:
        """The number under which a new part is there now: an attempt before may not be quite over yet."""
        while True:
            try:
                self._objects.create(f"{self._folder}/{number:08d}.txt", part)
            except TakenError:
                number += 1
            else:
                return number


class LogReader:
    """Reads a run's log from its start, and later what has come since."""

    def __init__(self, objects: Objects, run_id: str) -> None:
        self._objects, self._folder = objects, f"{folder(run_id)}/log"
        self._number, self._seen_bytes = 0, 0

    def new_lines(self) -> Iterator[str]:
        """Lines that were written since the last call, without their ends."""
        for number in log_parts(self._objects, self._folder):
            if number < self._number:
                continue
            part = self._objects.read(f"{self._folder}/{number:08d}.txt")
            seen_bytes = self._seen_bytes if number == self._number else 0
            self._number, self._seen_bytes = number, len(part)
            yield from part[seen_bytes:].decode(errors="replace").splitlines()


def log_parts(objects: Objects, where: str) -> list[int]:
    """Numbers of the parts of the log in the folder `where`, sorted."""
    found = (re.fullmatch(r"(\d{8,})\.txt", name) for name in objects.names(where))
    return sorted(int(match[1]) for match in found if match)


def folder(run_id: str) -> str:
    """Where a run lies in the store. Raises `InputError` for what cannot be a run's id."""
    if not re.fullmatch(RUN_ID_PATTERN, run_id):
        raise InputError(
            "a run's id is wrong", saw=repr(run_id),
            allowed="1 to 47 lower-case letters, digits and dashes, a letter first, no dash last",
            remedy="`mizzen jobs list` names the runs.",
        )  # fmt: skip
    return f"{FOLDER}/{run_id}"
