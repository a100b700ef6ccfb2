"""A rank of a Ray Train run: it joins the others, runs the loop, and reports to Ray and to the metrics.

`launch` starts it, `loop` trains.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from mizzen import recording
from mizzen.errors import NoticeError
from mizzen.settings import Settings, current
from mizzen.store.objects import Objects
from mizzen.store.runs import EventKind
from mizzen.training import data, loop, on_nvme, pause, start_up, telemetry
from mizzen.training.checkpoints import Checkpoints
from mizzen.training.engine import choose_accelerator
from mizzen.training.faults import collective_timeout_s
from mizzen.training.job import TrainJob, parse
from mizzen.training.mailbox import Began, Happened, Note, Progress, Sender, StartedUp
from mizzen.training.pulse import END, NOTICE, Heart, drained_nodes
from mizzen.training.rank_checkpoints import Ears, Rank, RankCheckpoints
from mizzen.training.worker_series import WorkerSeries

MAX_WARNINGS = 20
TOLD_BY_ALL = ("skipped", "rolled_back")
"""What every rank knows: the first one tells it."""
FOR_DEVELOPERS = ("DeprecationWarning:", "FutureWarning:")
"""Warnings that say nothing about the run."""


class RayWorker:
    """A rank of a Ray Train run; `loop.Worker`."""

    def __init__(self, job: TrainJob, config: Mapping[str, Any], settings: Settings) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self._ranks_here = context.get_local_world_size()
        self.device = ray.train.torch.get_device()
        self._sender: Sender = config["sender"]
        self._heart = Heart(self.rank, job.faults, self._sender)
        self.step = 0
        """The last that is done."""
        self._steps = telemetry.Steps()
        self._series = WorkerSeries(job, config["run_id"], self.rank, self.world_size, self.device)
        self.checkpoints = self._checkpoints(job, config, settings)

    def began(self, step: int, num_steps: int) -> None:
        """See `loop.Worker`."""
        self.step = step
        self._heart.advanced()
        self._series.began(step, num_steps)
        if self.rank == 0:
            self._sender.put(Began(step))

    def step_done(self, done: loop.StepDone) -> None:
        """See `loop.Worker`."""
        self.step = done.step
        self._heart.advanced(stepped=True)
        if (parts := start_up.over()) and self.rank == 0:
            self._sender.put(StartedUp(parts))
        told = self._series.step_done(done)
        self._steps.done(done)
        if told is not None and self.rank == 0:
            progress = Progress(done.step, done.num_steps, loss=told.loss, figures=told.figures)
            self._sender.put(progress)

    def alive(self) -> None:
        """See `loop.Worker`."""
        self._heart.advanced()
        self._series.alive()

    def evaluated(self, step: int, num_steps: int, metrics: dict[str, float]) -> None:
        """See `loop.Worker`."""
        self._series.evaluated(metrics)
        if self.rank == 0:
            self._sender.put(Progress(step, num_steps, metrics=metrics))

    def happened(self, kind: EventKind, text: str) -> None:
        """See `loop.Worker`."""
        if self.rank == 0 or kind not in TOLD_BY_ALL:
            self._sender.put(Happened(kind, text))

    def wish(self) -> int:
        """See `loop.Worker`."""
        return self._heart.wish() or (pause.PAUSE if pause.wanted() else 0)

    def leave(self, step: int, wish: int, written: bool) -> str | None:
        """See `loop.Worker`."""
        if wish == pause.PAUSE:
            if written:
                pause.stand_still(self.alive)
            return None
        if wish == END:
            return "stopped on notice"
        if NOTICE.is_set():
            self.happened("notice", f"worker {self.rank} was told to end, after step {step}")
        if self.rank == 0 and (nodes := drained_nodes()):
            self.happened("notice", f"machines are taken away, after step {step}: {', '.join(nodes)}")
        have = "have written a checkpoint" if written else "could not write a checkpoint"
        raise NoticeError(f"the workers were told to end after step {step}, and {have}")

    def close(self) -> None:
        """The worker ends."""
        self._heart.stop()
        self.checkpoints.close()
        self._series.close()

    def _checkpoints(self, job: TrainJob, config: Mapping[str, Any], settings: Settings) -> RankCheckpoints:
        scratch = settings.cache_dir / "checkpoints" / config["run_id"]
        scratch.mkdir(parents=True, exist_ok=True)
        url, folder = config["checkpoints"]
        return RankCheckpoints(
            Checkpoints(Objects(url), folder, partial(self.happened, "checkpoint_refused")),
            Rank(self.rank, self.world_size, self.device, scratch, self._ranks_here),
            job.checkpointing,
            job.implementation.quality,
            config["digest"],
            Ears(self.happened, self._series.blocked, self._series.saved, self.alive),
        )


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """What each Ray Train worker runs."""
    start_up.go_on(config["start_up"])
    start_up.done("workers")
    import torch

    job = on_nvme.of_run(parse(config["job"], "the job"), config["run_id"])
    choose_accelerator(job)
    if job.scaling.gpus_per_worker == 0:
        torch.set_num_threads(max(1, int(job.scaling.cpus_per_worker)))
    settings, sender = current(), Sender(config["mailbox"])
    recording.begin()
    with _notes(sender):
        worker = RayWorker(job, {**config, "sender": sender}, settings)
        start_up.done("libraries")
        with telemetry.worker(job, config["run_id"], worker.rank, config["traceparent"]):
            data.fetch_samples(job, settings, lambda _: None)
            if config["prepared"] is None:
                prepared = data.received(config["run_id"], config["digest"], settings)
                sender.put(Note(f"worker {worker.rank} of {worker.world_size} is on {_node()}"))
            else:
                prepared = data.opened(Path(config["prepared"]))
            try:
                with _process_group(config["meeting"], worker, collective_timeout_s(job.faults)):
                    return loop.run(job, prepared, worker)
            except Exception as error:
                error.add_note(f"after step {worker.step}")
                raise
            finally:
                worker.close()
                on_nvme.clear(job, worker.rank)


def _node() -> str:
    import ray

    context = ray.get_runtime_context()
    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()}, node {context.get_node_id()})"


class _ToLog(logging.Handler):
    """Sends the first warnings of this process to the run's log, each once."""

    def __init__(self, sender: Sender) -> None:
        super().__init__(logging.WARNING)
        self._sender = sender
        self._sent: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        text = f"{record.levelname.lower()} of {record.name}: {record.getMessage()}"
        if any(kind in text for kind in FOR_DEVELOPERS):
            return
        if text not in self._sent and len(self._sent) < MAX_WARNINGS:
            self._sent.add(text)
            self._sender.put(Note(text))


@contextmanager
def _notes(sender: Sender) -> Iterator[None]:
    handler = _ToLog(sender)
    logging.captureWarnings(True)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


@contextmanager
def _process_group(meeting: str | None, worker: RayWorker, timeout_s: float) -> Iterator[None]:
    """Join the other ranks of this machine in a file below the folder `meeting`.

    With None, Ray's torch trainer has done it already. Each start of the workers has a file of its own: what
    ranks that are gone have left in it would be taken for the living.
    """
    import torch
    import torch.distributed
    from ray.train.collective import broadcast_from_rank_zero

    if meeting is None:
        yield
        return
    Path(meeting).mkdir(parents=True, exist_ok=True)
    file = Path(meeting) / str(broadcast_from_rank_zero(secrets.token_hex(8)))
    rank, world_size = str(worker.rank), str(worker.world_size)
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world_size, LOCAL_WORLD_SIZE=world_size)
    on_gpu = worker.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(worker.device)
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"file://{file}",
        timeout=timedelta(seconds=timeout_s),
        rank=worker.rank,
        world_size=worker.world_size,
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
