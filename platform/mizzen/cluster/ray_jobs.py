"""Training jobs on a running Ray cluster, by its Jobs API; `jobs.Jobs`.

Ray itself finds the token (`RAY_AUTH_MODE=token` with `RAY_AUTH_TOKEN` or `RAY_AUTH_TOKEN_PATH`). What the
cluster has forgotten, or cannot be asked any more, is told from the run's record and log in the store.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mizzen import tracing
from mizzen.cluster import records, tracebacks
from mizzen.cluster.jobs import Job, numbers
from mizzen.errors import ClusterError, JobError, MizzenError, NotFoundError, StoreError
from mizzen.settings import Settings
from mizzen.store import audit
from mizzen.store.objects import Objects, without_secrets
from mizzen.store.runs import ENDED, Place, RunRecord, Runs, State
from mizzen.training.job import TrainJob
from mizzen.training.result import run_id

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CHATTY = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray's that tell of each connection and each file."""
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ENTRYPOINT = "python -m mizzen.cluster.entry --run {run_id} --place ray"
STATES: dict[str, State] = {
    "PENDING": "waiting", "RUNNING": "running", "SUCCEEDED": "succeeded", "FAILED": "failed",
    "STOPPED": "cancelled",
}  # fmt: skip
JOB_NOTE, WORKLOAD_NOTE, WORKERS_NOTE = "mizzen_job", "mizzen_workload", "mizzen_workers"
"""Metadata that we give to Ray's job."""


list_ = list  # inside the class the name is a method's


class RayJobs:
    """The jobs of the Ray cluster whose dashboard is at `address`."""

    def __init__(self, address: str | None, settings: Settings) -> None:
        given = address or settings.ray_address or DEFAULT_ADDRESS
        self._address = given if "://" in given else f"http://{given}"
        self._settings = settings
        self._connected: JobSubmissionClient | None = None

    @property
    def place(self) -> Place:
        """See `jobs.Jobs`."""
        return "ray"

    def submit(self, job: TrainJob, run: str | None = None) -> str:
        """Start `job` on the cluster; returns the run's id. Raises `ClusterError`.

        With `run`, one that has ended goes on under its id; the cluster forgets what it knew of it.
        """
        client, earlier, run = self._client(), run, run or run_id(job)
        if earlier is not None:
            with self._explained():
                if any(one.submission_id == run for one in client.list_jobs()):
                    client.delete_job(run)
        content = job.model_dump(mode="json", exclude_unset=True, exclude={"cluster": {"working_dir"}})
        variables = {"MIZZEN_JOB": json.dumps(content, separators=(",", ":"))}
        store_url = self._store_for_cluster()
        if store_url is not None:
            variables["MIZZEN_STORE"] = store_url
        if traceparent := tracing.handed_on():
            variables["TRACEPARENT"] = traceparent
        runtime_env: dict[str, Any] = {"env_vars": variables}
        if job.cluster.working_dir is not None:
            runtime_env["working_dir"] = _code(job.cluster.working_dir)
        with self._explained():
            client.submit_job(
                entrypoint=ENTRYPOINT.format(run_id=run),
                submission_id=run,
                runtime_env=runtime_env,
                metadata={
                    JOB_NOTE: job.name,
                    WORKLOAD_NOTE: job.workload,
                    WORKERS_NOTE: str(job.scaling),
                },
            )
        return run

    def list(self) -> list_[Job]:
        """See `jobs.Jobs`: those that the cluster knows, and earlier ones of which the store knows."""
        with self._explained():
            details = self._client().list_jobs()
        kept = {record.run_id: record for record in self._records() if record.place == "ray"}
        known = [one for one in details if one.submission_id and JOB_NOTE in (one.metadata or {})]
        found = [self._job(one, kept.pop(one.submission_id, None)) for one in known]
        found += [self._forgotten(record) for record in kept.values()]
        return sorted(found, key=lambda job: job.created_at or datetime.min.replace(tzinfo=UTC), reverse=True)

    def show(self, name: str) -> Job:
        """See `jobs.Jobs`."""
        details, record = self._known(name)
        return self._forgotten(record) if record is not None else self._job(details, self._record(name))

    def logs(self, name: str, follow: bool) -> Iterator[str]:
        """See `jobs.Jobs`: Ray's own, and if the cluster has it no more, what the store has kept."""
        _, record = self._known(name)
        if record is not None:
            yield from Runs(self._settings.store_url).log(name).new_lines()
        elif follow:
            yield from self._followed(name)
        else:
            with self._explained():
                text = self._client().get_job_logs(name)
            yield from text.splitlines()

    def cancel(self, name: str) -> None:
        """See `jobs.Jobs`."""
        details = self._details(name)
        if details is None:
            raise self._unknown(name)
        if details.status.is_terminal():
            raise ClusterError(
                f"{name} has ended already",
                saw=STATES[str(details.status)],
                allowed="a job that runs or waits",
            )
        with self._explained():
            self._client().stop_job(name)
        audit.note(Objects(self._settings.store_url), "job.cancel", name, {"place": self.place})

    def delete(self, name: str) -> None:
        """See `jobs.Jobs`."""
        details, record = self._known(name)
        job = self._forgotten(record) if record is not None else self._job(details, self._record(name))
        if not job.ended:
            raise ClusterError(
                f"{name} still runs", saw=job.state,
                remedy=f"Stop it first: mizzen jobs cancel {name} --on ray",
            )  # fmt: skip
        runs = Runs(self._settings.store_url)
        with audit.recorded(runs.objects, "job.delete", name, {"place": self.place}):
            if details is not None:
                with self._explained():
                    self._client().delete_job(name)
            if self._record(name) is not None:
                runs.delete(name)

    # --- what the cluster says --------------------------------------------------------------------

    def _client(self) -> JobSubmissionClient:
        """Connected, and of the cluster's own version. Raises `ClusterError`."""
        if self._connected is None:
            from ray.job_submission import JobSubmissionClient

            for chatty in CHATTY:
                logging.getLogger(chatty).setLevel(logging.WARNING)
            # Ray lets this variable win over the argument.
            os.environ["RAY_API_SERVER_ADDRESS"] = self._address
            with self._explained():
                self._connected = JobSubmissionClient(self._address)
        return self._connected

    def _details(self, name: str) -> Any:
        """What the cluster says of a job, None if it knows it not. Raises `ClusterError`."""
        client = self._client()
        with self._explained():
            try:
                return client.get_job_info(name)
            except RuntimeError as cause:
                if "status code 404" in str(cause):
                    return None
                raise

    def _known(self, name: str) -> tuple[Any, RunRecord | None]:
        """What the cluster says of a job; else the record of a run that the store alone knows.

        Runs of other places are not ours. Raises `NotFoundError`; `ClusterError` if nobody can be asked.
        """
        try:
            details = self._details(name)
        except ClusterError:
            if (record := self._kept(name)) is None:
                raise
            return None, record
        if details is not None:
            return details, None
        if (record := self._kept(name)) is None:
            raise self._unknown(name)
        return None, record

    def _followed(self, name: str) -> Iterator[str]:
        """Lines as they come, until the job has ended."""
        pieces = self._client().tail_job_logs(name)
        rest = ""
        with asyncio.Runner() as runner, self._explained():
            while (piece := runner.run(_next(pieces))) is not None:
                *lines, rest = (rest + piece).split("\n")
                yield from lines
        if rest:
            yield rest

    def _job(self, details: Any, record: RunRecord | None) -> Job:
        state = STATES[str(details.status)]
        notes = details.metadata or {}
        min_workers, workers = numbers(notes.get(WORKERS_NOTE, ""))
        published = record is not None and record.state == "succeeded" == state
        return Job(
            name=details.submission_id,
            state=state,
            reason=self._reason(details, state, record),
            job=notes.get(JOB_NOTE, ""),
            workload=notes.get(WORKLOAD_NOTE, ""),
            created_at=_time(details.start_time),
            started_at=record.started_at if record else _time(details.start_time),
            ended_at=_ended(details, record) if state in ENDED else None,
            workers=workers,
            min_workers=min_workers,
            model=record.model if record and published else None,
            version=record.version if record and published else None,
            events=record.events if record else (),
            where=self._address,
        )

    def _reason(self, details: Any, state: State, record: RunRecord | None) -> str:
        if state == "failed":
            if record is not None and record.state == "failed" and record.error:
                return record.error
            said: str = details.message or ""
            return (
                tracebacks.relevant(said) or said.splitlines()[0] if said else "the cluster does not say why"
            )
        if state == "cancelled":
            return "it was stopped"
        return (details.message or "") if state == "waiting" else ""

    def _unknown(self, name: str) -> NotFoundError:
        return NotFoundError(
            f"the Ray cluster at {self._address} knows no job {name!r}, and the store none that ran on Ray",
            saw=without_secrets(self._settings.store_url),
            remedy="`mizzen jobs list --on ray` names those that there are.",
        )

    # --- the store --------------------------------------------------------------------------------

    def _store_for_cluster(self) -> str | None:
        """The store that the cluster is told to use; None for the one that it has itself.

        Raises `ClusterError` for a folder of this machine if the cluster is elsewhere.
        """
        url = self._settings.store_url
        if not url.startswith(("file:", "memory:")):
            return url
        if url.startswith("file:") and self._is_here():
            return url
        if self._settings.store_is_default:
            return None
        raise ClusterError(
            f"the store is on this machine, where the Ray cluster at {self._address} cannot reach it",
            saw=url,
            remedy="Set MIZZEN_STORE to a store that both reach (s3://..., gs://..., az://...), or leave it "
            "unset: then the run uses the store of the cluster's own MIZZEN_STORE.",
        )  # fmt: skip

    def _is_here(self) -> bool:
        """Whether all nodes of the cluster are on this machine; a forwarded port only looks like it."""
        client = self._client()
        with self._explained():
            answer = client._do_request("GET", "/nodes?view=summary")
            answer.raise_for_status()
            nodes = answer.json()["data"]["summary"]
        alive = [node for node in nodes if node.get("raylet", {}).get("state") == "ALIVE"]
        return bool(alive) and {node.get("hostname") for node in alive} == {socket.gethostname()}

    def _records(self) -> list_[RunRecord]:
        with suppress(StoreError):
            return Runs(self._settings.store_url).list()
        return []

    def _record(self, name: str) -> RunRecord | None:
        """What the store says of a run, if it can be asked."""
        with suppress(StoreError):
            return Runs(self._settings.store_url).find(name)
        return None

    def _kept(self, name: str) -> RunRecord | None:
        record = self._record(name)
        return record if record is not None and record.place == "ray" else None

    def _forgotten(self, record: RunRecord) -> Job:
        """A job that the cluster does not know, or that cannot be asked about."""
        return records.job_of(record, gone="the cluster that ran it is gone or cannot be reached")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from ray.exceptions import AuthenticationError

        try:
            yield
        except MizzenError:
            raise
        except AuthenticationError as cause:
            said = str(cause).splitlines()[0]
            raise ClusterError(
                f"the Ray cluster at {self._address} does not let us in", saw=said,
                remedy="Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's token; on Kubernetes it "
                "is auth_token in the Secret that the RayCluster names.",
            ) from None  # fmt: skip
        except ConnectionError as cause:
            raise self._unreachable(cause) from None
        except Exception as cause:  # Ray hands on whatever requests and aiohttp raise
            if type(cause).__module__.split(".")[0] in ("requests", "aiohttp", "urllib3"):
                raise self._unreachable(cause) from None
            if isinstance(cause, (RuntimeError, ValueError)):
                raise ClusterError(
                    f"the Ray cluster at {self._address} refuses: {str(cause).splitlines()[0]}",
                    remedy="Compare the versions of Ray here and there, and look at the cluster's dashboard.",
                ) from None
            raise

    def _unreachable(self, cause: Exception) -> ClusterError:
        return ClusterError(
            f"no Ray cluster can be reached at {self._address}", saw=str(cause).splitlines()[0],
            remedy="Give the address of its dashboard with --address, for instance http://HEAD:8265; on "
            "Kubernetes forward it first: kubectl port-forward svc/NAME-head-svc 8265.",
        )  # fmt: skip


def _ended(details: Any, record: RunRecord | None) -> datetime | None:
    """The run's own word counts: it may have been tried again."""
    return (record.ended_at if record else None) or _time(details.end_time)


def _code(working_dir: Path) -> str:
    """What Ray is to send along. Raises `JobError` if it is not there."""
    path = working_dir.expanduser().absolute()
    if not (path.is_dir() or zipfile.is_zipfile(path)):
        raise JobError(
            "cluster.working_dir is neither a folder nor a zip file", saw=str(path),
            field="cluster.working_dir", remedy="Check the path; it counts from where you are.",
        )  # fmt: skip
    return str(path)


async def _next(pieces: AsyncIterator[str]) -> str | None:
    return await anext(pieces, None)


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
