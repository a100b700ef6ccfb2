"""Runs a job on Ray Train V2: workers, progress, checkpoints to storage. `worker` is what each rank runs.

It does not export or publish: `publish` does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mizzen import local_ray, tracing
from mizzen.errors import IntegrityError, NoticeError, TrainingError
from mizzen.settings import Settings
from mizzen.store.objects import Objects
from mizzen.store.runs import EventKind
from mizzen.training import data, start_up
from mizzen.training.checkpoints import Checkpoints, best_of, last_evaluated
from mizzen.training.configuration import configuration
from mizzen.training.failures import explained
from mizzen.training.faults import Stalls, collective_timeout_s
from mizzen.training.job import TrainJob
from mizzen.training.mailbox import Letters, Mailbox, Notice, Progress, watching
from mizzen.training.result import TrainResult, keep, run_folder, run_id
from mizzen.training.resuming import check_data
from mizzen.training.road import Road
from mizzen.training.tables import RaySources
from mizzen.training.worker import train_worker
from mizzen.workloads.contract import Prepared

Watch = Callable[[Progress], None]
Say = Callable[[str], None]


ALONE = {
    # Nobody takes this machine away from a Ray of its own; a process would ask every few seconds.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Workers are what the machine is for: at Ray's 15 whatever else wakes up takes its time from them.
    "RAY_worker_niceness": "0",
    # What nobody reads: each of a dozen processes would collect and send it every second or ten.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
}
"""Of a Ray that trains and then ends; with these a step on a small machine takes some percent less."""


def _silent(line: str) -> None:
    """Tell nobody."""


def _uncounted() -> None:
    """For a run whose starts nobody counts."""


def untold(kind: EventKind, text: str) -> None:
    """For a run whose history nobody keeps."""


@contextmanager
def ray_for(jobs: Sequence[TrainJob], settings: Settings) -> Iterator[None]:
    """A Ray to train `jobs` on, one after the other: the one this process is in, or one of its own."""
    import ray

    if ray.is_initialized():
        yield
        return
    # More CPUs than the workers take, for Ray Data and Ray Train's own controller.
    wanted = max(job.scaling.max_workers * job.scaling.cpus_per_worker for job in jobs)
    local_ray.init(settings, num_cpus=math.ceil(wanted) + 2, variables=ALONE)
    try:
        yield
    finally:
        local_ray.shutdown()


def prepare(job: TrainJob, settings: Settings, say: Say) -> Prepared:
    """The job's data; Ray must be up."""
    return data.prepare(job, RaySources(), settings, say)


def train(
    job: TrainJob,
    prepared: Prepared,
    settings: Settings,
    watch: Watch,
    *,
    run: str | None = None,
    say: Say = _silent,
    began: Callable[[], None] = _uncounted,
    event: Callable[[EventKind, str], None] = untold,
    notice: Notice | None = None,
    started_up: Callable[[Mapping[str, float]], None] = lambda parts: None,
) -> TrainResult:
    """Train `job` on prepared data; Ray must be up. Raises `TrainingError`.

    `began` is called each time that the workers begin, `event` with what happens besides steps. Once `notice`
    is given, the run ends after a checkpoint: as `NoticeError`. `started_up` is told what passed before the
    first step was done, as `start_up` has it.

    A `run` that was begun before under this id goes on from its last checkpoint.
    """
    run = run or run_id(job)
    folder = run_folder(job, run, settings)
    started = time.monotonic()
    if job.training.steps == 0:
        outcome: dict[str, Any] = {
            "initial": {},
            "steps": 0,
            "reason": "no step was asked for",
            "workers": job.scaling.max_workers,
        }
        checkpoint: Path | None = None
        best: dict[str, float] = {}
    else:
        road = Road.of(run, folder, settings)
        letters = Letters(watch, say, began, event, Stalls(job.faults), started_up)
        outcome, checkpoint, best = _fit(job, prepared, road, settings, letters, notice or Notice())
    result = TrainResult(
        run_id=run,
        folder=folder,
        checkpoint=checkpoint,
        metrics=best,
        initial_metrics=outcome["initial"],
        num_steps=outcome["steps"],
        reason=outcome["reason"],
        world_size=outcome["workers"],
        deepspeed=configuration(job, outcome["workers"]),
        duration_s=time.monotonic() - started,
    )
    keep(result)
    return result


def _fit(
    job: TrainJob, prepared: Prepared, road: Road, settings: Settings, letters: Letters, notice: Notice
) -> tuple[dict[str, Any], Path, dict[str, float]]:
    import ray
    from ray.train.v2.api.exceptions import TrainingFailedError

    # On this process's own node: any other may go before the run has ended.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    mailbox = ray.remote(num_cpus=0, label_selector=here)(Mailbox).remote()
    for line in shortages(job, ray.cluster_resources()):
        letters.say(line)
    url, kept_below = road.checkpoints(settings)
    check_data(Checkpoints(Objects(url), kept_below).last(), prepared.digest)
    try:
        with road.open(prepared, settings), watching(mailbox, letters, job.faults, notice):
            result = _trainer(job, prepared, road, settings, mailbox).fit()
    except TrainingFailedError as cause:
        if notice.given.is_set():
            raise NoticeError("the run was stopped, and its workers failed meanwhile") from None
        raise letters.stopped or explained(cause, letters.failures[:-1]) from None
    finally:
        ray.kill(mailbox)
    if notice.given.is_set():
        raise NoticeError("the run was stopped", saw=f"step {(result.return_value or {}).get('steps')}")
    folder, metrics = published_checkpoint(job, road, settings, letters)
    return result.return_value or {}, folder, metrics


def published_checkpoint(
    job: TrainJob, road: Road, settings: Settings, letters: Letters
) -> tuple[Path, dict[str, float]]:
    """The checkpoint that a run that has ended publishes, on this machine, with its validation.

    One that is damaged is passed over, and told of. Raises `TrainingError` if none is left.
    """
    quality, (url, folder) = job.implementation.quality, road.checkpoints(settings)
    found = Checkpoints(Objects(url), folder, partial(letters.event, "checkpoint_refused"))
    best = best_of if job.checkpointing.best else last_evaluated
    while True:
        complete = found.complete()
        chosen = best(complete, quality) or last_evaluated(complete, quality)
        if chosen is None:
            raise TrainingError("the run ended without a checkpoint that was evaluated", saw=road.storage)
        try:
            return road.fetched(found, chosen), dict(chosen.lead.metrics)
        except IntegrityError as cause:
            found.refuse(chosen.name, str(cause))


def _trainer(job: TrainJob, prepared: Prepared, road: Road, settings: Settings, mailbox: Any) -> Any:
    from ray.train import RunConfig, ScalingConfig

    from mizzen.training.ray_policy import AloneTrainer, HeedSigterm, RayFailures, cluster_trainer
    from mizzen.training.ray_scaling import RayScaling

    scaling = job.scaling
    on_gpu = scaling.gpus_per_worker > 0
    resources = {"CPU": scaling.cpus_per_worker, **({"GPU": scaling.gpus_per_worker} if on_gpu else {})}
    workers = ScalingConfig(
        num_workers=(scaling.min_workers, scaling.max_workers) if scaling.is_elastic else scaling.max_workers,
        elastic_resize_monitor_interval_s=scaling.resize_every_s,
        use_gpu=on_gpu,
        resources_per_worker=resources,
    )
    # On a Ray of this machine's own the ranks meet in a file: PyTorch's store, which Ray's torch trainer
    # uses, listens on every interface and answers anybody.
    if road.alone:
        trainer: Any = AloneTrainer
        backend: dict[str, Any] = {}
    else:
        from ray.train.torch import TorchConfig  # imports PyTorch

        trainer = cluster_trainer()
        timeout_s = math.ceil(collective_timeout_s(job.faults))
        backend = {"torch_config": TorchConfig("nccl" if on_gpu else "gloo", timeout_s=timeout_s)}
    return trainer(
        train_worker,
        train_loop_config={
            "job": job.model_dump(mode="json", exclude_unset=True),
            "run_id": road.run,
            "digest": prepared.digest,
            "checkpoints": road.checkpoints(settings),
            "prepared": str(prepared.folder) if road.alone else None,
            "mailbox": mailbox,
            "start_up": start_up.handed_on(),
            "traceparent": tracing.current().traceparent,
            "meeting": str(road.folder / "meeting") if road.alone else None,
        },
        scaling_config=workers,
        run_config=RunConfig(
            name="ray",
            storage_path=road.storage,
            storage_filesystem=road.filesystem,
            worker_runtime_env={"env_vars": worker_environment(job, settings)},
            callbacks=[HeedSigterm()],
        ),
        failures=RayFailures(job.faults.max_failures, mailbox),
        scaling=RayScaling(workers, mailbox) if scaling.is_elastic else None,
        **backend,
    )


def shortages(job: TrainJob, present: Mapping[str, float]) -> list[str]:
    """What to say if the machines of a cluster are too few now: Ray Train waits for more, without a word."""
    scaling = job.scaling
    wanted = {"CPU": scaling.cpus_per_worker, "GPU": float(scaling.gpus_per_worker)}
    return [
        f"the run takes {scaling.min_workers * each:g} {kind}s and the cluster has {present.get(kind, 0):g}: "
        "it waits for more"
        for kind, each in wanted.items()
        if scaling.min_workers * each > present.get(kind, 0)
    ]


def worker_environment(job: TrainJob, settings: Settings) -> dict[str, str]:
    """Environment variables of the workers; each machine has a `MIZZEN_HOME` of its own."""
    threads = str(max(1, int(job.scaling.cpus_per_worker)))
    # Ray Train trains in a thread, to which glibc gives a heap of its own that keeps no large block: a step's
    # tensors would come from the kernel page by page, again and again, and a step take 10% longer.
    one_heap = {} if job.scaling.gpus_per_worker else {"MALLOC_ARENA_MAX": "1"}
    return {
        **one_heap,
        "MIZZEN_STORE": settings.store_url,
        "OMP_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
