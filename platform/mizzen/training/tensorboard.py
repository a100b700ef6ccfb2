"""TensorBoard event files of a run, made of the points of its history: while it goes on, or from the store.

The tags are those of `Point.scalars`. The job file is there as text and as hyper-parameters. It starts no
TensorBoard.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mizzen.store.history import LOSS, VALIDATION, Point
from mizzen.store.manifest import Manifest
from mizzen.store.runs import RunRecord

log = logging.getLogger(__name__)

FOLDER = "tensorboard"
"""Below the folder of the run."""


class Events:
    """One event file; an attempt that goes on writes a file of its own beside those of earlier ones."""

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        """Raises `OSError` if `folder` cannot be written."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        number, now_s = len(list(folder.glob("events.out.tfevents.*"))) + 1, time.time()
        name = f"events.out.tfevents.{now_s:010.0f}.{socket.gethostname()}.{number}"
        # Not its `EventsWriter`: on a full disk that one cannot be closed any more.
        self._file = RecordWriter(str(folder / name))
        self._job, self._last = job, (-1, False)
        self._described = False
        self._write(Event(wall_time=now_s, file_version="brain.Event:2"))

    def add(self, points: Sequence[Point]) -> None:
        """Write `points`; TensorBoard is told to forget what a run that went back takes again."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if points and not self._described:
            self._starts_at(points[0])
            self._describe(points)
        for point in points:
            if point.place <= self._last:
                self._starts_at(point)
            self._last = point.place
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in point.scalars().items()]
            summary = Summary(value=values)
            self._write(Event(wall_time=point.time_s, step=point.step, summary=summary))
        self._file.flush()

    def close(self) -> None:
        """Nothing more will come. Raises `OSError` if the last of it cannot be written."""
        self._file.close()

    def _write(self, event: Any) -> None:
        self._file.write(event.SerializeToString())

    def _starts_at(self, point: Point) -> None:
        """What earlier events say of this step and of later ones is void."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=point.time_s, step=point.step, session_log=start))

    def _describe(self, points: Sequence[Point]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import hparams, text

        self._described = True
        judged = {LOSS, *(tag for p in points for tag in p.scalars() if tag.startswith(VALIDATION))}
        job_file = json.dumps(self._job, indent=1).replace("\n", "\n    ")  # Markdown: as it stands
        experiment, session, _ = hparams(flat(self._job), dict.fromkeys(sorted(judged)))
        for summary in (text("job", f"    {job_file}"), experiment, session):
            self._write(Event(wall_time=points[0].time_s, summary=summary))


def write(folder: Path, job: Mapping[str, Any], points: Sequence[Point]) -> None:
    """The event file of a run in `folder`, from its history. Raises `OSError`."""
    events = Events(folder, job)
    events.add(points)
    events.close()


class TensorBoard:
    """Writes a run's event file while it goes on; a disk that refuses costs the run nothing. `Follower`."""

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        self._folder, self._job = folder, job
        self._events: Events | None = None
        self._broken = False

    def take(self, points: Sequence[Point]) -> None:
        """See `history.Follower`."""
        if self._broken:
            return
        try:
            if self._events is None:
                self._events = Events(self._folder, self._job)
            self._events.add(points)
        except OSError as cause:
            self._broken = True
            log.warning("no more TensorBoard events of this run in %s: %s", self._folder, cause)
            self._close()

    def published(self, manifest: Manifest) -> None:
        """See `history.Follower`."""

    def end(self, record: RunRecord) -> None:
        """See `history.Follower`."""
        self._close()

    def _close(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            with suppress(OSError):  # `add` has flushed everything, or told that it could not
                events.close()


def flat(job: Mapping[str, Any], above: str = "") -> dict[str, bool | int | float | str]:
    """A job file with one name for each value, `training.learning_rate`; lists are JSON, if not empty."""
    found: dict[str, bool | int | float | str] = {}
    for name, value in job.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{key}.")
        elif isinstance(value, (bool, int, float, str)):
            found[key] = value
        elif value:
            found[key] = json.dumps(value)
    return found
