"""How prepared data reaches a run's workers, and their checkpoints the process that drives it.

On a Ray of this machine's own both are folders. On any other Ray both go through the store: workers may be on
machines that share nothing else. It does not train.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mizzen import local_ray
from mizzen.errors import StoreError
from mizzen.settings import Settings
from mizzen.store import runs
from mizzen.training import data
from mizzen.workloads.contract import Prepared


@dataclass(frozen=True)
class Road:
    """How data reaches the workers, and checkpoints the driver."""

    run: str
    folder: Path
    """The run's, on this machine."""
    alone: bool
    """All of Ray is on this machine and ours: workers share our files. Else all goes through the store."""
    storage: str
    """Where checkpoints lie, in `filesystem`."""
    filesystem: Any

    @classmethod
    def of(cls, run: str, folder: Path, settings: Settings) -> Road:
        """The road of a run on the Ray that this process is on. Raises `StoreError`."""
        if local_ray.is_running():
            return cls(run, folder, True, str(folder), None)
        from mizzen.store import filesystem

        system, store = filesystem.opened(settings.store_url)
        return cls(run, folder, False, f"{store}/{runs.folder(run)}", system)

    @contextmanager
    def open(self, prepared: Prepared, settings: Settings) -> Iterator[None]:
        """Workers can get the prepared data inside the block."""
        if self.alone:
            yield
            return
        data.share(prepared, self.run, settings)
        try:
            yield
        finally:
            with suppress(StoreError):  # what stays there does no harm, and `delete` removes it
                data.unshare(self.run, settings)

    def fetched(self, checkpoint: Any) -> Path:
        """The checkpoint as a folder on this machine."""
        from pyarrow.fs import LocalFileSystem

        if isinstance(checkpoint.filesystem, LocalFileSystem):
            return Path(checkpoint.path)
        return Path(checkpoint.to_directory(str(self.folder / "checkpoint")))
