"""The part of `mizzen train` that hands a job to a cluster instead of training it here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mizzen.cli import jobs as verbs
from mizzen.cli import output
from mizzen.errors import MizzenError, NotFoundError, TrainingError

if TYPE_CHECKING:
    from mizzen.cluster.config import ClusterConfig
    from mizzen.cluster.kube import Kube
    from mizzen.training.job import TrainJob


def resumed_on_ray(job: TrainJob, wanted: str | None, address: str | None) -> str:
    """The run of a Ray cluster to go on with; people are told which."""
    from mizzen.cluster.ray_jobs import RayJobs
    from mizzen.settings import current

    return _resumed(job, wanted, RayJobs(address, current()))


def resumed_on_kubernetes(
    job: TrainJob, wanted: str | None, namespace: str | None, context: str | None
) -> str:
    """The run on Kubernetes to go on with; people are told which. This machine has to reach the store."""
    from mizzen.cluster.kube import connect
    from mizzen.cluster.kube_jobs import KubeJobs
    from mizzen.settings import current

    return _resumed(job, wanted, KubeJobs(connect(namespace, context), current()))


def _resumed(job: TrainJob, wanted: str | None, place: Any) -> str:
    from mizzen.settings import current
    from mizzen.training.resuming import chosen

    def ended(run: str) -> bool:
        try:
            return bool(place.show(run).ended)
        except NotFoundError:
            return True  # the cluster has forgotten it

    record, last = chosen(job, wanted, place.place, current(), ended)
    output.say(f"going on with run {record.run_id} after step {last.step}")
    return record.run_id


def to_ray(job: TrainJob, address: str | None, *, run: str | None, follow: bool, json: bool) -> None:
    """Submit to a running Ray cluster by its Jobs API; `run` is the id of one that goes on."""
    from mizzen.cluster.ray_jobs import RayJobs
    from mizzen.settings import current

    place = RayJobs(address, current())
    with _traced(job, "ray"):
        run = place.submit(job, run)
    _finish(place, run, follow=follow, json=json)


def to_kubernetes(
    job: TrainJob,
    *,
    namespace: str | None,
    context: str | None,
    release: str | None,
    image: str | None,
    cluster: str | None,
    dry_run: bool,
    follow: bool,
    json: bool,
    run: str | None = None,
) -> None:
    """Make a RayJob of it, or print the manifest; `run` is the id of one that goes on."""
    from mizzen.cluster import train_job
    from mizzen.cluster.kube_jobs import KubeJobs
    from mizzen.settings import current
    from mizzen.training.result import run_id

    if image is not None:
        job = job.model_copy(update={"cluster": job.cluster.model_copy(update={"image": image})})
    resumes, run = run is not None, run or run_id(job)
    if dry_run:
        _show_manifest(job, namespace, context, release, cluster, run)
        return
    from mizzen.cluster.kube import connect

    kube = connect(namespace, context)
    with _traced(job, "kubernetes"):
        if resumes:
            train_job.make_room(kube, run)
        train_job.submit(kube, job, _config(kube, release, job), run, cluster)
    _finish(KubeJobs(kube, current()), run, follow=follow, json=json)


@contextmanager
def _traced(job: TrainJob, place: str) -> Iterator[None]:
    """The job's own spans lie below the one of its submission."""
    from mizzen import tracing
    from mizzen.settings import current

    tracing.start(role="command line")
    try:
        with tracing.below(current().traceparent), tracing.span("submit", train_job=job.name, on=place):
            yield
    finally:
        tracing.flush()


def _show_manifest(
    job: TrainJob,
    namespace: str | None,
    context: str | None,
    release: str | None,
    cluster: str | None,
    run: str,
) -> None:
    """Everything that would be created, as YAML: `kubectl create -f -` takes it."""
    import yaml

    from mizzen.cluster import code_archive, train_job
    from mizzen.cluster.config import ClusterConfig
    from mizzen.cluster.kube import connect

    try:
        kube = connect(namespace, context)
        config, namespace = _config(kube, release, job), kube.namespace
    except MizzenError as cause:
        if job.cluster.image is None or release is not None:
            raise
        # An image is all that a manifest needs to know; the rest has defaults.
        output.say(f"without the cluster's own configuration ({cause.what})")
        config, namespace = ClusterConfig(), namespace or "default"
    folder = job.cluster.working_dir
    code = code_archive.pack(folder) if folder else None
    made = train_job.manifest(job, config, run, namespace, cluster, code=code is not None)
    documents = [made, *([train_job.code_config_map(made, code)] if code is not None else [])]
    print(yaml.safe_dump_all(documents, sort_keys=False, width=110), end="")


def _config(kube: Kube, release: str | None, job: TrainJob) -> ClusterConfig:
    """The release's configuration; the plain defaults if there is no release but an image is named."""
    from mizzen.cluster import config

    try:
        return config.load(kube, release)
    except NotFoundError:
        if release is not None or job.cluster.image is None:
            raise
        return config.ClusterConfig()


def _finish(place: Any, name: str, *, follow: bool, json: bool) -> None:
    """Say what was submitted; with `follow`, print its log and end as it ends."""
    if not follow:
        if json:
            output.show_json({"name": name, "on": place.place})
        else:
            output.out.print(f"submitted [bold]{name}[/bold]")
            output.say(f"follow it with `mizzen jobs logs {name} --follow --on {place.place}`")
        return
    output.say(f"submitted {name}; Ctrl-C leaves it running")
    job = verbs.follow(place, name)
    if json:
        output.show_json(verbs.for_scripts(job))
    if job.state != "succeeded":
        raise TrainingError(
            f"{name} has {'been cancelled' if job.state == 'cancelled' else job.state}",
            saw=job.reason or None,
            remedy=f"See `mizzen jobs show {name} --on {place.place}`.",
        )
    if not json:
        version = verbs.published(job)
        output.out.print(f"[bold]{name}[/bold] succeeded{f': {version}' if version else ''}")
