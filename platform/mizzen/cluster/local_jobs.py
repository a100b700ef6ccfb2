"""Training jobs that `mizzen train` runs on this machine; `jobs.Jobs` over their records in the store.

It starts none: a run here lives in the process of `mizzen train`.
"""

from __future__ import annotations

import dataclasses
import shutil
import socket
import time
from collections.abc import Iterator

import psutil

from mizzen.cluster import records
from mizzen.cluster.jobs import Job
from mizzen.errors import ClusterError, NotFoundError
from mizzen.settings import Settings
from mizzen.store.runs import Place, RunRecord, Runs

POLL_EVERY_S = 1.0
SAME_PROCESS_S = 1.0
"""Process start times that differ by less are the same."""


list_ = list  # inside the class the name is a method's


class LocalJobs:
    """The runs of `mizzen train` in the store of `settings`, made here or on a colleague's machine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runs = Runs(settings.store_url)

    @property
    def place(self) -> Place:
        """See `jobs.Jobs`."""
        return "local"

    def list(self) -> list_[Job]:
        """See `jobs.Jobs`."""
        return [self._job(record) for record in self._runs.list() if record.place == "local"]

    def show(self, name: str) -> Job:
        """See `jobs.Jobs`."""
        return self._job(self._record(name))

    def logs(self, name: str, follow: bool) -> Iterator[str]:
        """See `jobs.Jobs`."""
        self._record(name)
        reader = self._runs.log(name)
        while True:
            # Asked before reading: what is written until then is read now, and nothing comes after.
            ended = not follow or self.show(name).ended
            yield from reader.new_lines()
            if ended:
                return
            time.sleep(POLL_EVERY_S)

    def cancel(self, name: str) -> None:
        """See `jobs.Jobs`: the process is told to end, and ends the run as cancelled."""
        record = self._record(name)
        job = self._job(record)
        if job.ended:
            raise ClusterError(f"{name} has ended already", saw=job.state, allowed="a job that runs")
        process = _process(record)
        if process is None:
            raise ClusterError(
                f"{name} runs on another machine", saw=record.host, allowed=socket.gethostname(),
                remedy="Stop it there.",
            )  # fmt: skip
        try:
            process.terminate()
        except psutil.AccessDenied:
            raise ClusterError(
                f"process {process.pid} of {name} belongs to somebody else", remedy="Ask them to stop it."
            ) from None
        except psutil.NoSuchProcess:
            return  # it has ended in this moment

    def delete(self, name: str) -> None:
        """See `jobs.Jobs`: its record, its log, and its checkpoints on this machine."""
        job = self.show(name)
        if not job.ended:
            raise ClusterError(
                f"{name} still runs", saw=job.state, remedy=f"Stop it first: mizzen jobs cancel {name}"
            )
        self._runs.delete(name)
        shutil.rmtree(self._settings.runs_dir / name, ignore_errors=True)

    def _record(self, name: str) -> RunRecord:
        record = self._runs.show(name)
        if record.place != "local":
            raise NotFoundError(
                f"{name} did not run with `mizzen train` alone", saw=f"it ran on {record.place}",
                remedy=f"Say where it ran: --on {record.place}",
            )  # fmt: skip
        return record

    def _job(self, record: RunRecord) -> Job:
        job = records.job_of(record)
        if record.ended or record.host != socket.gethostname() or _process(record) is not None:
            return job
        return dataclasses.replace(
            job,
            state="failed",
            reason=f"the process is gone (it was {record.pid} on {record.host}): it was killed, or the "
            "machine went down",
            ended_at=record.updated_at,
        )


def _process(record: RunRecord) -> psutil.Process | None:
    """The run's process if it is on this machine and alive, and not another one with its number."""
    if record.host != socket.gethostname() or record.pid is None or record.process_started_s is None:
        return None
    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.process_started_s) < SAME_PROCESS_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
