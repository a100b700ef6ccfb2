"""How prepared data reaches a run's workers, and their checkpoints the process that drives it.

On a Ray of this machine's own both are folders. On any other Ray both go through the store: workers may be on
machines that share nothing else. It does not train.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mizzen import local_ray
from mizzen.errors import StoreError
from mizzen.settings import Settings
from mizzen.store import runs
from mizzen.training import checkpoint_files, checkpoints, data
from mizzen.training.checkpoints import Checkpoint, Checkpoints
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
    """Where Ray Train keeps what it wants to find again, in `filesystem`."""
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

    def checkpoints(self, settings: Settings) -> tuple[str, str]:
        """The URL under which the run's checkpoints lie, and their folder there."""
        if self.alone:
            return self.folder.as_uri(), checkpoints.FOLDER
        return settings.store_url, f"{runs.folder(self.run)}/{checkpoints.FOLDER}"

    def fetched(self, found: Checkpoints, checkpoint: Checkpoint) -> Path:
        """All files of a checkpoint in a folder on this machine, checked. Raises `IntegrityError`."""
        below = self.folder / "checkpoint"
        shutil.rmtree(below, ignore_errors=True)
        return checkpoint_files.brought(
            found, checkpoint, checkpoint_files.every_file(found, checkpoint), below
        )
