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
from mizzen.files import plain, read_yaml, validate
from mizzen.workloads.contract import Fields

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?$")]
"""Lower-case letters, digits and dashes, at most 47: it becomes the name of Kubernetes resources."""
Reference = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?(@[a-z0-9-]{1,47})?$")]
"""`NAME`, `NAME@VERSION` or `NAME@ALIAS`."""
Provider = Annotated[str, Field(pattern=r"^(auto|cpu|cuda|[A-Za-z]+ExecutionProvider)$")]
PREFIX = re.compile(r"^(/[A-Za-z0-9._~-]+)+$|^/$")
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")
PRODUCTION = "production"


class Http(Fields):
    """Where requests come in on this machine; a cluster has its own address, and there it has no effect."""

    host: str = "127.0.0.1"
    """An IP address of this machine. Beyond loopback (`0.0.0.0` is every address) API keys must be set, and
    there is no TLS: a proxy in front has to bring it."""
    port: int = Field(8000, ge=1, le=65535)

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        if host == "localhost":
            return "127.0.0.1"
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            raise ValueError(
                "must be an IP address of this machine, such as 127.0.0.1 (this machine alone) or 0.0.0.0"
                " (everybody who reaches it)"
            ) from None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def url(self) -> str:
        """The address as this machine reaches it."""
        address = ipaddress.ip_address(self.host)
        host = "127.0.0.1" if address.is_unspecified else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


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
    wait_s: float = Field(0, ge=0, le=10)
    """How long the first request of a batch waits for others, if the model is idle: while it is not, those
    who wait become the next batch anyway."""
    max_concurrent_batches: int = Field(1, ge=1)

    @property
    def capacity(self) -> int:
        """Requests that can be in the model at once."""
        return self.max_batch_size * self.max_concurrent_batches


class Cors(Fields):
    """Which other sites' pages may ask, in their visitors' browsers. Cookies are never sent along."""

    origins: tuple[Annotated[str, Field(max_length=300)], ...] = Field(min_length=1)
    """`https://shop.example`, with its port if it has one; `*` alone lets pages of any site ask."""
    max_age_s: int = Field(600, ge=0)
    """How long a browser need not ask again whether it may."""

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [origin for origin in origins if origin != "*" and not ORIGIN.fullmatch(origin)]
        if wrong:
            raise ValueError(
                f"{wrong[0]!r} is no origin: write scheme and host as browsers do, https://shop.example,"
                " without a path"
            )
        if "*" in origins and len(origins) > 1:
            raise ValueError("'*' means every origin, so it stands alone")
        return origins


class Slo(Fields):
    """Service levels of an application: how many of the requests to its model must be good, and what that is.

    Probes, scrapes, documentation and examples do not count, nor does who goes away before the answer.
    """

    availability: float = Field(0.99, gt=0, lt=1)
    """Share of requests that must be answered with anything but 5xx, and not be refused for want of room (a
    full queue, or a turn that would come after the deadline). A rate limit is no want of room."""
    latency_s: float = Field(2.0, gt=0, le=86_400)
    """By when the first byte of a good answer (a status below 400) must come, from its request's arrival."""
    latency: float = Field(0.95, gt=0, lt=1)
    """Share of the good answers that must come by then."""


class Canary(Fields):
    """A second version that answers a part of the requests, in each replica beside the first.

    Who sends the header `mizzen-session` (up to him: a visitor's session, a hash of a user's id) meets the
    same version as long as this canary is there, in all replicas; else the request's own id decides, so a
    request that is sent again with its id meets the version of before. API keys do not decide: behind one key
    there are often all users of a site. Its answers are its own, errors too. It has a queue and limits of
    its own, as large as the first's. If it cannot be loaded, all requests go to the first.
    """

    model: Reference
    weight: float = Field(ge=0, le=1)
    """Share of the requests that go to it; 0 keeps it loaded and idle."""


class Shadow(Fields):
    """A version that is sent copies of requests, and whose answers are compared and thrown away.

    A copy is sent once the client has its answer, and only of requests that change nothing: to the routes
    that the workload declares (`Endpoint.read_only`), and of tensors. The shadow counts in no series of
    requests, no service level and no rate limit, and keeps nothing (it has no lake).
    """

    model: Reference
    share: float = Field(gt=0, le=1)
    """Of the requests that the first version answers."""
    max_ongoing_requests: int = Field(4, ge=1)
    """Copies that a replica works on at once; one more is left out, and counted as `skipped`."""
    tolerance: float = Field(0.001, ge=0)
    """Two numbers are the same if they differ by no more than this share of the larger one."""


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
    """Larger request bodies, also unpacked ones, are answered with 413."""
    timeout_s: float = Field(60, gt=0, le=86_400)
    """From a request's arrival, its wait in the queue included, to the first byte of the answer: later it is
    answered with 504 and not worked on any more. A client may ask for less (header `mizzen-timeout-s`)."""
    stream_timeout_s: float = Field(600, gt=0, le=86_400)
    """How long a streamed answer may last in all, from its request's arrival."""
    body_timeout_s: float = Field(15, gt=0, le=3600)
    """A request's body must have arrived by then, or it is answered with 408."""
    cors: Cors | None = None
    """Default: pages of other sites may not ask."""
    slo: Slo = Slo()
    canary: Canary | None = None
    shadow: Shadow | None = None
    access_log: bool = True
    """One line of JSON for each request that was answered, which `mizzen logs` shows."""
    batching: Batching = Batching()
    execution_provider: Provider = "auto"
    """`auto` takes CUDA where it works, else the CPU; `cpu`, `cuda` or ONNX Runtime's name demands one."""
    num_threads: int = Field(0, ge=0)
    """Threads for one operator of the model; 0 leaves the choice to ONNX Runtime."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The workload's own options."""

    def of(self, reference: str) -> App:
        """The same application, if its model were another."""
        return self.model_copy(update={"model": reference})

    @field_validator("options")
    @classmethod
    def _travels_as_json(cls, options: dict[str, Any]) -> dict[str, Any]:
        return plain(options)

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
        if self.canary is not None and self.canary.model == self.model:
            raise ValueError(
                f"canary.model must not be model itself (saw {self.model!r} for both): name another version,"
                " or another alias"
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
