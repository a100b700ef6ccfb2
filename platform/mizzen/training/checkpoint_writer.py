"""Writes a rank's part of a checkpoint in a thread of its own, while the run goes on.

One checkpoint is on its way at a time. A store that is away is tried again, with longer and longer pauses,
and told of; after `retry_for_s` this checkpoint is given up, and the next one is tried as if nothing had
been. Any other error is raised to the run when it next comes by. It copies no tensor and decides nothing
about what is kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mizzen.errors import StoreError
from mizzen.store.objects import Objects
from mizzen.store.runs import EventKind
from mizzen.training.checkpoints import Part, RankRecord, Written, record_name

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
ALIVE_EVERY_S = 1.0

Tell = Callable[[EventKind, str], None]


@dataclass(frozen=True)
class Draft:
    """A rank's part of a checkpoint, in memory."""

    name: str
    """The checkpoint's."""
    parts: list[Part]
    record: RankRecord
    """Without its files."""


class CheckpointWriter:
    """Uploads drafts below `folder` of `objects`, one after the other."""

    def __init__(
        self,
        objects: Objects,
        folder: str,
        *,
        tell: Tell,
        written: Callable[[RankRecord, float], None],
        alive: Callable[[], None],
        retry_for_s: float,
        pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """`written` is called in the thread, with the record and the seconds that it took, `alive` each
        second that `wait` takes.
        """
        self._objects, self._folder = objects, folder
        self._tell, self._written, self._alive = tell, written, alive
        self._retry_for_s, self._first_pause_s = retry_for_s, pause_s
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._given_up: StoreError | None = None
        self._stopped = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is on its way."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def gave_up(self) -> bool:
        """Whether the last checkpoint could not be written, since the store was away for too long."""
        return self._given_up is not None

    def begin(self, draft: Draft) -> None:
        """Write `draft` in the background, after the one that is on its way. Raises that one's error."""
        self.wait()
        self._given_up = None
        self._thread = threading.Thread(
            target=self._run, args=(draft,), name="mizzen-checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is on its way. Raises what went wrong, except for a store that was away too long."""
        while self.busy and self._thread is not None:
            self._thread.join(ALIVE_EVERY_S)
            self._alive()
        self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def finish(self) -> None:
        """As `wait`, and raises `StoreError` too if the last checkpoint had to be given up."""
        self.wait()
        if self._given_up is not None:
            raise self._given_up

    def abandon(self) -> None:
        """Try nothing again; what is being sent is waited for."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    # --- the thread -------------------------------------------------------------------------------

    def _run(self, draft: Draft) -> None:
        started = time.monotonic()
        try:
            files = tuple(self._persistently(draft, part) for part in draft.parts)
            record = draft.record.model_copy(update={"files": files})
            content = record.model_dump_json(indent=1).encode()
            name = record_name(record.rank, record.world_size)
            self._persistently(draft, Part(name, content))
            self._written(record, time.monotonic() - started)
        except StoreError as cause:
            self._given_up = cause
            self._tell("store_away", f"checkpoint {draft.name} is given up: {cause}")
        except BaseException as cause:  # the run raises it
            self._error = cause

    def _persistently(self, draft: Draft, part: Part) -> Written:
        """Write a part, again and again while the store is away."""
        key, pause_s = f"{self._folder}/{draft.name}/{part.name}", self._first_pause_s
        away_s: float | None = None
        while True:
            try:
                written = self._put(key, part)
            except StoreError as cause:
                now_s = time.monotonic()
                if away_s is None:
                    away_s = now_s
                    self._tell("store_away", f"checkpoint {draft.name} is tried again: {cause}")
                if now_s - away_s + pause_s > self._retry_for_s or self._stopped.wait(pause_s):
                    raise
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                if away_s is not None:
                    after_s = time.monotonic() - away_s
                    self._tell("store_back", f"the store takes checkpoint {draft.name} after {after_s:.0f} s")
                return written

    def _put(self, key: str, part: Part) -> Written:
        with self._objects.writer(key) as file:
            match part.content:
                case bytes():
                    file.write(part.content)
                case _:
                    _serialise(part.content, file)
        return Written(name=part.name, sha256=file.sha256, size_bytes=file.size_bytes)


def _serialise(state: Any, file: Any) -> None:
    import torch

    torch.save(state, file)
