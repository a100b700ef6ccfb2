"""Every workload as an application in this process: small exported models, loaded as replicas load them.

The models are those of the unit tests, whose fixtures are taken over here. `MIZZEN_FUZZ` multiplies the
number of examples: 1 by default, which is for `make test`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from schemathesis.python import asgi
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mizzen.serving.auth import Access
from mizzen.serving.key_folder import KeyFolder
from mizzen.serving.limiter import ActorChannel, SharedLimits
from mizzen.serving.loading import Surroundings, load
from mizzen.serving.pins import pin as pin_of
from mizzen.serving.pins import resolve
from mizzen.serving.service_levels import ServiceLevels
from mizzen.serving.shadow import Shadow
from mizzen.serving.spec import App
from mizzen.serving.switch import Switch
from mizzen.store.store import ModelStore

TESTS = Path(__file__).parents[1]
KEY = "k" * 32


def _fixtures_of(folder: str) -> Any:
    name = folder.replace("/", "_")
    spec = spec_from_file_location(f"fixtures_of_{name}", TESTS / folder / "conftest.py")
    assert spec and spec.loader
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_chat = _fixtures_of("unit/workloads/chat")
_recommendation = _fixtures_of("unit/workloads/recommendation")
_forecasting = _fixtures_of("unit/workloads/forecasting")
_knowledge = _fixtures_of("unit/workloads/knowledge")
passed_draft = _fixtures_of("integration").passed_draft
tiny_base, tiny_model, tiny_export = _chat.tiny_base, _chat.tiny_model, _chat.tiny_export
world_tables, world, exported = _recommendation.world_tables, _recommendation.world, _recommendation.exported
about, written, rich = _forecasting.about, _forecasting.written, _forecasting.rich
tiny_embedder, base, version = _knowledge.tiny_embedder, _knowledge.base, _knowledge.version


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in's network, not trained."""
    import torch
    from mizzen_digits import workload
    from mizzen_digits.config import DigitsData, DigitsModel
    from mizzen_digits.data import prepare

    from mizzen.store.export import OnnxExporter
    from mizzen.workloads.contract import Prepared

    data = tmp_path_factory.mktemp("digits")
    sources: Any = None  # the bundled digits need none
    prepared = Prepared(data, "", prepare(DigitsData(), sources, data))
    torch.manual_seed(0)
    network = workload.build_model(DigitsModel(), prepared, dropout=0.0).eval()
    folder = tmp_path_factory.mktemp("exported")
    exporter = OnnxExporter(tmp_path_factory.mktemp("cache"))
    workload.export(network, DigitsModel(), prepared, folder, "fp32", exporter)
    return folder


@dataclass
class Shop:
    """A store, and the applications over its models."""

    folder: Path
    store: ModelStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = ModelStore(f"file://{self.folder}/store")
        (self.folder / "keys").mkdir()
        (self.folder / "keys" / "fuzz").write_text(KEY)

    def publish(self, name: str, workload: str, files: Path) -> None:
        """`files` as a version that its gate let pass, with the alias `production`."""
        manifest = self.store.publish(passed_draft(name, workload), files)
        self.store.set_alias(name, manifest.version, "production")

    def serve(self, name: str, with_keys: bool, **fields: Any) -> ASGIApp:
        """The application for the model `name`, as the serve file's `fields` have it."""
        app = App.model_validate({"name": name, "model": f"{name}@production", **fields})
        return Replica(app, self, with_keys)


class Replica:
    """Loads a version when its server starts, and answers with it: what a Serve replica does, without Ray."""

    def __init__(self, app: App, shop: Shop, with_keys: bool) -> None:
        self.app, self.shop, self.with_keys = app, shop, with_keys
        self.switch: Switch[Any] = Switch()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            # Only who has asked for a message is told if loading fails.
            first = [await receive()]
            await self._load()

            async def replayed() -> Message:
                return first.pop() if first else await receive()

            await self.switch(scope, replayed, send)
        else:
            await self.switch(scope, receive, send)

    async def _load(self) -> None:
        access = None
        if self.with_keys:
            keys = KeyFolder(self.shop.folder / "keys")
            access = Access(self.app.name, keys, SharedLimits(ActorChannel()))
        versions = await asyncio.to_thread(resolve, self.app, self.shop.store)
        levels = ServiceLevels(self.app.name, self.app.slo)
        around = Surroundings(self.shop.store.url, self.shop.folder / "cache", access, levels, Shadow())
        self.switch.swap(await load(self.app, pin_of(versions.first), around))


@pytest.fixture(scope="session")
def shop(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_export: Path,
    exported: Path,
    rich: Path,
    version: Path,
    digits: Path,
) -> Iterator[Shop]:
    """A store with a model of each workload."""
    made = Shop(tmp_path_factory.mktemp("shop"))
    made.publish("chat", "chat", tiny_export)
    made.publish("films", "recommendation", exported)
    made.publish("sales", "forecasting", rich)
    made.publish("kb", "knowledge", version)
    made.publish("digits", "digits", digits)
    yield made
    asgi.shutdown_lifespans()


@pytest.fixture(scope="session")
def effort() -> Callable[[int], int]:
    """`effort(n)`: so many examples instead of n, as `MIZZEN_FUZZ` says."""
    factor = float(os.environ.get("MIZZEN_FUZZ", "1"))
    return lambda number: max(1, round(number * factor))
