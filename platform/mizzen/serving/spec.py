"""The serve file: which models are served, under which paths, with how many replicas.

It does not look into the store, except for `default`, which makes a serve file out of what is there.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

from pydantic import Field, field_validator, model_validator

from mizzen.errors import NotFoundError, ServeFileError
from mizzen.files import read_yaml, validate
from mizzen.workloads.contract import Fields

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?$")]
"""Lower-case letters, digits and dashes, at most 47: it becomes the name of Kubernetes resources."""
Reference = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?(@[a-z0-9-]{1,47})?$")]
"""`NAME`, `NAME@VERSION` or `NAME@ALIAS`."""
Provider = Annotated[str, Field(pattern=r"^(auto|cpu|cuda|[A-Za-z]+ExecutionProvider)$")]
PREFIX = re.compile(r"^(/[A-Za-z0-9._~-]+)+$|^/$")
PRODUCTION = "production"


class Http(Fields):
    """Where requests come in on this machine; a cluster has its own address, and there it has no effect."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)

    @field_validator("host")
    @classmethod
    def _loopback(cls, host: str) -> str:
        if not _is_loopback(host):
            raise ValueError(
                "must be a loopback address such as 127.0.0.1: there is no TLS here, so keys and data would"
                " cross the network in the clear. Put a reverse proxy with TLS in front, reach it through an"
                " SSH tunnel, or serve on a cluster"
            )
        return "127.0.0.1" if host == "localhost" else host


class Autoscaling(Fields):
    """How many replicas there are, by the number of requests in flight."""

    min: int = Field(1, ge=0)
    """0 lets an idle app go; the next request waits until a replica has started and loaded the model."""
    max: int = Field(ge=1)
    target_ongoing_requests: float = Field(8, gt=0)
    """Requests in flight for each replica that it scales towards."""
    idle_s: float = Field(300, ge=0)
    """With `min: 0`, how long there must be no request before the last replica goes."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) must not be below min ({self.min})")
        return self


class Batching(Fields):
    """How concurrent requests share one call of the model."""

    max_batch_size: int = Field(32, ge=1)
    wait_s: float = Field(0.002, ge=0, le=10)
    """How long the first request of a batch waits for others."""
    max_concurrent_batches: int = Field(1, ge=1)

    @property
    def capacity(self) -> int:
        """Requests that can be in the model at once."""
        return self.max_batch_size * self.max_concurrent_batches


class App(Fields):
    """One served model: an application of its own, with its own replicas."""

    name: Name
    model: Reference
    """`NAME@production`, say: an alias is resolved at start and on reload."""
    route_prefix: str = ""
    """Default: `/` and the name."""
    replicas: int | Autoscaling = 1
    num_cpus: float = Field(1, gt=0)
    """CPUs that Ray reserves for a replica."""
    num_gpus: float = Field(0, ge=0)
    max_ongoing_requests: int = Field(64, ge=1)
    """Requests that a replica works on at once; at least the batches that it runs."""
    max_queued_requests: int = Field(256, ge=0)
    """Requests that may wait in a replica beyond that; the next one is answered with 429."""
    max_request_bytes: int = Field(4 * 2**20, ge=1024)
    """Larger request bodies are answered with 413."""
    batching: Batching = Batching()
    execution_provider: Provider = "auto"
    """`auto` takes CUDA where it works, else the CPU; `cpu`, `cuda` or ONNX Runtime's name demands one."""
    num_threads: int = Field(0, ge=0)
    """Threads for one operator of the model; 0 leaves the choice to ONNX Runtime."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The workload's own options."""

    @field_validator("replicas")
    @classmethod
    def _some_replicas(cls, replicas: int | Autoscaling) -> int | Autoscaling:
        if isinstance(replicas, int) and replicas < 1:
            raise ValueError("must be 1 or more")
        return replicas

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        filled = dict(content)
        if not filled.get("route_prefix") and isinstance(filled.get("name"), str):
            filled["route_prefix"] = f"/{filled['name']}"
        return filled

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not PREFIX.match(self.route_prefix) or self.route_prefix.startswith("/-"):
            raise ValueError(
                f"route_prefix must be a path such as /my-model, without a slash at the end, and not"
                f" start with /- (saw {self.route_prefix!r})"
            )
        if self.max_ongoing_requests < self.batching.capacity:
            raise ValueError(
                f"max_ongoing_requests ({self.max_ongoing_requests}) must be at least max_batch_size ×"
                f" max_concurrent_batches ({self.batching.capacity}), or batches can never be full"
            )
        return self


class ServeSpec(Fields):
    """A serve file, validated: what `mizzen serve` runs."""

    http: Http = Http()
    apps: tuple[App, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        fields: dict[str, Callable[[App], str]] = {
            "name": lambda app: app.name,
            "route_prefix": lambda app: app.route_prefix,
        }
        for field, value in fields.items():
            twice = [v for v, count in Counter(map(value, self.apps)).items() if count > 1]
            if twice:
                raise ValueError(f"two apps have the {field} {twice[0]!r}; each needs its own")
        return self


class Catalogue(Protocol):
    """What `default` asks a model store."""

    @property
    def url(self) -> str:
        """The store's address."""
        ...

    def models(self) -> list[str]:
        """Names of all models."""
        ...

    def aliases(self, name: str) -> Mapping[str, Any]:
        """The aliases of a model."""
        ...


def load(path: Path) -> ServeSpec:
    """The serve file at `path`. Raises `ServeFileError`."""
    return parse(read_yaml(path, ServeFileError), str(path))


def parse(content: Mapping[str, Any], where: str) -> ServeSpec:
    """The serve file in `content`; `where` is named in errors. Raises `ServeFileError`."""
    return validate(ServeSpec, content, ServeFileError, where)


def default(store: Catalogue, http: Http | None = None) -> ServeSpec:
    """An application for every model that has the alias `production`. Raises `NotFoundError` if none has."""
    names = [name for name in store.models() if PRODUCTION in store.aliases(name)]
    if not names:
        raise NotFoundError(
            f"no model in {store.url} has the alias {PRODUCTION!r}, so there is nothing to serve",
            remedy="Train one with `mizzen train`, or name models in a serve file: `mizzen serve FILE`.",
        )
    apps = tuple(App(name=name, model=f"{name}@{PRODUCTION}") for name in names)
    return ServeSpec(http=http or Http(), apps=apps)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
