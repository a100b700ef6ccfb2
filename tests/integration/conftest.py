"""What integration tests share: a Ray for a module, and a store of models of a workload from outside."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from mizzen import local_ray, recording, settings
from mizzen.store.manifest import Draft, GateReport, Lineage, Manifest, ParityResult
from mizzen.store.store import ModelStore

PLUGIN = Path(__file__).parent / "serving" / "plugin"


@pytest.fixture(scope="session", autouse=True)
def series_of_this_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this process keeps its series to its end: else the first test that records decides, and its
    folder goes with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIZZEN_HOME", str(tmp_path_factory.mktemp("series")))
        settings.current.cache_clear()
        folder = settings.current().metrics_dir
        recording.begin()
    settings.current.cache_clear()
    return folder


@pytest.fixture(scope="module")
def ray_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[settings.Settings]:
    """Settings with a home of their own, while a Ray runs in this process as `mizzen train` starts it."""
    home = settings.read({"MIZZEN_HOME": str(tmp_path_factory.mktemp("ray-home"))})
    local_ray.init(home, num_cpus=3)
    try:
        yield home
    finally:
        local_ray.shutdown()


def passed_draft(name: str, workload: str) -> Draft:
    """What a version of the model `name` is published with that its gate let pass."""
    parity = ParityResult(probe="one", max_abs=0.0, mean_abs=0.0, tolerance=1e-3, passed=True)
    gate = GateReport(
        parity=(parity,), quality=None, precision="fp32", provider="CPUExecutionProvider", passed=True
    )
    lineage = Lineage(
        job={},
        data_digest="0",
        data_report={},
        run_id="r",
        code_version="0",
        world_size=1,
        deepspeed={},
        libraries={},
    )
    quality = {"exact": 1.0}
    return Draft(name=name, workload=workload, precision="fp32", quality=quality, gate=gate, lineage=lineage)


@dataclass
class Home:
    """A MIZZEN_HOME with a store of adders."""

    folder: Path
    site: Path

    @property
    def environ(self) -> dict[str, str]:
        own = {"MIZZEN_HOME": str(self.folder), "PYTHONPATH": str(self.site)}
        return {**os.environ, **own, "MIZZEN_STORE": "", "PYTHONUNBUFFERED": "1"}

    @property
    def settings(self) -> settings.Settings:
        return settings.read(self.environ)

    def publish(
        self, content: dict[str, Any], alias: str | None = "production", name: str = "adder"
    ) -> Manifest:
        """A version of the model `name`; `content` is its file."""
        store = ModelStore(self.settings.store_url)
        files = self.folder / "export"
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir(parents=True)
        (files / "model.json").write_text(json.dumps(content))
        manifest = store.publish(passed_draft(name, "adder"), files)
        if alias:
            store.set_alias(name, manifest.version, alias)
        return manifest


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH in which the adder is installed, as a package would be."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(PLUGIN / "mizzen_adder.py", folder)
    metadata = folder / "mizzen_adder-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mizzen-adder\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[mizzen.workloads]\nadder = mizzen_adder:workload\n")
    return folder


@pytest.fixture(scope="module")
def home(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"), site)


@dataclass
class Load:
    """Clients that ask without a pause, some on one connection, some on a new one each time."""

    urls: list[str]
    headers: dict[str, str] = field(default_factory=dict)
    answers: list[tuple[str, int, str, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    enough: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def wait_for_more(self, count: int = 100) -> None:
        """Return after `count` more answers."""
        goal = len(self.answers) + count
        while len(self.answers) < goal:
            self.enough.clear()
            assert self.enough.wait(60), "no answers come"

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask(url, kept) for url in self.urls for kept in (True, True, False)))

    async def _ask(self, url: str, kept: bool) -> None:
        client = httpx.AsyncClient(timeout=60.0, trust_env=False, headers=self.headers)
        while not self._stop.is_set():
            if not kept:
                await client.aclose()
                client = httpx.AsyncClient(timeout=60.0, trust_env=False, headers=self.headers)
            try:
                response = await client.post(f"{url}/v1/add", json={"values": [1], "delay_s": 0.05})
            except httpx.HTTPError as error:
                self.problems.append(repr(error))
                continue
            if not response.is_success:
                self.problems.append(f"{response.status_code} {response.text}")
                continue
            total = response.json()["total"]
            version = response.headers.get("mizzen-version", "")
            self.answers.append((url, response.status_code, version, total))
            self.enough.set()
        await client.aclose()


@pytest.fixture
def load_on() -> type[Load]:
    """Asks adders at addresses without a pause, while its context lasts."""
    return Load
