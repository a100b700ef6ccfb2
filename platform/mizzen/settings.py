"""Every environment variable that Mizzen reads, read once, here.

It does not read job or serve files, and no setting is a secret's value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

SECRET = re.compile(
    r"SECRET|TOKEN|PASSWORD|(ACCESS|ACCOUNT|MASTER|SAS|API)_KEY|CREDENTIAL|OTLP_(\w+_)?HEADERS", re.IGNORECASE
)
"""In the name of a variable: its value is secret."""
NO_SECRET = re.compile(r"(_PATH|_FILE|_DIR|_URI|_URL|_KEYS|_CREDENTIALS|_MODE)$", re.IGNORECASE)
"""... unless the name ends so: then it only says where the secret is."""
SHORTEST_SECRET = 8
"""Shorter ones would blot out words."""
USER_OF_URL = re.compile(r"(?<=://)[^/?#\s\"'<>]+(?=@)")
"""`user:password`, or a key, or a token."""


@dataclass(frozen=True)
class Settings:
    """Where Mizzen keeps its state on this machine, and where the model store is."""

    home: Path
    """`MIZZEN_HOME`, default `~/.mizzen`: all local state lies below it."""
    store_url: str
    """`MIZZEN_STORE`, default `file://$MIZZEN_HOME/store`: any URL that obstore knows."""
    api_keys: Path | Literal["store", "none"] | None = None
    """`MIZZEN_API_KEYS`: the API keys that endpoints answer to. `store`: those that `mizzen keys` makes; a
    folder (`./store`, if it is called so): one key a file, the file's name being the key's; `none`: nobody
    needs one. Without it `mizzen serve` asks for no key on loopback, and nothing else starts."""
    job_json: str | None = None
    """`MIZZEN_JOB`: on a cluster, the job that this process is to run, as JSON."""
    code_zip: Path | None = None
    """`MIZZEN_CODE`: on a cluster, a zip file with the code and the tables that came with the job."""
    ray_address: str | None = None
    """`RAY_API_SERVER_ADDRESS`, Ray's own: the dashboard of the cluster that `--on ray` means."""
    mlflow_url: str | None = None
    """`MLFLOW_TRACKING_URI`, MLflow's own: where training runs are tracked too. It may hold a password."""
    mlflow_experiment: str | None = None
    """`MLFLOW_EXPERIMENT_NAME`, MLflow's own; without it each job is an experiment under its name."""
    log_level: str = "INFO"
    """`MIZZEN_LOG_LEVEL`: what Mizzen's processes write into `logs_dir`, from `DEBUG`, `INFO`, `WARNING` or
    `ERROR` on."""
    traces: bool = False
    """Whether `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` names a collector, by
    OTLP over HTTP (port 4318, as a rule): then spans are sent there. Which of them, with which headers and
    under which name say OpenTelemetry's other variables: `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, ..."""
    traceparent: str | None = None
    """`TRACEPARENT`: the span of another process that has started this one, as a W3C header."""

    @property
    def api_keys_dir(self) -> Path | None:
        """The folder with API keys, if they are in one."""
        return self.api_keys if isinstance(self.api_keys, Path) else None

    @property
    def store_is_default(self) -> bool:
        """Whether nobody has said where the store is."""
        return self.store_url == _default_store(self.home)

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
    def logs_dir(self) -> Path:
        """Lines of JSON that replicas and training processes write, some files a process."""
        return self.home / "logs"

    @property
    def run_dir(self) -> Path:
        """Process files of what runs now."""
        return self.home / "run"


def read(environ: Mapping[str, str]) -> Settings:
    """Settings from `environ`; tests pass a mapping of their own."""
    home = Path(environ.get("MIZZEN_HOME") or Path.home() / ".mizzen").expanduser().absolute()
    code = environ.get("MIZZEN_CODE")
    collectors = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return Settings(
        home=home,
        store_url=environ.get("MIZZEN_STORE") or _default_store(home),
        api_keys=_api_keys(environ.get("MIZZEN_API_KEYS") or ""),
        mlflow_url=environ.get("MLFLOW_TRACKING_URI") or None,
        mlflow_experiment=environ.get("MLFLOW_EXPERIMENT_NAME") or None,
        ray_address=environ.get("RAY_API_SERVER_ADDRESS") or None,
        job_json=environ.get("MIZZEN_JOB") or None,
        code_zip=Path(code).absolute() if code else None,
        log_level=_log_level(environ.get("MIZZEN_LOG_LEVEL") or ""),
        traces=any(environ.get(name) for name in collectors),
        traceparent=environ.get("TRACEPARENT") or None,
    )


def _log_level(value: str) -> str:
    """A wrong one must not keep anything from starting."""
    return value.upper() if value.upper() in ("DEBUG", "INFO", "WARNING", "ERROR") else "INFO"


def _api_keys(value: str) -> Path | Literal["store", "none"] | None:
    if value in ("store", "none"):
        return "store" if value == "store" else "none"
    return Path(value).expanduser().absolute() if value else None


def _default_store(home: Path) -> str:
    return f"file://{home / 'store'}"


def secrets(environ: Mapping[str, str]) -> list[str]:
    """Values in `environ` that must not show in a log: of variables whose names say that they are secret."""
    found: set[str] = set()
    for name, value in environ.items():
        if SECRET.search(name) and not NO_SECRET.search(name):
            # Headers are a list, NAME=VALUE,NAME=VALUE: each value is a secret of its own.
            parts = [part.partition("=")[2] for part in value.split(",")] if "HEADERS" in name.upper() else []
            found.update(secret for secret in (value, *parts) if len(secret) >= SHORTEST_SECRET)
    return sorted(found, key=len, reverse=True)


def without_secrets(text: str) -> str:
    """`text` without the secrets in this process's environment, and without users and passwords in URLs."""
    for secret in secrets(os.environ):
        text = text.replace(secret, "***")
    return USER_OF_URL.sub("***", text) if "://" in text else text


def sayable(text: str) -> str:
    """`text` without secrets, and as UTF-8 can say it: the name of a file need not."""
    return without_secrets(text.encode("utf-8", "backslashreplace").decode())


@cache
def current() -> Settings:
    """The settings of this process."""
    return read(os.environ)
