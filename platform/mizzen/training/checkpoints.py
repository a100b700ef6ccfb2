"""The checkpoints of a run: how they lie, what is complete, which is the last and the best, what is kept.

    step-00000120-003-9f3a6c1d/            one checkpoint: steps, the number of the start, a random id
        state/...                          what DeepSpeed writes, each file by one rank
        random-00000.safetensors           a rank's random states
        rank-00000-of-00002.json           a rank's record of what it wrote, its last object

A checkpoint is complete when every rank's record is there. So no rank has to wait for another, and an
interrupted write never becomes a checkpoint. Whoever starts the workers anew gets the next number of a start
and another random id: what an attempt that was given up still uploads is never mixed with it, and never
stands before what came later. It knows no tensor: `checkpoint_writer` writes, `rank_checkpoints` loads.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from mizzen.errors import IntegrityError
from mizzen.store.manifest import Record
from mizzen.store.objects import AbsentError, Objects, checked_chunks
from mizzen.workloads.contract import Fields, QualityMetric

FOLDER = "checkpoints"
"""Below the run's own folder."""
TAG = "state"
"""The folder, in each checkpoint, for what DeepSpeed writes."""
NAME = re.compile(r"step-(\d{8,})-(\d{3,})-[0-9a-f]{8}")
RECORD = re.compile(r"rank-(\d{5})-of-(\d{5})\.json")


class Checkpointing(Fields):
    """When a checkpoint is written, and how many are kept."""

    every_steps: int | None = Field(None, ge=1)
    """Default: at each evaluation only."""
    keep: int = Field(2, ge=1)
    """The newest that are kept."""
    best: bool = True
    """Keep the one with the best validation besides, and publish it; else the last evaluated one."""
    when_busy: Literal["wait", "skip"] = "wait"
    """If the one before is still on its way when the next is due: the run waits, or this one is skipped.
    One that follows an evaluation is never skipped."""
    retry_for_s: float = Field(600.0, ge=0)
    """How long a checkpoint is tried again while the store is away. Then it is given up; the run goes on."""


@dataclass(frozen=True)
class Standing:
    """Where a run stands between two optimiser steps, the same on every rank."""

    step: int = 0
    """Optimiser steps done."""
    samples: int = 0
    """Examples consumed, over all ranks and epochs."""
    best: float | None = None
    """The best validation so far, and the evaluations since without improvement: see `loop.Best`."""
    without_improvement: int = 0


class Written(Record):
    """One file of a checkpoint."""

    name: str
    """Relative to the checkpoint's folder."""
    sha256: str
    size_bytes: int = Field(ge=0)


class RankRecord(Record):
    """What one rank has written of a checkpoint, and where the run stood."""

    rank: int
    world_size: int
    step: int
    samples: int
    best: float | None = None
    without_improvement: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    """The validation at this step, if there was one."""
    zero_stage: int
    data_digest: str
    """Of the prepared data that the run trains on."""
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    files: tuple[Written, ...] = ()

    @property
    def standing(self) -> Standing:
        """Where the run stood."""
        return Standing(self.step, self.samples, self.best, self.without_improvement)


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A complete checkpoint; later ones are greater."""

    start: int
    """Which start of the workers wrote it, 1, 2, ...: a later one counts, also at a lower step."""
    step: int
    name: str
    lead: RankRecord = field(compare=False)
    """The record of rank 0."""

    @property
    def world_size(self) -> int:
        """Ranks that have written it."""
        return self.lead.world_size


@dataclass(frozen=True)
class Part:
    """One file of a checkpoint that is not written yet."""

    name: str
    """Relative to the checkpoint's folder."""
    content: Any
    """Bytes, or what `torch.save` takes, with all tensors in host memory or in files that are mapped."""


def name_of(step: int, start: int, token: str) -> str:
    """The folder of a checkpoint."""
    return f"step-{step:08d}-{start:03d}-{token}"


def record_name(rank: int, world_size: int) -> str:
    """The object that holds a rank's record."""
    return f"rank-{rank:05d}-of-{world_size:05d}.json"


def fresh_token() -> str:
    """The random id of a start."""
    return secrets.token_hex(4)


def _silent(sentence: str) -> None:
    """Tell nobody."""


class Checkpoints:
    """The checkpoints of one run below `folder` of `objects`. Every method may raise `StoreError`."""

    def __init__(self, objects: Objects, folder: str, refused: Callable[[str], None] = _silent) -> None:
        """`refused` hears of each checkpoint that is complete by name, but cannot be used, once."""
        self.objects, self.folder, self._refused = objects, folder, refused
        self._leads: dict[str, RankRecord | None] = {}
        """Records of rank 0 that were read already, by the checkpoint's name; None: it is refused."""

    def complete(self) -> list[Checkpoint]:
        """All complete checkpoints, the newest last."""
        found = []
        for name, files in self._listed().items():
            if is_complete(files) and (lead := self._lead(name, files)) is not None:
                found.append(Checkpoint(number_of_start(name), lead.step, name, lead))
        return sorted(found)

    def next_start(self) -> int:
        """The number for a start of the workers that begins now."""
        return max(map(number_of_start, self._listed()), default=0) + 1

    def last(self) -> Checkpoint | None:
        """The newest complete checkpoint."""
        return max(self.complete(), default=None)

    def refuse(self, name: str, sentence: str | None) -> None:
        """A checkpoint cannot be used: it is no longer among the complete ones.

        None says nothing of it: somebody else does.
        """
        self._leads[name] = None
        if sentence is not None:
            self._refused(f"checkpoint {name} is refused: {sentence}")

    def record(self, checkpoint: Checkpoint, rank: int) -> RankRecord:
        """A rank's record. Raises `IntegrityError` if it is no record, or not there any more."""
        if rank == 0:
            return checkpoint.lead
        name = record_name(rank, checkpoint.world_size)
        try:
            return self._record(checkpoint.name, name)
        except AbsentError:
            raise IntegrityError(f"{checkpoint.name}/{name} is not there any more") from None

    def fetch(self, checkpoint: Checkpoint, file: Written, target: Path) -> None:
        """Bring a file of a checkpoint here; `target` appears when its digest was found right.

        Raises `IntegrityError`.
        """
        key = f"{self.folder}/{checkpoint.name}/{file.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f"{target.name}.{secrets.token_hex(4)}.new")
        if (size_bytes := self.objects.size(key)) != file.size_bytes:
            raise IntegrityError(
                f"{key} is not what was written",
                saw=f"{size_bytes} bytes",
                allowed=f"{file.size_bytes} bytes",
            )
        try:
            with new.open("wb") as stream:
                chunks = self.objects.chunks(key, file.size_bytes)
                for chunk in checked_chunks(chunks, file.sha256, file.size_bytes, key):
                    stream.write(chunk)
            new.replace(target)
        except AbsentError:
            raise IntegrityError(f"{key} is not there any more") from None
        finally:
            new.unlink(missing_ok=True)

    def check(self, checkpoint: Checkpoint, file: Written, path: Path) -> None:
        """Check a file that is on this machine already. Raises `IntegrityError`."""
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            raise IntegrityError(f"{checkpoint.name}/{file.name} is not there any more") from None
        if found != file.sha256:
            raise IntegrityError(
                f"{checkpoint.name}/{file.name} does not have the bytes that its digest promises",
                saw=found, allowed=file.sha256,
            )  # fmt: skip

    def delete(self, name: str) -> None:
        """Remove a checkpoint; it stops to be one with the first object that goes."""
        for file in self._listed().get(name, {}):
            if RECORD.fullmatch(file):
                self.objects.delete(f"{self.folder}/{name}/{file}")
        self.objects.delete_folder(f"{self.folder}/{name}")

    def prune(self, keep: int, quality: QualityMetric | None) -> list[str]:
        """Delete what needs not be kept; returns the names. `quality` None: no best is kept."""
        doomed = superfluous(self.complete(), list(self._listed()), keep, quality)
        for name in doomed:
            self.delete(name)
        return doomed

    def _listed(self) -> dict[str, dict[str, int]]:
        """Sizes of the objects of each checkpoint, complete or not."""
        found: dict[str, dict[str, int]] = {}
        for key, size_bytes in self.objects.sizes_bytes(self.folder).items():
            name, _, file = key.partition("/")
            if NAME.fullmatch(name) and file:
                found.setdefault(name, {})[file] = size_bytes
        return found

    def _lead(self, name: str, files: Iterable[str]) -> RankRecord | None:
        if name not in self._leads:
            world_size = max(int(match[2]) for match in map(RECORD.fullmatch, files) if match)
            try:
                self._leads[name] = self._record(name, record_name(0, world_size))
            except AbsentError:
                return None  # it is being deleted
            except IntegrityError as cause:
                self.refuse(name, str(cause))
        return self._leads.get(name)

    def _record(self, name: str, file: str) -> RankRecord:
        try:
            return RankRecord.model_validate_json(self.objects.read(f"{self.folder}/{name}/{file}"))
        except ValidationError as cause:
            raise IntegrityError(
                f"{name}/{file} is no record of a checkpoint", saw=f"{cause.error_count()} wrong fields"
            ) from None


def is_complete(files: Iterable[str]) -> bool:
    """Whether the files of a checkpoint have the record of each rank."""
    ranks: dict[int, set[int]] = {}
    for match in map(RECORD.fullmatch, files):
        if match:
            ranks.setdefault(int(match[2]), set()).add(int(match[1]))
    return any(found == set(range(world_size)) for world_size, found in ranks.items())


def number_of_start(name: str) -> int:
    """Which start of the workers wrote the checkpoint of this name."""
    match = NAME.fullmatch(name)
    return int(match[2]) if match else 0


def best_of(checkpoints: Sequence[Checkpoint], quality: QualityMetric) -> Checkpoint | None:
    """The one with the best validation, the first of several; None if none was evaluated to a number."""
    scored = [each for each in checkpoints if not math.isnan(each.lead.metrics.get(quality.name, math.nan))]
    sign = -1.0 if quality.higher_is_better else 1.0
    return min(scored, key=lambda each: (sign * each.lead.metrics[quality.name], each), default=None)


def last_evaluated(checkpoints: Sequence[Checkpoint], quality: QualityMetric) -> Checkpoint | None:
    """The newest that was evaluated."""
    return max((each for each in checkpoints if quality.name in each.lead.metrics), default=None)


def superfluous(
    complete: Sequence[Checkpoint], names: Sequence[str], keep: int, quality: QualityMetric | None
) -> list[str]:
    """Which of the checkpoints called `names` may go.

    The `keep` newest complete ones stay, the best, and what is newer than all complete ones: it may be on
    its way still. What is older and not complete has been given up.
    """
    if not complete:
        return []
    newest = sorted(complete)
    stay = {each.name for each in newest[-keep:]}
    if quality is not None and (best := best_of(newest, quality)) is not None:
        stay.add(best.name)
    border = _age(newest[-1].name)
    return sorted(name for name in names if name not in stay and _age(name) < border)


def _age(name: str) -> tuple[int, int]:
    match = NAME.fullmatch(name)
    return (int(match[2]), int(match[1])) if match else (0, 0)
