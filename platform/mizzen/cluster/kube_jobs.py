"""Training jobs on Kubernetes: `jobs.Jobs` over the RayJobs that `train_job` has made.

A job's log is the log of the pod that submits it; when that is gone, the one that the run keeps in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from mizzen.cluster import explain, streams
from mizzen.cluster.explain import Evidence, time_of
from mizzen.cluster.jobs import Job, numbers
from mizzen.cluster.kube import (
    EVENTS,
    KUEUE,
    PODS,
    RAY_CLUSTERS,
    RAY_JOBS,
    Kind,
    Kube,
    Object,
)
from mizzen.cluster.train_job import (
    CANCELLED_NOTE,
    JOB_LABEL,
    MODEL_NOTE,
    QUEUE_LABEL,
    SELECTOR,
    STORE_NOTE,
    WORKERS_NOTE,
    WORKLOAD_LABEL,
)
from mizzen.errors import ClusterError, InputError, MizzenError, NotFoundError, StoreError
from mizzen.settings import Settings
from mizzen.store import audit
from mizzen.store.runs import ENDED, Place, RunRecord, Runs

TAIL_LINES = 400
list_ = list  # the class has a method of that name


class KubeJobs:
    """The training jobs in one namespace."""

    place: Place = "kubernetes"

    def __init__(self, kube: Kube, settings: Settings, sleep: Callable[[float], None] = time.sleep) -> None:
        self._kube, self._settings, self._sleep = kube, settings, sleep

    def list(self) -> list[Job]:
        """See `jobs.Jobs`."""
        rayjobs = self._kube.find(RAY_JOBS, SELECTOR)
        found = [self._job(rayjob, explain.at_a_glance(rayjob)) for rayjob in rayjobs]
        return sorted(found, key=lambda job: (job.created_at is not None, job.created_at), reverse=True)

    def show(self, name: str) -> Job:
        """See `jobs.Jobs`."""
        rayjob = self._rayjob(name)
        return self._job(rayjob, explain.reason(self.evidence(rayjob)), self._record(rayjob))

    def logs(self, name: str, follow: bool) -> Iterator[str]:
        """See `jobs.Jobs`."""
        told = Told()
        pod = self._submitter(name, follow, told)
        if pod is None:
            yield from self._kept(name)
            return
        while pod is not None:
            told.begin(pod)
            if told.again:
                yield f"--- the job is tried again ({pod['metadata']['name']}) ---"
            try:
                for line in self._lines(pod, follow):
                    if told.is_new(line):
                        yield line
            except ClusterError:
                if told.anything:
                    raise
                yield from self._kept(name)  # its node may be gone
                return
            pod = self._submitter(name, follow, told) if follow else None

    def cancel(self, name: str) -> None:
        """End the job now, as if its deadline had come, and let its machines go.

        Not `spec.suspend`, which would take the submitter's log away and which Kueue takes back. A job on a
        cluster that runs already is deleted: only then does KubeRay stop what it started there. So is one
        that Kueue has not admitted: KubeRay looks at its deadline only after that.
        """
        rayjob = self._rayjob(name)
        if explain.state(rayjob) in ENDED:
            raise ClusterError(f"{name} has ended already", saw=explain.state(rayjob))
        self._end(rayjob)
        # Afterwards, for the store may not be reached from here; Kubernetes' own audit log has it anyway.
        if (runs := self._runs(rayjob)) is not None:
            audit.note(runs.objects, "job.cancel", name, {"place": self.place})

    def _end(self, rayjob: Object) -> None:
        name = rayjob["metadata"]["name"]
        if rayjob["spec"].get("clusterSelector") or rayjob["spec"].get("suspend"):
            self._kube.delete(RAY_JOBS, name)
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._kube.patch(
            RAY_JOBS,
            name,
            {
                "metadata": {"annotations": {CANCELLED_NOTE: now}},
                "spec": {"activeDeadlineSeconds": 1, "ttlSecondsAfterFinished": 0},
            },
        )

    def delete(self, name: str) -> None:
        """See `jobs.Jobs`; the record and log in the store go too, unless that is a folder of the pods alone.

        Raises `StoreError` if they cannot be removed; the job itself is deleted by then.
        """
        rayjob = self._rayjob(name)
        state = explain.state(rayjob)
        if state not in ENDED:
            raise ClusterError(
                f"{name} has not ended", saw=state, remedy=f"Stop it first: mizzen jobs cancel {name}"
            )
        self._kube.delete(RAY_JOBS, name)
        runs = self._runs(rayjob)
        if runs is None:
            return
        audit.note(runs.objects, "job.delete", name, {"place": self.place})
        try:
            runs.delete(name)
        except StoreError as cause:
            raise StoreError(
                f"{name} is deleted, its record and log in the store are not: {cause.what}",
                saw=cause.saw,
                remedy=cause.remedy,
            ) from None

    def evidence(self, rayjob: Object) -> Evidence:
        """What the API tells about a job; what may not be read is left out."""
        name, status = rayjob["metadata"]["name"], rayjob.get("status") or {}
        cluster_name = status.get("rayClusterName") or ""
        pods = self._kube.may_find(PODS, f"job-name={name}")
        if cluster_name and not rayjob["spec"].get("clusterSelector"):
            pods += self._kube.may_find(PODS, f"ray.io/cluster={cluster_name}")
        names = {name, cluster_name, *(pod["metadata"]["name"] for pod in pods)}
        events = [
            event
            for event in self._kube.may_find(EVENTS)
            if (event.get("involvedObject") or {}).get("name") in names
        ]
        failed = explain.state(rayjob) == "failed"
        return Evidence(
            rayjob=rayjob,
            cluster=self._may_get(RAY_CLUSTERS, cluster_name) if cluster_name else None,
            pods=pods,
            events=events,
            workload=self._workload(rayjob),
            log="\n".join(self._tail(name)) if failed else "",
            now=datetime.now(UTC),
        )

    # --- one job ----------------------------------------------------------------------------------

    def _rayjob(self, name: str) -> Object:
        try:
            return self._kube.get(RAY_JOBS, name)
        except NotFoundError as cause:
            raise NotFoundError(
                f"no job {name!r} in the namespace {self._kube.namespace!r}",
                saw=cause.saw,
                remedy="`mizzen jobs list --on kubernetes` names those that are there; --namespace chooses"
                " another namespace.",
            ) from None

    def _job(self, rayjob: Object, why: str, record: RunRecord | None = None) -> Job:
        about, status = rayjob["metadata"], rayjob.get("status") or {}
        labels, notes = about.get("labels") or {}, about.get("annotations") or {}
        info = status.get("rayJobInfo") or {}
        where = explain.state(rayjob)
        cluster = status.get("rayClusterName") or ""
        min_workers, workers = numbers(notes.get(WORKERS_NOTE, ""))
        published = where == "succeeded" and record is not None and record.version is not None
        return Job(
            name=about["name"],
            state=where,
            reason=why or (record.error or "" if record and where == "failed" else ""),
            job=labels.get(JOB_LABEL, ""),
            workload=labels.get(WORKLOAD_LABEL, ""),
            created_at=time_of(about.get("creationTimestamp")),
            started_at=time_of(info.get("startTime")),
            ended_at=time_of(status.get("endTime") or info.get("endTime")),
            workers=workers,
            min_workers=min_workers,
            model=(record.model if record else None) or notes.get(MODEL_NOTE) if published else None,
            version=record.version if record and published else None,
            events=record.events if record else (),
            where=f"{about['namespace']}{f'/{cluster}' if cluster else ''}",
        )

    def _workload(self, rayjob: Object) -> Object | None:
        if QUEUE_LABEL not in (rayjob["metadata"].get("labels") or {}):
            return None
        group = self._kube.discover(f"/apis/{KUEUE}") or {}
        version = (group.get("preferredVersion") or {}).get("version", "v1beta1")
        labels = f"{KUEUE}/job-uid={rayjob['metadata'].get('uid', '')}"
        found = self._kube.may_find(Kind("workloads", KUEUE, version), labels)
        return found[0] if found else None

    # --- logs -------------------------------------------------------------------------------------

    def _submitter(self, name: str, wait: bool, told: Told) -> Object | None:
        """The newest submitter pod that has not been told yet; None if there is none (any more)."""
        for found in self._submitters(name, wait):
            pods = [pod for pod in found if pod["metadata"]["uid"] not in told.pods and has_begun(pod)]
            if pods:
                return max(pods, key=created)
            rayjob = streams.patiently(self._kube, lambda: self._rayjob(name), self._sleep)
            if explain.state(rayjob) in ENDED:
                break
        return None

    def _submitters(self, name: str, wait: bool) -> Iterator[list_[Object]]:
        labels = f"job-name={name}"
        if wait:
            yield from streams.watch(self._kube, PODS, labels, sleep=self._sleep)
        else:
            yield self._kube.find(PODS, labels)

    def _lines(self, pod: Object, follow: bool) -> Iterator[str]:
        name = pod["metadata"]["name"]
        container = pod["spec"]["containers"][0]["name"]

        def running() -> bool:
            return is_running(self._kube.get(PODS, name), container)

        try:
            yield from streams.follow(self._kube, name, container, running if follow else None, self._sleep)
        except (NotFoundError, InputError):
            return  # deleted while we read, or stopped before it said anything: the next one follows

    def _tail(self, name: str) -> list_[str]:
        try:
            begun = [pod for pod in self._kube.find(PODS, f"job-name={name}") if has_begun(pod)]
            if begun:
                newest = max(begun, key=created)
                container = newest["spec"]["containers"][0]["name"]
                return streams.tail(self._kube, newest["metadata"]["name"], container, TAIL_LINES)
            return list_(self._kept(name))[-TAIL_LINES:]
        except MizzenError:
            return []  # then the reason must do without

    def _kept(self, name: str) -> Iterator[str]:
        """The log that the run has left in the store."""
        rayjob = self._rayjob(name)
        runs = self._runs(rayjob)
        if runs is not None and runs.find(name) is not None:
            yield from runs.log(name).new_lines()
            return
        notes = rayjob["metadata"].get("annotations") or {}
        why = explain.reason(self.evidence(rayjob)) if explain.state(rayjob) != "failed" else ""
        raise NotFoundError(
            f"{name} has no log: the pod that submits it {'is gone' if why == '' else 'has not begun'}",
            saw=why or None,
            remedy=f"What the run has said is kept in its store: {notes.get(STORE_NOTE, 'unknown')}, below"
            f" runs/{name}/log; read it from where that store can be reached.",
        )

    def _runs(self, rayjob: Object) -> Runs | None:
        """The runs in the job's store, unless that is a folder which only its pods have."""
        url = (rayjob["metadata"].get("annotations") or {}).get(STORE_NOTE, "")
        inside = url.startswith(("file://", "memory://")) and url != self._settings.store_url
        return Runs(url) if url and not inside else None

    def _record(self, rayjob: Object) -> RunRecord | None:
        """What the run itself has written about how it stands, if that can be read from here."""
        runs = self._runs(rayjob)
        try:
            return runs.find(rayjob["metadata"]["name"]) if runs else None
        except MizzenError:
            return None  # no credentials for the store here: the cluster's own word must do

    # --- what one may not be allowed to read --------------------------------------------------------

    def _may_get(self, kind: Kind, name: str) -> Object | None:
        try:
            return self._kube.get(kind, name)
        except (ClusterError, NotFoundError):
            return None


class Told:
    """What of a job's log has been told: a submitter that is replaced tells the same log from the start."""

    def __init__(self) -> None:
        self.pods: set[str] = set()
        self.again = False
        """Whether the pod at hand belongs to a new attempt of the whole job."""
        self._attempt = ""
        self._lines: list_[str] = []
        self._next = 0
        self._repeats = False

    @property
    def anything(self) -> bool:
        """Whether the attempt at hand has said anything."""
        return bool(self._lines)

    def begin(self, pod: Mapping[str, Any]) -> None:
        """Another pod begins to tell."""
        attempt = attempt_of(pod)
        self.again = bool(self._attempt) and attempt != self._attempt
        self._repeats = attempt == self._attempt
        if not self._repeats:
            self._lines = []
        self._attempt, self._next = attempt, 0
        self.pods.add(pod["metadata"]["uid"])

    def is_new(self, line: str) -> bool:
        """Whether `line` has not been told before, by an earlier pod of the same attempt."""
        if self._repeats:
            try:
                self._next = self._lines.index(line, self._next) + 1
                return False
            except ValueError:
                self._repeats = self._next == 0  # what is new comes after what is old
        self._lines.append(line)
        return True


def attempt_of(pod: Mapping[str, Any]) -> str:
    """The Kubernetes Job that made a submitter; each attempt of the whole job has one of its own."""
    owners = pod["metadata"].get("ownerReferences") or []
    return str(owners[0]["uid"]) if owners else ""


def has_begun(pod: Mapping[str, Any]) -> bool:
    """Whether a pod's first container has run, so that it may have a log."""
    return (pod.get("status") or {}).get("phase") in ("Running", "Succeeded", "Failed")


def is_running(pod: Mapping[str, Any], container: str) -> bool:
    """Whether the container still runs."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return any(s["name"] == container and "running" in (s.get("state") or {}) for s in statuses)


def created(thing: Mapping[str, Any]) -> str:
    """When an object was made, as text that sorts."""
    return str(thing["metadata"].get("creationTimestamp", ""))
