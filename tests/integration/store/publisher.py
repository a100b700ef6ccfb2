"""A publisher in a process of its own: `publisher.py URL NAME RUN_ID COUNT FOLDER [DEATH]`.

Says `ready`, waits for a line, publishes COUNT times and prints each version. With DEATH it kills itself
with SIGKILL: `before K` or `after K` its K-th write, or `during K`, with half of that write's bytes sent.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from mizzen.store.blobs import Blobs
from mizzen.store.manifest import Draft, GateReport, Lineage, ParityResult
from mizzen.store.objects import Objects
from mizzen.store.store import ModelStore


def draft(name: str, run_id: str) -> Draft:
    parity = ParityResult(probe="p", max_abs=0.0, mean_abs=0.0, tolerance=1e-4, passed=True)
    return Draft(
        name=name,
        workload="test",
        precision="fp32",
        quality={},
        gate=GateReport(
            parity=(parity,), quality=None, precision="fp32", provider="CPUExecutionProvider", passed=True
        ),
        lineage=Lineage(
            job={},
            data_digest="",
            data_report={},
            run_id=run_id,
            code_version="",
            world_size=1,
            deepspeed={},
            libraries={},
        ),
    )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Mortal(Objects):
    """Dies at the place that it is told."""

    def __init__(self, url: str, place: str, write: int) -> None:
        super().__init__(url)
        self.place, self.write, self.writes = place, write, 0

    def create(self, key: str, data: bytes) -> None:
        self._reach("before")
        super().create(key, data)
        self._leave()

    def write_blob(self, key: str, chunks: Iterator[bytes], sha256: str, size_bytes: int) -> None:
        self._reach("before")
        super().write_blob(key, self._dying(chunks, size_bytes), sha256, size_bytes)
        self._leave()

    def _reach(self, place: str) -> None:
        if (self.place, self.write) == (place, self.writes + 1):
            die()

    def _leave(self) -> None:
        self.writes += 1
        if (self.place, self.write) == ("after", self.writes):
            die()

    def _dying(self, chunks: Iterator[bytes], size_bytes: int) -> Iterator[bytes]:
        sent_bytes = 0
        for chunk in chunks:
            if sent_bytes + len(chunk) > size_bytes // 2:
                self._reach("during")
            yield chunk
            sent_bytes += len(chunk)


def main() -> None:
    url, name, run_id, count, folder, *death = sys.argv[1:]
    store = ModelStore(url)
    if death:
        store.objects = Mortal(url, death[0], int(death[1]))
        store.blobs = Blobs(store.objects)
    print("ready", flush=True)
    sys.stdin.readline()
    for turn in range(int(count)):
        print(store.publish(draft(name, f"{run_id}-{turn}"), Path(folder)).version, flush=True)


if __name__ == "__main__":
    main()
