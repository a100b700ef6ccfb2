"""A worker's signs of life, and what it is told: that it, its machine, or the whole run shall end.

Threads beside the training one. They decide nothing: `faults.Stalls` judges silence, `loop` acts on a wish.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from pathlib import Path

from mizzen.training.faults import Faults
from mizzen.training.mailbox import Left, Pulse, Sender

PULSE_EVERY_S = 15.0
MOST_SIGNS = 5
"""Pulses within a stall's limit, at least."""
NUM_FRAMES = 3
"""Lines of code that say where a worker is."""
NOTICE = threading.Event()
"""This process was told to end (SIGTERM)."""

NONE, END, RESTART = 0, 2, 3
"""What a rank wants at its next step: nothing; a checkpoint and the end; a checkpoint and a new start."""


class Heart:
    """Tells the process that began the run how this rank advances; hears from it that the run shall end."""

    def __init__(self, rank: int, faults: Faults, sender: Sender) -> None:
        """To be made in the thread that trains."""
        import ray

        self._rank, self._sender = rank, sender
        self._actor = ray.get_runtime_context().current_actor
        self._trains = threading.get_ident()
        limit_s = faults.stall_timeout_s or PULSE_EVERY_S * MOST_SIGNS
        self._every_s = min(PULSE_EVERY_S, limit_s / MOST_SIGNS)
        self._advanced_s, self._stepped = time.monotonic(), False
        self._stopped, self._ends = threading.Event(), threading.Event()
        self._beating = threading.Thread(target=self._beat, name="mizzen-pulse", daemon=True)
        threads = [self._beating]
        if rank == 0:  # one rank's wish is everybody's
            threads.append(threading.Thread(target=self._listen, name="mizzen-notice", daemon=True))
        for thread in threads:
            thread.start()

    def advanced(self, *, stepped: bool = False) -> None:
        """The rank has done something; `stepped`: an optimiser step."""
        self._advanced_s = time.monotonic()
        self._stepped = self._stepped or stepped

    def wish(self) -> int:
        """What this rank wants; cheap, to be asked at each step."""
        if self._ends.is_set():
            return END
        return RESTART if NOTICE.is_set() or drained_nodes() else NONE

    def stop(self) -> None:
        """The rank has done its work."""
        self._stopped.set()
        self._beating.join(PULSE_EVERY_S)  # a pulse after this letter would be that of one who works
        self._sender.put(Left(self._rank))

    def _beat(self) -> None:
        while not self._stopped.is_set():
            idle_s = time.monotonic() - self._advanced_s
            where = place_of(self._trains) if idle_s > self._every_s else ""
            self._sender.put(Pulse(self._rank, idle_s, self._stepped, where, self._actor))
            self._stopped.wait(self._every_s)

    def _listen(self) -> None:
        import ray
        from ray.exceptions import RayError

        try:
            ray.get(self._sender.mailbox.notice.remote())
        except RayError:
            return  # the process that began the run is gone
        self._ends.set()


def drained_nodes() -> list[str]:
    """Machines of this run's workers that Ray was told will be taken away; None of them is in use later."""
    from ray.train.v2._internal.execution.context import get_train_context

    info = get_train_context().preemption_context.preemption_info
    return info.preempted_node_ids if info is not None else []


def place_of(thread: int) -> str:
    """The line of code in which a thread is, and those that called it, innermost first."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return ""
    stack = traceback.extract_stack(frame)[-NUM_FRAMES:]
    return " < ".join(
        f"{'/'.join(Path(each.filename).parts[-2:])}:{each.lineno} {each.name}" for each in reversed(stack)
    )
