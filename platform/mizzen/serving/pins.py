"""Which version of which model an application is to serve, decided before anything is loaded.

It does not import Ray: the process that starts Ray decides with it first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mizzen.errors import GateError, ServeFileError
from mizzen.files import validate
from mizzen.serving.spec import App, Canary, Shadow
from mizzen.store.manifest import Manifest
from mizzen.store.store import ModelStore
from mizzen.workloads import registry
from mizzen.workloads.contract import Fields, ModelIdentity

IMPORT_PATH = "mizzen.serving.app:build"
"""What Ray Serve is told to call for an application."""
DEPLOYMENT = "model"
"""The name of the one deployment in each application."""


class Pin(Fields):
    """A reference, resolved: exactly one version."""

    name: str
    version: int
    digest: str

    @property
    def identity(self) -> ModelIdentity:
        """As every response shows it."""
        return ModelIdentity(self.name, self.version, self.digest)


class PinnedCanary(Fields):
    """A canary whose reference is resolved."""

    pin: Pin
    canary: Canary


class PinnedShadow(Fields):
    """A shadow whose reference is resolved."""

    pin: Pin
    shadow: Shadow


class Pinned(Fields):
    """All versions that a replica is to hold: Serve's `user_config`, whose changes restart no replica."""

    first: Pin
    canary: PinnedCanary | None = None
    shadow: PinnedShadow | None = None


@dataclass(frozen=True)
class Resolved:
    """The versions that an application's references mean now."""

    first: Manifest
    canary: Manifest | None = None
    shadow: Manifest | None = None

    def __iter__(self) -> Iterator[Manifest]:
        """All of them."""
        return (one for one in (self.first, self.canary, self.shadow) if one is not None)

    @property
    def answering(self) -> set[tuple[str, int]]:
        """Names and versions of those that answer clients."""
        return {(one.name, one.version) for one in (self.first, self.canary) if one is not None}

    def pinned(self, app: App) -> Pinned:
        """As a replica of `app` is told."""
        canary = shadow = None
        if self.canary is not None and app.canary is not None:
            canary = PinnedCanary(pin=pin(self.canary), canary=app.canary)
        if self.shadow is not None and app.shadow is not None:
            shadow = PinnedShadow(pin=pin(self.shadow), shadow=app.shadow)
        return Pinned(first=pin(self.first), canary=canary, shadow=shadow)


def resolve(app: App, store: ModelStore) -> Resolved:
    """The versions that `app` is to serve now. Raises `NotFoundError`, and what `check` raises."""
    resolved = Resolved(
        store.resolve(app.model),
        None if app.canary is None else store.resolve(app.canary.model),
        None if app.shadow is None else store.resolve(app.shadow.model),
    )
    for manifest in resolved:
        check(app, manifest)
        check_alike(app, resolved.first.workload, manifest.workload)
    return resolved


def check_alike(app: App, workload: str, other: str) -> None:
    """Raise `ServeFileError` for a canary or a shadow of another workload than the application's."""
    if workload != other:
        raise ServeFileError(
            f"app {app.name}: a canary or a shadow must be of the application's workload",
            saw=f"a model of the workload {other!r}",
            allowed=f"one of the workload {workload!r}",
        )


def check(app: App, manifest: Manifest) -> None:
    """Raise `GateError` for a version that did not pass its gate, `ServeFileError` for the app's options."""
    if not manifest.gate.passed:
        raise GateError(
            f"{manifest.name}@{manifest.version} did not pass its gate, so it is not served",
            saw="\n".join(manifest.gate.lines()),
            remedy="Serve a version that passed: look with `mizzen models list`.",
        )
    workload = registry.get(manifest.workload)
    validate(workload.serve_options, app.options, ServeFileError, f"app {app.name}", "options")


def pin(manifest: Manifest) -> Pin:
    """The pin of a version."""
    return Pin(name=manifest.name, version=manifest.version, digest=manifest.digest)
