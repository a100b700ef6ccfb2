"""The checkpoints of a run as one rank sees them: save now, go on from the last that is good.

All methods are collective: every rank calls them at the same step. It decides neither when to save nor what
is kept, and writes nothing itself: `checkpoints` and `checkpoint_writer` do.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mizzen.errors import IntegrityError, StoreError, TrainingError
from mizzen.training import checkpoint_files, random_state
from mizzen.training import engine as deepspeed_engine
from mizzen.training.checkpoint_writer import ALIVE_EVERY_S, CheckpointWriter, Draft, Tell
from mizzen.training.checkpoints import (
    Checkpoint,
    Checkpointing,
    Checkpoints,
    Part,
    RankRecord,
    Standing,
    fresh_token,
    name_of,
    number_of_start,
)
from mizzen.workloads.contract import QualityMetric

log = logging.getLogger(__name__)

SEEDS_APART = 1_000_003
MEMORY_SHARE = 0.5
"""Of the memory that is free on a machine, what the copies of its ranks may take."""


@dataclass(frozen=True)
class Rank:
    """Who asks."""

    rank: int
    world_size: int
    device: Any
    scratch: Path
    """A folder that all ranks of this machine share."""
    ranks_here: int = 1
    """So many are on this machine."""


@dataclass(frozen=True)
class Ears:
    """Who hears of checkpoints."""

    tell: Tell
    """What happens besides, for the run's history."""
    blocked: Callable[[float], None]
    """Seconds that the run has stood still for a checkpoint."""
    written: Callable[[float, int], None]
    """Seconds from the copy to the last object, and bytes; called from another thread."""
    alive: Callable[[], None]
    """Now and then while the run stands still."""


class RankCheckpoints:
    """See the module."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        rank: Rank,
        policy: Checkpointing,
        quality: QualityMetric,
        data_digest: str,
        ears: Ears,
    ) -> None:
        self._checkpoints, self._rank, self._policy = checkpoints, rank, policy
        self._quality = quality if policy.best else None
        self._data_digest, self._ears = data_digest, ears
        self._start, self._token = 0, ""
        self._begun_step: int | None = None
        """Of the last checkpoint that was begun here."""
        self._scratch = rank.scratch / f"shard-{rank.rank:05d}"
        self._writer = CheckpointWriter(
            checkpoints.objects,
            checkpoints.folder,
            tell=ears.tell,
            written=self._written,
            alive=ears.alive,
            retry_for_s=policy.retry_for_s,
        )

    def resume(self, engine: Any) -> Standing | None:
        """Set the engine and this rank's random states to the last good checkpoint; None if there is none.

        One that is damaged is refused, told of, and the one before is taken. Whatever this run wrote before
        counts less than what is saved from now on, also at a lower step: so it is the way back, too.
        """
        self._writer.wait()
        while candidates := self._candidates():
            for checkpoint in candidates:
                if self._restored(engine, checkpoint):
                    return checkpoint.lead.standing
            # All are gone or damaged. Workers of an attempt that was given up may have deleted them in this
            # moment, for newer ones; those that were refused are not found again.
        return None

    def _restored(self, engine: Any, checkpoint: Checkpoint) -> bool:
        """Whether all ranks have the checkpoint's state now; else it is refused."""
        rank, folder, trouble = self._rank, Path(), None
        try:
            files = checkpoint_files.needed(self._checkpoints, checkpoint, rank.rank, rank.world_size)
            folder = checkpoint_files.brought(self._checkpoints, checkpoint, files, rank.scratch)
        except IntegrityError as cause:
            trouble = str(cause)
        if not self._all_can(trouble is None):
            self._checkpoints.refuse(checkpoint.name, trouble)
            return False
        self._load(engine, checkpoint, folder)
        self._tell_resumed(checkpoint)
        return True

    def save(self, engine: Any, standing: Standing, metrics: Mapping[str, float]) -> None:
        """Copy the state as it is now, and have it written; `metrics` are those of this step, if any."""
        started = time.monotonic()
        if not metrics and self._policy.when_busy == "skip" and not self._all_can(not self._writer.busy):
            if self._rank.rank == 0:
                log.warning("no checkpoint after step %d: the one before is on its way", standing.step)
            return
        self._begin(engine, standing, metrics)
        self._ears.blocked(time.monotonic() - started)

    def hold(self, engine: Any, standing: Standing) -> bool:
        """Have this very step in a checkpoint, and wait for it; whether all ranks have written it."""
        started = time.monotonic()
        if self._begun_step != standing.step:
            self._begin(engine, standing, {})
        self._writer.wait()
        self._ears.blocked(time.monotonic() - started)
        return self._all_can(not self._writer.gave_up)

    def _begin(self, engine: Any, standing: Standing, metrics: Mapping[str, float]) -> None:
        self._writer.wait()
        self._all_can(
            True
        )  # else one that is done would wait for the others in its next step, without a sign
        self._begun_step = standing.step
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        rank = self._rank
        from mizzen.training.snapshot import free_bytes, taken  # imports DeepSpeed

        snapshot = taken(
            engine,
            self._scratch,
            exclude_frozen=engine.leaves_out_frozen,
            budget_bytes=free_bytes() * MEMORY_SHARE / rank.ranks_here,
        )
        random = Part(_random_name(rank.rank), random_state.captured(rank.device))
        record = RankRecord(
            rank=rank.rank,
            world_size=rank.world_size,
            step=standing.step,
            samples=standing.samples,
            best=standing.best,
            without_improvement=standing.without_improvement,
            metrics=dict(metrics),
            zero_stage=int(engine.zero_optimization_stage()),
            data_digest=self._data_digest,
        )
        name = name_of(standing.step, self._start, self._token)
        self._writer.begin(Draft(name, [*snapshot.parts, random], record))
        if snapshot.is_live:
            self._writer.wait()

    def finish(self) -> None:
        """Wait until all is written, by all ranks. Raises what went wrong with the last one."""
        trouble: BaseException | None = None
        try:
            self._writer.finish()
        except Exception as cause:  # the other ranks have to hear of it before it is raised
            trouble = cause
        if not self._all_can(trouble is None):
            raise trouble or TrainingError("another worker could not write its part of the last checkpoint")
        if self._rank.rank == 0:
            self._prune()

    def close(self) -> None:
        """The rank ends, however."""
        self._writer.abandon()
        shutil.rmtree(self._scratch, ignore_errors=True)
        with suppress(OSError):
            self._rank.scratch.rmdir()  # the last rank of this machine

    def _written(self, record: RankRecord, duration_s: float) -> None:
        """In the writer's thread, after this rank's record is there."""
        self._ears.written(duration_s, sum(file.size_bytes for file in record.files))
        if record.rank == 0:
            self._prune()

    def _prune(self) -> None:
        try:
            self._checkpoints.prune(self._policy.keep, self._quality)
        except StoreError as cause:
            log.warning("checkpoints that are not kept stay for now: %s", cause)

    # --- loading ----------------------------------------------------------------------------------

    def _candidates(self) -> list[Checkpoint]:
        """What all ranks try, the newest first, and from now on a new start that all know."""
        message = ""
        if self._rank.rank == 0:
            complete = self._checkpoints.complete()
            found = {each.name: each.lead.model_dump(mode="json") for each in reversed(complete)}
            content = {"start": self._checkpoints.next_start(), "token": fresh_token(), "found": found}
            message = json.dumps(content)
        told = json.loads(self._broadcast(message))
        self._start, self._token = told["start"], told["token"]
        leads = {name: RankRecord.model_validate(lead) for name, lead in told["found"].items()}
        return [Checkpoint(number_of_start(name), lead.step, name, lead) for name, lead in leads.items()]

    def _tell_resumed(self, checkpoint: Checkpoint) -> None:
        if self._rank.rank == 0:
            text = f"going on from a checkpoint, after step {checkpoint.step}: {checkpoint.name}"
            if checkpoint.world_size != self._rank.world_size:
                text += f", which {checkpoint.world_size} worker(s) have written"
            self._ears.tell("resumed", text)

    def _load(self, engine: Any, checkpoint: Checkpoint, folder: Path) -> None:
        rank = self._rank
        if checkpoint.world_size == rank.world_size:
            deepspeed_engine.load(engine, folder)
            content = (folder / _random_name(rank.rank)).read_bytes()
            random_state.restore(content, rank.device)
        else:
            self._load_of_another_size(engine, checkpoint, folder)
        self._all_can(True)  # all have read it
        checkpoint_files.remove(checkpoint, rank.scratch)

    def _load_of_another_size(self, engine: Any, checkpoint: Checkpoint, folder: Path) -> None:
        import torch

        from mizzen.training import universal

        if universal.is_needed(folder):
            converted = checkpoint_files.universal(checkpoint, folder, self._rank.scratch)
            with universal.loading(engine, converted):
                deepspeed_engine.load(engine, converted)
        else:
            deepspeed_engine.load(engine, folder)
        # Nobody's states can be taken: from here dropout has other numbers, which no rank has had before.
        torch.manual_seed(torch.initial_seed() + SEEDS_APART * (checkpoint.step + 1))

    # --- what ranks tell each other ---------------------------------------------------------------

    def _broadcast(self, text: str) -> str:
        """What rank 0 says."""
        import torch
        import torch.distributed as dist

        if self._rank.world_size == 1:
            return text
        device = self._rank.device
        content = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
        length = torch.tensor([len(content)], device=device)
        dist.broadcast(length, 0)
        if self._rank.rank != 0:
            content = torch.empty(int(length), dtype=torch.uint8, device=device)
        dist.broadcast(content, 0)
        return bytes(content.tolist()).decode()

    def _all_can(self, mine: bool) -> bool:
        """Whether every rank says so."""
        import torch
        import torch.distributed as dist

        if self._rank.world_size == 1:
            return mine
        flag = torch.tensor([int(mine)], device=self._rank.device)
        with self._awake():
            dist.all_reduce(flag, dist.ReduceOp.MIN)
            return bool(flag)

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Gives signs of life inside the block: another rank's part may take as long as its store is away.

        One that hangs gives none, and is found by that.
        """
        over = threading.Event()

        def tell() -> None:
            while not over.wait(ALIVE_EVERY_S):
                self._ears.alive()

        thread = threading.Thread(target=tell, name="mizzen-awake", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _random_name(rank: int) -> str:
    return f"random-{rank:05d}.safetensors"
