"""SIGTERM as a notice: while a run trains, it lets the run write a checkpoint before it ends.

Outside of training it ends the run at once: `Journal.end_on_sigterm`. It writes no checkpoint itself.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mizzen.training.journal import Journal
from mizzen.training.mailbox import Notice


@contextmanager
def heeded(journal: Journal, notice: Notice, notice_s: float) -> Iterator[None]:
    """Inside the block SIGTERM gives `notice`, and ends this process `notice_s` later at the latest.

    A second SIGTERM ends it at once. The run is on record as cancelled from the first: whoever has sent it
    may not wait for what comes after.
    """
    late = threading.Timer(notice_s, os.kill, (os.getpid(), signal.SIGTERM))
    late.daemon = True

    def told(signum: int, frame: FrameType | None) -> None:
        if notice.given.is_set():
            journal.terminated(signum, frame)
        journal.event("notice", f"the run was told to end; it has {notice_s:g} s to write a checkpoint")
        journal.cancelled()
        notice.given.set()
        late.start()

    if notice_s > 0 and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, told)
    try:
        yield
    finally:
        late.cancel()
        journal.end_on_sigterm()
