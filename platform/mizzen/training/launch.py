"""Runs a job on Ray Train V2: workers, progress, checkpoints to storage. `worker` is what each rank runs.

It does not export or publish: `publish` does.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mizzen import local_ray, tracing
from mizzen.errors import IntegrityError, MizzenError, TrainingError
from mizzen.settings import Settings
from mizzen.store.objects import Objects
from mizzen.store.runs import EventKind
from mizzen.training import data
from mizzen.training.checkpoints import Checkpoints, best_of, last_evaluated
from mizzen.training.engine import configuration
from mizzen.training.job import TrainJob
from mizzen.training.result import TrainResult, keep, run_folder, run_id
from mizzen.training.road import Road
from mizzen.training.tables import RaySources
from mizzen.training.worker import Began, Happened, Note, Progress, train_worker
from mizzen.workloads.contract import Prepared

POLL_EVERY_S = 0.5

MAX_TRACEBACK_LINES = 12
DEATHS = {
    "low on memory": "Ray killed its process because the machine ran out of memory",
    "node has died": "its machine is gone",
    "worker process has died": "its process was killed (most often for want of memory), or it crashed",
}
"""What Ray says at length of a worker that could not say anything itself."""
MORE_MEMORY = (
    "Give workers more memory (on Kubernetes: cluster.worker_memory), lower training.micro_batch_size, or "
    "spread the model's states with deepspeed.zero_stage; cluster.retries goes on from the last checkpoint."
)

Watch = Callable[[Progress], None]
Say = Callable[[str], None]


def _silent(line: str) -> None:
    """Tell nobody."""


def _uncounted() -> None:
    """For a run whose starts nobody counts."""


def _untold(kind: EventKind, text: str) -> None:
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
    local_ray.init(settings, num_cpus=math.ceil(wanted) + 2)
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
    event: Callable[[EventKind, str], None] = _untold,
) -> TrainResult:
    """Train `job` on prepared data; Ray must be up. Raises `TrainingError`.

    `began` is called each time that the workers begin, `event` with what happens besides steps.

    A `run` that was begun before under this id, on a Ray of more than this process's own, goes on from its
    last checkpoint.
    """
    run = run or run_id(job)
    folder = run_folder(job, run, settings)
    started = time.monotonic()
    if job.training.steps == 0:
        outcome: dict[str, Any] = {"initial": {}, "steps": 0, "reason": "no step was asked for"}
        checkpoint: Path | None = None
        best: dict[str, float] = {}
    else:
        road, letters = Road.of(run, folder, settings), Letters(watch, say, began, event)
        outcome, checkpoint, best = _fit(job, prepared, road, settings, letters)
    result = TrainResult(
        run_id=run,
        folder=folder,
        checkpoint=checkpoint,
        metrics=best,
        initial_metrics=outcome["initial"],
        num_steps=outcome["steps"],
        reason=outcome["reason"],
        world_size=job.scaling.max_workers,
        deepspeed=configuration(job),
        duration_s=time.monotonic() - started,
    )
    keep(result)
    return result


def _fit(
    job: TrainJob, prepared: Prepared, road: Road, settings: Settings, letters: Letters
) -> tuple[dict[str, Any], Path, dict[str, float]]:
    import ray
    from ray.train.v2.api.exceptions import TrainingFailedError

    # On this process's own node: any other may go before the run has ended.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    mailbox = ray.remote(num_cpus=0, label_selector=here)(Mailbox).remote()
    for line in shortages(job, ray.cluster_resources()):
        letters.say(line)
    try:
        with road.open(prepared, settings), _watching(mailbox, letters):
            result = _trainer(job, prepared, road, settings, mailbox).fit()
    except TrainingFailedError as cause:
        raise explained(cause) from None
    finally:
        ray.kill(mailbox)
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
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    scaling = job.scaling
    on_gpu = scaling.gpus_per_worker > 0
    resources = {"CPU": scaling.cpus_per_worker, **({"GPU": scaling.gpus_per_worker} if on_gpu else {})}
    # On a Ray of this machine's own the ranks meet in a file: PyTorch's store, which Ray's torch trainer
    # uses, listens on every interface and answers anybody.
    if road.alone:
        trainer_of: Any = DataParallelTrainer
    else:
        trainer_of = partial(TorchTrainer, torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"))
    return trainer_of(
        train_worker,
        train_loop_config={
            "job": job.model_dump(mode="json", exclude_unset=True),
            "run_id": road.run,
            "digest": prepared.digest,
            "checkpoints": road.checkpoints(settings),
            "prepared": str(prepared.folder) if road.alone else None,
            "mailbox": mailbox,
            "traceparent": tracing.current().traceparent,
            "meeting_file": str(road.folder / "meeting") if road.alone else None,
        },
        scaling_config=ScalingConfig(
            num_workers=(
                (scaling.min_workers, scaling.max_workers) if scaling.is_elastic else scaling.max_workers
            ),
            elastic_resize_monitor_interval_s=scaling.resize_every_s,
            use_gpu=on_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=road.storage,
            storage_filesystem=road.filesystem,
            worker_runtime_env={"env_vars": worker_environment(job, settings)},
        ),
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
    return {
        "MIZZEN_STORE": settings.store_url,
        "OMP_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def explained(cause: Any) -> MizzenError:
    """The first worker's error: a sentence, and below it the lines of its traceback that matter."""
    failures = getattr(cause, "worker_failures", None) or {}
    for rank, failure in sorted(failures.items()):
        inner = getattr(failure, "cause", None) or failure
        if isinstance(inner, MizzenError):
            return inner
        lines = [line for line in str(failure).splitlines() if line.strip()]
        for phrase, sentence in DEATHS.items():
            if phrase in str(failure):
                return TrainingError(f"worker {rank} of the run failed: {sentence}", remedy=MORE_MEMORY)
        said = lines[-1] if lines else type(inner).__name__
        below = "".join(f"\n  {line}" for line in lines[-MAX_TRACEBACK_LINES:])
        return TrainingError(f"worker {rank} of the run failed: {said}{below}")
    return TrainingError(f"the run failed: {cause}")


Letter = Progress | Note | Began | Happened


@dataclass(frozen=True)
class Letters:
    """Who gets which letter of the workers'."""

    watch: Watch
    say: Say
    began: Callable[[], None]
    event: Callable[[EventKind, str], None]

    def deliver(self, letter: Letter) -> None:
        """Hand a letter over."""
        match letter:
            case Note():
                self.say(letter.text)
            case Began():
                self.began()
            case Happened():
                self.event(letter.kind, letter.text)
            case _:
                self.watch(letter)


class Mailbox:
    """A Ray actor that carries progress and notes from the workers to the process that launched the run."""

    def __init__(self) -> None:
        self._letters: list[Letter] = []

    def put(self, letter: Letter) -> None:
        """Leave a letter."""
        self._letters.append(letter)

    def take(self) -> list[Letter]:
        """All letters that have come since the last call."""
        letters, self._letters = self._letters, []
        return letters


@contextmanager
def _watching(mailbox: Any, letters: Letters) -> Iterator[None]:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    over = threading.Event()

    def follow() -> None:
        last = False
        while not last:
            last = over.wait(POLL_EVERY_S)
            try:
                for letter in ray.get(mailbox.take.remote(), timeout=5):
                    letters.deliver(letter)
            except GetTimeoutError:
                continue  # the machine is busy
            except RayError:
                return  # the run is over and the mailbox with it

    thread = threading.Thread(target=follow, name="mizzen-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10)
