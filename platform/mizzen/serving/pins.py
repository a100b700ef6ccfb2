"""Which version of which model an application is to serve, decided before anything is loaded.

It does not import Ray: the process that starts Ray decides with it first.
"""

from __future__ import annotations

from mizzen.errors import GateError, ServeFileError
from mizzen.files import validate
from mizzen.serving.spec import App
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


def resolve(app: App, store: ModelStore) -> Manifest:
    """The version that `app` is to serve now. Raises `NotFoundError`, and what `check` raises."""
    manifest = store.resolve(app.model)
    check(app, manifest)
    return manifest


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
