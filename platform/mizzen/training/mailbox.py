"""What workers and the process that began the run tell each other, through a Ray actor.

Workers and Ray Train's controller leave letters there; a thread of the process that began the run fetches
them, hands them on, and watches whether the workers advance. It imports Ray when it is used.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mizzen.errors import TrainingError
from mizzen.store.runs import EventKind
from mizzen.training.faults import Faults, Sign, Stalls

POLL_EVERY_S = 0.5
TAKE_TIMEOUT_S = 5.0
LOOK_THERE = "Look there; faults.stall_timeout_s is what is allowed, faults.on_stall: restart tries again."


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for people; `step` of `num_steps`, or the metrics of an evaluation."""

    step: int
    num_steps: int
    loss: float | None = None
    """Of the first worker, the mean over the steps since the last progress."""
    metrics: Mapping[str, float] | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    """With a loss: `learning_rate`, `gradient_norm`, `memory_bytes` of the first worker, and means over the
    steps since the last progress: `step_seconds`, `data_seconds`, `forward_seconds`, `backward_seconds`,
    `optimizer_seconds`, `samples_per_second` or `tokens_per_second` (over all workers), and where the
    device's peak is known `model_flops_utilisation`."""


@dataclass(frozen=True)
class Began:
    """The workers of a run begin, for the first time or once more; from the first of them."""

    step: int


@dataclass(frozen=True)
class StartedUp:
    """The first step is done; seconds by the parts of `start_up`, from the first worker."""

    parts: Mapping[str, float]


@dataclass(frozen=True)
class Note:
    """A line for the run's log."""

    text: str


@dataclass(frozen=True)
class Happened:
    """For the run's history of events."""

    kind: EventKind
    text: str


@dataclass(frozen=True)
class Pulse:
    """A worker is alive; from each of them, now and then."""

    rank: int
    idle_s: float
    """Since it last advanced."""
    stepped: bool
    """It has taken a step since its start."""
    where: str
    """The line of code in which it is, if it has not advanced since the last pulse."""
    actor: Any
    """The worker's handle, by which it can be ended."""


@dataclass(frozen=True)
class Left:
    """A worker has done its work."""

    rank: int


Letter = Progress | Note | Began | StartedUp | Happened | Pulse | Left


class Mailbox:
    """The Ray actor."""

    def __init__(self) -> None:
        self._letters: list[Letter] = []
        self._numbers: dict[str, int] = {}
        """By sender: which letter is the next."""
        self._early: dict[tuple[str, int], Letter] = {}
        self._notice = asyncio.Event()
        self._forbidden: str | None = None

    async def put(self, letter: Letter, sender: str | None = None, number: int = 0) -> None:
        """Leave a letter; those of a sender are delivered by number, from 0 on."""
        if sender is None:
            self._letters.append(letter)
            return
        self._early[sender, number] = letter
        due = self._numbers.get(sender, 0)
        while (sender, due) in self._early:
            self._letters.append(self._early.pop((sender, due)))
            due += 1
        self._numbers[sender] = due

    async def take(self) -> list[Letter]:
        """All letters that have come since the last call."""
        letters, self._letters = self._letters, []
        return letters

    async def give_notice(self) -> None:
        """The run shall end: after a checkpoint."""
        self._forbidden = "it was stopped"
        self._notice.set()

    async def notice(self) -> None:
        """Returns when the run shall end."""
        await self._notice.wait()

    async def forbid(self, why: str) -> None:
        """No workers may be started any more."""
        self._forbidden = why

    async def forbidden(self) -> str | None:
        """Why no workers may be started any more, if so."""
        return self._forbidden


class Sender:
    """Where a worker leaves its letters, so that they are delivered in their order.

    Ray calls an actor that has asynchronous methods in any order.
    """

    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count()

    def put(self, letter: Letter) -> None:
        """Leave a letter; waits for nothing."""
        self.mailbox.put.remote(letter, self._name, next(self._numbers))


class Notice:
    """That the run shall end, said by a signal handler: it must not call Ray itself."""

    def __init__(self) -> None:
        self.given = threading.Event()


@dataclass
class Letters:
    """Who gets which letter of the workers'."""

    watch: Callable[[Progress], None]
    say: Callable[[str], None]
    began: Callable[[], None]
    event: Callable[[EventKind, str], None]
    stalls: Stalls = field(default_factory=lambda: Stalls(Faults()))
    started_up: Callable[[Mapping[str, float]], None] = lambda parts: None
    failures: list[str] = field(default_factory=list)
    """Sentences about the workers' failures so far."""
    actors: dict[int, Any] = field(default_factory=dict)
    where: dict[int, str] = field(default_factory=dict)
    """The line of code in which each rank is, as far as it does not advance."""
    stopped: TrainingError | None = None
    """Why the process that began the run has ended it."""

    def deliver(self, letter: Letter, now_s: float) -> None:
        """Hand a letter over."""
        match letter:
            case Note():
                self.say(letter.text)
            case Began():
                self.began()
                self.event("began", f"the workers have begun, at step {letter.step}")
            case StartedUp():
                self.started_up(letter.parts)
            case Happened():
                if letter.kind in ("worker_failed", "node_lost"):
                    self.failures.append(letter.text)
                    self.stalls.over()
                self.event(letter.kind, letter.text)
            case Pulse():
                self.stalls.heard(letter.rank, Sign(now_s, letter.idle_s, letter.stepped))
                self.actors[letter.rank], self.where[letter.rank] = letter.actor, letter.where
            case Left():
                self.stalls.left(letter.rank)
            case Progress():
                if "step_seconds" in letter.figures:
                    self.stalls.took(letter.figures["step_seconds"])
                self.watch(letter)

    def stall(self, now_s: float) -> tuple[str, Any] | None:
        """If workers have stalled: a sentence about it, and the handle of the one that has longest."""
        stalled = self.stalls.stalled(now_s)
        if not stalled:
            return None
        longest = max(stalled, key=lambda rank: stalled[rank])
        places = "; ".join(
            f"worker {rank} " + (f"is in {self.where[rank]}" if self.where.get(rank) else "is silent")
            for rank in stalled
        )
        return f"nothing has advanced for {stalled[longest]:.0f} s: {places}", self.actors[longest]


@contextmanager
def watching(mailbox: Any, letters: Letters, faults: Faults, notice: Notice) -> Iterator[None]:
    """Deliver letters inside the block, end workers that have stalled, and hand a notice on."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    over = threading.Event()

    def end_stalled(sentence: str, actor: Any) -> None:
        stop = faults.on_stall == "stop"
        letters.event("stalled", f"{sentence}; {'the run ends' if stop else 'its workers are ended'}")
        letters.stalls.over()
        if stop:
            letters.stopped = TrainingError(f"the run has stalled: {sentence}", remedy=LOOK_THERE)
            ray.get(mailbox.forbid.remote("faults.on_stall is stop"), timeout=TAKE_TIMEOUT_S)
        ray.kill(actor)

    def follow() -> None:
        last, told, asked = False, False, None
        while not last:
            last = over.wait(POLL_EVERY_S)
            try:
                if notice.given.is_set() and not told:
                    mailbox.give_notice.remote()
                    told = True
                # An answer that comes late is waited for again: its letters are in no mailbox any more.
                asked = asked or mailbox.take.remote()
                taken, asked = ray.get(asked, timeout=TAKE_TIMEOUT_S), None
                for letter in taken:
                    letters.deliver(letter, time.monotonic())
                if not last and (stall := letters.stall(time.monotonic())) is not None:
                    end_stalled(*stall)
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
