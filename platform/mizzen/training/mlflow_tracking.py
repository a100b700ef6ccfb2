"""Tracks runs with MLflow as well, if `MLFLOW_TRACKING_URI` is set: parameters, metrics, tags, the gate.

A thread of its own talks to the server. A server that is away costs the run nothing: what could not be sent
is sent later, people are told once, and at the run's end it is given a few seconds. A later attempt goes on
with the same MLflow run, where steps that are taken again have two values: MLflow forgets none. The models
themselves stay in Mizzen's store.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mizzen.errors import InputError
from mizzen.settings import Settings, without_secrets
from mizzen.store.history import Point
from mizzen.store.manifest import Manifest
from mizzen.store.runs import RunRecord
from mizzen.training.tensorboard import flat

if TYPE_CHECKING:
    from mlflow import MlflowClient

REQUEST_TIMEOUT_S = 5
RETRY_EVERY_S = 15.0
LAST_WAIT_S = 15.0
"""At the end of a run."""
METRICS_AT_ONCE = 1000
PARAMETERS_AT_ONCE = 100
MAX_VALUE_CHARACTERS = 500
MAX_TAG_CHARACTERS = 5000
"""What servers of all ages take."""
STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_TIMEOUT_S),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
"""How MLflow's client behaves unless the environment says otherwise: it would report its use to its makers,
and hold on to a server that is away for many minutes."""

Say = Callable[[str], None]


def follow(settings: Settings, record: RunRecord, say: Say) -> Tracker | None:
    """What tracks the run, or None if nobody asked for it. It asks no server yet.

    Raises `InputError` if MLflow is not installed, or cannot make anything of the URL.
    """
    if settings.mlflow_url is None:
        return None
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    shown = _shown(settings.mlflow_url)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as cause:
        raise InputError(
            f"MLFLOW_TRACKING_URI is set, and MLflow cannot be imported ({cause})",
            saw=shown,
            remedy="Install it with `pip install 'mizzen[mlflow]'`, or unset MLFLOW_TRACKING_URI.",
        ) from None
    try:
        client = MlflowClient(settings.mlflow_url)
    except (MlflowException, ImportError, OSError) as cause:
        raise InputError(
            f"MLflow's client cannot track runs there: {_sentence(cause, settings.mlflow_url)}",
            saw=shown,
            remedy="Correct MLFLOW_TRACKING_URI, or unset it; `mizzen[mlflow]` knows http and https URLs.",
        ) from None
    experiment = settings.mlflow_experiment or str(record.job["name"])
    return Tracker(client, record, experiment, settings.mlflow_url, say)


class Tracker:
    """Tells MLflow of one attempt at a run; `history.Follower`."""

    def __init__(self, client: MlflowClient, record: RunRecord, experiment: str, url: str, say: Say) -> None:
        self._client, self._record, self._experiment = client, record, experiment
        self._url, self._server, self._say = url, _shown(url), say
        self._run: str | None = None
        """MLflow's id of the run, once the server has been reached."""
        self._metrics: list[Any] = []
        self._tags: dict[str, str] = {}
        self._lock, self._new, self._over = threading.Lock(), threading.Event(), threading.Event()
        self._step = 0
        self._told = self._refused = False
        self._thread = threading.Thread(target=self._keep_sending, name="mizzen-mlflow", daemon=True)
        self._thread.start()
        self._new.set()

    def take(self, points: Sequence[Point]) -> None:
        """See `history.Follower`."""
        self._step = points[-1].step
        self._add([(tag, value, p.time_s, p.step) for p in points for tag, value in p.scalars().items()])

    def published(self, manifest: Manifest) -> None:
        """See `history.Follower`."""
        time_s = manifest.created_at.timestamp()
        self._add(
            [(f"test/{name}", value, time_s, self._step) for name, value in manifest.quality.items()],
            {
                "model": manifest.name,
                "model_version": f"{manifest.version}",
                "model_digest": manifest.digest,
                "data_digest": manifest.lineage.data_digest,
                "gate": "passed" if manifest.gate.passed else "failed",
                "gate_report": "\n".join(manifest.gate.lines()),
            },
        )

    def end(self, record: RunRecord) -> None:
        """See `history.Follower`; waits `LAST_WAIT_S` at most."""
        self._record = record
        self._add([], {"state": record.state, "error": record.error or "", "attempts": f"{record.attempt}"})
        self._over.set()
        self._new.set()
        self._thread.join(LAST_WAIT_S)
        if self._thread.is_alive() or ((self._metrics or self._tags) and not self._refused):
            self._say(f"MLflow at {self._server} has not got everything of this run")

    def _add(self, metrics: list[tuple[str, float, float, int]], tags: dict[str, str] | None = None) -> None:
        from mlflow.entities import Metric

        made = [
            Metric(_key(name), value, round(time_s * 1000), step) for name, value, time_s, step in metrics
        ]
        with self._lock:
            self._metrics += made
            self._tags |= {f"mizzen.{name}": text[:MAX_TAG_CHARACTERS] for name, text in (tags or {}).items()}
        self._new.set()

    # --- the thread that sends --------------------------------------------------------------------

    def _keep_sending(self) -> None:
        while True:
            self._new.wait()
            self._new.clear()
            last = self._over.is_set()
            sent = self._send()
            if last or self._refused:
                return
            if not sent:
                self._over.wait(RETRY_EVERY_S)
                self._new.set()

    def _send(self) -> bool:
        """Send what is waiting; false if the server does not take it now."""
        from mlflow.exceptions import MlflowException

        try:
            if self._run is None:
                self._run = self._begun()
            self._send_waiting(self._run)
            if self._over.is_set():
                self._client.set_terminated(self._run, STATUS.get(self._record.state))
        except Exception as cause:  # MLflow's plug-ins raise what they like, and no run may fail for it
            wrong = isinstance(cause, MlflowException) and 400 <= cause.get_http_status_code() < 500
            self._refused = wrong  # asking again would not help
            self._tell(cause)
            return False
        return True

    def _send_waiting(self, run: str) -> None:
        from mlflow.entities import RunTag

        while True:
            with self._lock:
                metrics, tags = self._metrics[:METRICS_AT_ONCE], dict(self._tags)
            if not metrics and not tags:
                return
            self._client.log_batch(run, metrics, tags=[RunTag(key, text) for key, text in tags.items()])
            with self._lock:
                del self._metrics[: len(metrics)]
                self._tags = {key: text for key, text in self._tags.items() if tags.get(key) != text}

    def _begun(self) -> str:
        """MLflow's id of the run: a new one, or that of an earlier attempt."""
        from mlflow.entities import Param

        client, run_id = self._client, self._record.run_id
        experiment = self._experiment_id()
        found = client.search_runs([experiment], f"tags.`mizzen.run_id` = '{run_id}'", max_results=1)
        run = str(found[0].info.run_id) if found else self._created(experiment)
        there: dict[str, str] = found[0].data.params if found else {}  # MLflow never changes one
        if found:
            client.update_run(run, status="RUNNING")
        values = {_key(name): str(value) for name, value in flat(self._record.job).items()}
        parameters = [
            Param(name, value[:MAX_VALUE_CHARACTERS]) for name, value in values.items() if name not in there
        ]
        for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
            client.log_batch(run, params=parameters[start : start + PARAMETERS_AT_ONCE])
        return run

    def _created(self, experiment: str) -> str:
        record = self._record
        tags = {
            "mizzen.run_id": record.run_id,
            "mizzen.place": record.place,
            "mizzen.workload": str(record.job["workload"]),
            "mizzen.code_version": version("mizzen"),
        }
        return str(self._client.create_run(experiment, tags=tags, run_name=record.run_id).info.run_id)

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return str(self._client.create_experiment(self._experiment))
            except MlflowException:
                found = self._client.get_experiment_by_name(self._experiment)  # another run was first
                if found is None:
                    raise
        return str(found.experiment_id)

    def _tell(self, cause: Exception) -> None:
        why = _sentence(cause, self._url)
        if self._refused:
            self._say(f"MLflow at {self._server} refuses this run, which goes on untracked: {why}")
        elif not self._told:
            self._say(f"MLflow at {self._server} does not take what it is sent now, the run goes on: {why}")
        self._told = True


def _key(name: str) -> str:
    """A name as MLflow takes it: `ndcg@10` becomes `ndcg_at_10`."""
    return re.sub(r"[^\w./ :-]", "_", name.replace("@", "_at_"))


def _shown(url: str) -> str:
    """`url` without user, password and query."""
    return re.sub(r"//[^/]*@", "//", url.split("?", 1)[0])


def _sentence(cause: Exception, url: str) -> str:
    """What went wrong in a line, without what the server's URL keeps secret."""
    said = str(cause).splitlines()
    line = re.sub(r"//[^/\s]*@", "//", said[0] if said else type(cause).__name__)
    parts = urlsplit(url)
    for secret in (parts.query, parts.password, unquote(parts.password or "")):
        line = line.replace(secret, "***") if secret else line
    return without_secrets(line)[:160]
