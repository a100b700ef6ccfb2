"""Keeps a run's record, log and history in the store while it runs, so that others see how it stands.

A thread writes every few seconds what is new. A store that is away costs the run nothing: what could not be
written is written later, and people are told once. It does not decide anything about the run; it only sees
how it ends.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import psutil

from mizzen import logs
from mizzen.errors import MizzenError, NoticeError, StoreError
from mizzen.settings import Settings, sayable
from mizzen.store.history import Point
from mizzen.store.manifest import Manifest
from mizzen.store.runs import MAX_EVENTS, Event, EventKind, Place, RunRecord, Runs, State
from mizzen.training import mlflow_tracking, start_up, tensorboard
from mizzen.training.failures import MAX_TRACEBACK_LINES
from mizzen.training.history import Follower, Thinning
from mizzen.training.job import TrainJob
from mizzen.training.mailbox import Progress

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 3.0
ALIVE_EVERY_S = 30.0
"""The record is renewed this often even if nothing is new: so readers see that the run goes on."""
SAY_EVERY_S = 10.0
"""Between two lines about the loss."""
LAST_WRITE_TIMEOUT_S = 60.0
TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT
TERMINATED_SENTENCE = "it was stopped"
INTERRUPTED_SENTENCE = "it was interrupted"

Say = Callable[[str], None]


def _nothing(what: object) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Audience:
    """Who follows a run while it goes on, besides those who read it in the store."""

    say: Say
    """Gets the few lines that people want to see."""
    watch: Callable[[Progress], None]
    """Gets each progress."""
    log: Say = _nothing
    """Gets each line of the log, with its time."""
    event: Callable[[EventKind], None] = _nothing
    """Gets the kind of each event in the run's record."""


class Journal:
    """A run's record, log and history.

    What drives the run calls `say`, `log`, `watch` and `published`; they hand on to `audience`.
    """

    def __init__(self, runs: Runs, record: RunRecord, audience: Audience) -> None:
        self._runs, self._writer = runs, runs.writer(record.run_id)
        self._record, self._audience = record, audience
        self._history, self._thinning = runs.history_writer(record.run_id), Thinning()
        self._followers: list[Follower] = []
        self._lines: list[str] = []
        self._points: list[Point] = []
        """Those that the followers have not been told of yet."""
        self._manifests: list[Manifest] = []
        # Signal handlers take it too, in the thread that may hold it already.
        self._lock = threading.RLock()
        self._new, self._over = threading.Event(), threading.Event()
        self._loss_said_s = 0.0
        self._away = False
        """The store cannot be reached, as far as is known."""
        self._thread = threading.Thread(target=self._keep_writing, name="mizzen-journal", daemon=True)

    @property
    def record(self) -> RunRecord:
        """How the run stands."""
        return self._record

    def say(self, line: str) -> None:
        """A line for people, also into the log."""
        self.log(line)
        self._audience.say(line)

    def log(self, text: str) -> None:
        """Lines into the log alone."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines = [f"{now} {line}" for line in sayable(text).splitlines()]
        with self._lock:
            self._lines += lines
        for line in lines:
            self._audience.log(line)
        with logs.about(run=self._record.run_id):
            logger.info("%s", text)

    def watch(self, progress: Progress) -> None:
        """Take in where the run stands."""
        changes: dict[str, Any] = {"step": progress.step, "num_steps": progress.num_steps}
        at = f"step {progress.step} of {progress.num_steps}"
        if progress.metrics:
            changes["metrics"] = dict(progress.metrics)
            if progress.step == 0:
                changes["initial_metrics"] = dict(progress.metrics)
            figures = ", ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
            self.log(f"{at}: validation {figures}")
        elif progress.loss is not None and time.monotonic() - self._loss_said_s > SAY_EVERY_S:
            self._loss_said_s = time.monotonic()
            self.log(f"{at}: loss {progress.loss:.4g}")
        self.change(**changes)
        with self._lock:
            self._points += self._thinning.take(progress, time.time())
        self._audience.watch(progress)

    def event(self, kind: EventKind, text: str) -> None:
        """Something has happened to the run: a line of its log, and one of its record's history.

        Whoever notices first that the store is away, or is back, is the one who is heard.
        """
        self.log(text)
        with self._lock:
            if kind in ("store_away", "store_back"):
                if self._away == (kind == "store_away"):
                    return
                self._away = not self._away
            event = Event(time=datetime.now(UTC), kind=kind, text=sayable(text))
            events = (*self._record.events, event)[-MAX_EVENTS:]
            self._record = self._record.model_copy(update={"events": events})
        self._audience.event(kind)
        self._new.set()

    def started_up(self, parts: Mapping[str, float]) -> None:
        """The first step is done; `parts` says what took how long until then."""
        if not self._record.start_up_s:
            self.log(start_up.sentence(parts))
            self.change(start_up_s={part: round(took_s, 3) for part, took_s in parts.items()})

    def published(self, manifest: Manifest) -> None:
        """The run has put a version into the store; whether its gate has passed stands in it."""
        self.change(model=manifest.name, version=manifest.version)
        with self._lock:
            self._manifests.append(manifest)

    def tell(self, follower: Follower) -> None:
        """Let `follower` hear of the run too, from now on."""
        self._followers.append(follower)

    def change(self, **fields: Any) -> None:
        """Change fields of the record."""
        with self._lock:
            if not self._record.ended:
                self._record = self._record.model_copy(update={**fields, "updated_at": datetime.now(UTC)})

    def end(self, state: State, **fields: Any) -> None:
        """The run is over; the first end counts. It is written at once, in the background."""
        self.change(state=state, ended_at=datetime.now(UTC), **fields)
        self._over.set()
        self._new.set()

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()
        self._new.set()

    def finish(self) -> None:
        """Wait until the end is written, if the store lets us."""
        self._thread.join(LAST_WRITE_TIMEOUT_S)

    def end_on_sigterm(self) -> None:
        """Let SIGTERM end this process and the run with it, as cancelled. Ray's own handler does not last."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.terminated)

    def cancelled(self) -> None:
        """The run is being stopped, which may take a while: it is on record from now on."""
        self.change(state="cancelled", ended_at=datetime.now(UTC), error=TERMINATED_SENTENCE)
        self._new.set()

    def terminated(self, signum: int, frame: FrameType | None) -> None:
        """Ends this process."""
        self.end("cancelled", error=TERMINATED_SENTENCE)
        raise SystemExit(TERMINATED)

    # --- the thread that writes -------------------------------------------------------------------

    def _keep_writing(self) -> None:
        written: RunRecord | None = None
        unwritten: list[Point] = []
        while True:
            last = self._over.is_set()
            with self._lock:
                record = self._record
                points = self._points + (self._thinning.rest() if last else [])
                manifests, self._points, self._manifests = self._manifests, [], []
            unwritten += points
            self._tell_followers(points, manifests)
            wrote = bool(self._lines or unwritten or record is not written)
            try:
                self._write_lines()
                if unwritten:
                    self._history.add([point.line() for point in unwritten])
                    unwritten = []
                if record is not written:
                    self._runs.write(record)
                    written = record
                if self._away and wrote:
                    self.event("store_back", "the run's record is written again")
                    if last:  # nobody writes after this
                        self._runs.write(self._record)
            except StoreError as cause:
                self._tell(cause)
            if last:
                for follower in self._followers:
                    follower.end(record)
                with suppress(StoreError):
                    self._write_lines()  # what they have said of it
                return
            self._new.wait(WRITE_EVERY_S)
            self._new.clear()
            if (datetime.now(UTC) - self._record.updated_at).total_seconds() > ALIVE_EVERY_S:
                self.change()

    def _write_lines(self) -> None:
        with self._lock:
            lines = list(self._lines)
        if lines:
            self._writer.add(lines)
            with self._lock:
                del self._lines[: len(lines)]

    def _tell_followers(self, points: list[Point], manifests: list[Manifest]) -> None:
        for follower in self._followers:
            if points:
                follower.take(points)
            for manifest in manifests:
                follower.published(manifest)

    def _tell(self, cause: StoreError) -> None:
        if not self._away:
            sentence = f"the run's record cannot be written now, the run goes on: {cause}"
            self.event("store_away", sentence)
            self._audience.say(sentence)


@contextmanager
def kept(
    job: TrainJob, run_id: str, place: Place, settings: Settings, audience: Audience
) -> Iterator[Journal]:
    """A journal of the run inside the block; how the block ends is how the run has ended.

    SIGTERM leaves it as SystemExit with the usual exit code, other exceptions as they are.
    """
    runs = Runs(settings.store_url)
    record, trouble = _begun(runs, job, run_id, place)
    journal = Journal(runs, record, audience)
    before = signal.getsignal(signal.SIGTERM)
    journal.end_on_sigterm()
    journal.start()
    try:
        if trouble is not None:
            journal.say(f"the store cannot be asked about earlier attempts: {trouble}")
        journal.tell(tensorboard.TensorBoard(settings.runs_dir / run_id / tensorboard.FOLDER, record.job))
        if (tracker := mlflow_tracking.follow(settings, record, journal.say)) is not None:
            journal.tell(tracker)
        yield journal
    except KeyboardInterrupt:
        journal.end("cancelled", error=INTERRUPTED_SENTENCE)
        raise
    except NoticeError as cause:
        journal.event("notice", str(cause))
        journal.end("cancelled", error=TERMINATED_SENTENCE)
        raise SystemExit(TERMINATED) from None
    except SystemExit as cause:
        terminated = journal.record.ended or cause.code in (signal.SIGTERM, TERMINATED)
        journal.end("cancelled", error=TERMINATED_SENTENCE if terminated else INTERRUPTED_SENTENCE)
        # Ray Train makes an exit without an error of Ctrl-C.
        raise SystemExit(TERMINATED if terminated else INTERRUPTED) from None
    except BaseException as cause:
        sentence, lines = explained(cause)
        journal.log("\n".join(["failed: " + sentence, *lines]))
        journal.end("failed", error=sayable(sentence), traceback=tuple(map(sayable, lines)))
        raise
    finally:
        journal.finish()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def explained(cause: BaseException) -> tuple[str, list[str]]:
    """What went wrong in one sentence, and the lines of its traceback that matter."""
    if isinstance(cause, MizzenError):
        sentence, *lines = str(cause).splitlines()
        return sentence, lines
    lines = "".join(traceback.format_exception(cause)).rstrip().splitlines()
    said = str(cause).splitlines()
    return f"{type(cause).__name__}: {said[0] if said else 'no message'}", lines[-MAX_TRACEBACK_LINES:]


def failed_before(run_id: str, place: Place, settings: Settings, cause: MizzenError) -> None:
    """Write of a run, or of a later attempt at it, that it could not even begin, if the store lets us."""
    sentence, lines = explained(cause)
    now = datetime.now(UTC)
    with suppress(StoreError):
        runs = Runs(settings.store_url)
        earlier = runs.find(run_id)
        begun = earlier or RunRecord(
            run_id=run_id, place=place, state="failed", created_at=now, updated_at=now
        )  # fmt: skip
        record = begun.model_copy(
            update={
                "state": "failed",
                "attempt": _attempt(earlier),
                "started_at": None,
                "updated_at": now,
                "ended_at": now,
                "host": socket.gethostname(),
                "error": sayable(sentence),
                "traceback": tuple(map(sayable, lines)),
            }
        )
        runs.writer(run_id).add([f"{now:%Y-%m-%dT%H:%M:%SZ} failed: {record.error}", *record.traceback])
        runs.write(record)


def _attempt(earlier: RunRecord | None) -> int:
    """The number of the attempt that comes after what is on record."""
    return earlier.attempt + 1 if earlier and (earlier.started_at or earlier.ended) else 1


def _begun(runs: Runs, job: TrainJob, run_id: str, place: Place) -> tuple[RunRecord, StoreError | None]:
    """The record of a run that begins now; if it has been tried before, it is the next attempt.

    With it the error, if the store could not be asked about earlier attempts.
    """
    earlier, trouble = None, None
    try:
        earlier = runs.find(run_id)
    except StoreError as cause:
        trouble = cause
    now, process = datetime.now(UTC), psutil.Process()
    record = RunRecord(
        run_id=run_id,
        place=place,
        state="running",
        job=job.for_the_record(),
        attempt=_attempt(earlier),
        created_at=earlier.created_at if earlier else now,
        started_at=now,
        updated_at=now,
        host=socket.gethostname(),
        pid=os.getpid(),
        process_started_s=process.create_time(),
        initial_metrics=earlier.initial_metrics if earlier else {},
        events=earlier.events if earlier else (),
    )
    return record, trouble
