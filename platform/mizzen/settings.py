"""Every environment variable that Mizzen reads, read once, here.

It does not read job or serve files, and it never holds a secret's value.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Where Mizzen keeps its state on this machine, and where the model store is."""

    home: Path
    """`MIZZEN_HOME`, default `~/.mizzen`: all local state lies below it."""
    store_url: str
    """`MIZZEN_STORE`, default `file://$MIZZEN_HOME/store`: any URL that obstore knows."""
    api_keys_dir: Path | None = None
    """`MIZZEN_API_KEYS`: a folder with one API key a file, the file's name being the key's. If it is set,
    endpoints answer to these keys only, and do not start if there is none."""

    @property
    def datasets_dir(self) -> Path:
        """Sample data, fetched and unpacked."""
        return self.home / "datasets"

    @property
    def prepared_dir(self) -> Path:
        """Cleaned and split data, by the digest of what made it."""
        return self.home / "prepared"

    @property
    def runs_dir(self) -> Path:
        """One folder a training run."""
        return self.home / "runs"

    @property
    def cache_dir(self) -> Path:
        """Copies of blobs from the store, and what builders want to keep."""
        return self.home / "cache"

    @property
    def metrics_dir(self) -> Path:
        """Memory-mapped values of Prometheus series, one file a process."""
        return self.home / "metrics"

    @property
    def run_dir(self) -> Path:
        """Process files of what runs now."""
        return self.home / "run"


def read(environ: Mapping[str, str]) -> Settings:
    """Settings from `environ`; tests pass a mapping of their own."""
    home = Path(environ.get("MIZZEN_HOME") or Path.home() / ".mizzen").expanduser().absolute()
    keys = environ.get("MIZZEN_API_KEYS")
    return Settings(
        home=home,
        store_url=environ.get("MIZZEN_STORE") or f"file://{home / 'store'}",
        api_keys_dir=Path(keys).expanduser().absolute() if keys else None,
    )


@cache
def current() -> Settings:
    """The settings of this process."""
    return read(os.environ)
