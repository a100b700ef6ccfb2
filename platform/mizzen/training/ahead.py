"""Reads batches in a thread while the model works on the one before. It changes neither their order nor them.

A thread and not processes: those would start up again for each worker, and copy what they read; tokenisers
and NumPy let go of Python's lock for most of their work.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

NUM_AHEAD = 2
LOOK_EVERY_S = 1.0


def ahead(batches: Iterator[Any], num: int = NUM_AHEAD) -> Iterator[Any]:
    """`batches`, of which `num` are kept ready; what their reader raises is raised in its place.

    Reading begins with the first one that is asked for, and ends when the iterator is closed or forgotten.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(num)
    over = threading.Event()
    threading.Thread(target=_read, args=(batches, ready, over), name="mizzen-batches", daemon=True).start()
    try:
        while True:
            kind, content = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise content
            yield content
    finally:
        over.set()


def _read(batches: Iterator[Any], ready: queue.Queue[tuple[str, Any]], over: threading.Event) -> None:
    def put(kind: str, content: Any) -> bool:
        while not over.is_set():
            try:
                ready.put((kind, content), timeout=LOOK_EVERY_S)
                return True
            except queue.Full:
                continue  # a step takes long, or nobody asks any more
        return False

    try:
        for batch in batches:
            if not put("batch", batch):
                return
        put("end", None)
    except Exception as error:  # whatever it is, whoever asks for the batch is to get it
        put("error", error)
