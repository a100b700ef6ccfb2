"""Following a reference, against a real store on disk; time passes only where a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import NotFoundError, StoreError
from mizzen.serving.spec import App
from mizzen.serving.watch import LOOK_S, MAX_PAUSE_S, PATIENCE_S, Watcher
from mizzen.store.manifest import Draft, GateReport, Lineage, Manifest, ParityResult
from mizzen.store.store import ModelStore

EVERY_S = 10.0


class World:
    """A store, a clock, and what a replica does."""

    def __init__(self, folder: Path, model: str = "films@production") -> None:
        self.folder = folder
        self.store = ModelStore(f"file://{folder / 'store'}")
        self.now_s = 0.0
        self.then: dict[int, Callable[[], Any]] = {}
        """What happens during which pause."""
        self.pauses_s: list[float] = []
        self.broken: set[int] = set()
        self.tried: list[int] = []
        app = App(name="a", model=model)
        self.watcher = Watcher(app, self.store, EVERY_S, sleep=self.sleep, clock=lambda: self.now_s)

    async def sleep(self, pause_s: float) -> None:
        self.now_s += pause_s
        self.pauses_s.append(pause_s)
        await asyncio.to_thread(self.then.get(len(self.pauses_s), lambda: None))

    async def load(self, manifest: Manifest) -> int:
        self.tried.append(manifest.version)
        if manifest.version in self.broken:
            raise ValueError("broken")
        return manifest.version

    async def replace(self, manifest: Manifest) -> bool:
        self.tried.append(manifest.version)
        return manifest.version not in self.broken

    def publish(self, alias: str | None = "production") -> int:
        files = self.folder / "files"
        files.mkdir(exist_ok=True)
        (files / "x").write_text("x")
        parity = ParityResult(probe="p", max_abs=0.0, mean_abs=0.0, tolerance=1.0, passed=True)
        gate = GateReport(parity=(parity,), quality=None, precision="fp32", provider="CPU", passed=True)
        lineage = Lineage(
            job={}, data_digest="0", data_report={}, run_id="r", code_version="0",
            world_size=1, deepspeed={}, libraries={},
        )  # fmt: skip
        draft = Draft(name="films", workload="w", precision="fp32", quality={}, gate=gate, lineage=lineage)
        version = self.store.publish(draft, files).version
        if alias:
            self.store.set_alias("films", version, alias)
        return version

    def run(self, *steps: Callable[[], Awaitable[Any]]) -> Any:
        async def all_steps() -> Any:
            result = None
            for step in steps:
                result = await step()
            return result

        return asyncio.run(all_steps())

    def first(self) -> Awaitable[int]:
        return self.watcher.first(self.load)

    def poll(self) -> Awaitable[None]:
        return self.watcher.poll(self.replace)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_start_takes_the_version_that_is_there(world: World) -> None:
    version = world.publish()
    assert world.run(world.first) == version
    assert world.pauses_s == []


@pytest.mark.parametrize("model", ["films@production", "films", "films@1"])
def test_a_start_waits_a_while_for_its_version_to_be_published(tmp_path: Path, model: str) -> None:
    world = World(tmp_path, model)
    world.then[3] = world.publish
    assert world.run(world.first) == 1
    assert world.pauses_s == [LOOK_S] * 3


def test_a_start_without_a_version_fails_with_the_reason_and_after_a_pause(world: World) -> None:
    with pytest.raises(NotFoundError, match="has no model 'films'"):
        world.run(world.first)
    assert PATIENCE_S <= world.now_s < PATIENCE_S + LOOK_S


def test_a_start_with_a_broken_version_waits_for_another_and_does_not_try_the_same_again(
    world: World,
) -> None:
    world.broken = {world.publish()}
    world.then[2] = world.publish
    assert world.run(world.first) == 2
    assert world.tried == [1, 2]
    world.broken = {1, 2}
    with pytest.raises(ValueError, match="broken"):
        world.run(world.first)


def test_a_fixed_version_that_is_broken_is_tried_once_a_start(tmp_path: Path) -> None:
    world = World(tmp_path, "films@1")
    world.broken = {world.publish()}
    with pytest.raises(ValueError, match="broken"):
        world.run(world.first)
    assert world.tried == [1]
    assert world.now_s >= PATIENCE_S


def test_a_start_while_the_store_is_away_looks_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish()
    take_away(world, monkeypatch)
    with pytest.raises(StoreError, match="is away"):
        world.run(world.first)
    assert world.now_s >= PATIENCE_S


def take_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> Any:
        raise StoreError("the store is away")

    for question in ("size", "read", "names"):
        monkeypatch.setattr(world.store.objects, question, away)


def test_a_move_of_the_alias_is_followed_and_a_move_back_too(world: World) -> None:
    world.publish()
    world.publish(alias=None)

    async def move(version: int) -> None:
        world.store.set_alias("films", version, "production")

    world.run(world.first, lambda: move(2), world.poll, lambda: move(1), world.poll, world.poll)
    assert world.tried == [1, 2, 1]


def test_of_several_moves_the_last_is_in_force(world: World) -> None:
    world.publish()

    async def several() -> None:
        for _ in range(3):
            world.publish()

    world.run(world.first, several, world.poll)
    assert world.tried == [1, 4]


def test_a_poll_without_a_move_reads_nothing_but_one_absent_object(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish()
    asked: list[str] = []
    size = world.store.objects.size

    async def count() -> None:
        take_away(world, monkeypatch)
        monkeypatch.setattr(world.store.objects, "size", lambda key: asked.append(key) or size(key))

    world.run(world.first, count, world.poll, world.poll)
    assert asked == ["models/films/aliases/production/00000002.json"] * 2
    assert world.tried == [1]


def test_a_version_that_cannot_be_loaded_is_tried_again_with_growing_pauses(world: World) -> None:
    world.publish()
    world.run(world.first)
    world.broken = {world.publish()}
    tried_at_s = []
    for _ in range(400):
        before = len(world.tried)
        world.run(world.poll)
        if len(world.tried) > before:
            tried_at_s.append(world.now_s)
        world.now_s += EVERY_S
    pauses_s = [later - sooner for sooner, later in pairwise(tried_at_s)]
    assert pauses_s[:4] == [20, 40, 80, 160]
    assert max(pauses_s) == MAX_PAUSE_S
    world.watcher._failures = 5000
    world.now_s += MAX_PAUSE_S
    world.run(world.poll)
    world.broken = set()
    world.now_s += MAX_PAUSE_S
    world.run(world.poll)
    assert world.watcher.answers is not None
    assert world.watcher.answers.version == 2


def test_a_move_is_tried_at_once_though_the_version_before_it_is_broken(world: World) -> None:
    world.publish()
    world.run(world.first)
    world.broken = {world.publish()}
    world.run(world.poll, world.poll)
    world.publish()
    world.run(world.poll, world.poll)
    assert world.tried == [1, 2, 3]


def test_a_move_back_ends_the_attempts(world: World) -> None:
    world.publish()
    world.run(world.first)
    world.broken = {world.publish()}
    world.run(world.poll)
    world.store.set_alias("films", 1, "production")
    world.now_s += MAX_PAUSE_S
    world.run(world.poll, world.poll)
    assert world.tried == [1, 2]


def test_a_store_that_is_away_is_told_of_once_and_missed_moves_are_caught_up(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.publish()
    world.run(world.first)
    with pytest.MonkeyPatch.context() as patch:
        take_away(world, patch)
        world.run(world.poll, world.poll, world.poll)
    assert caplog.text.count("until the store answers again") == 1
    world.publish()
    world.run(world.poll)
    assert world.tried == [1, 2]


def test_a_store_that_goes_away_between_two_questions_hides_no_move(world: World) -> None:
    world.publish()
    world.run(world.first)
    world.publish()
    with pytest.MonkeyPatch.context() as patch:

        def away(_: Any) -> Any:
            raise StoreError("the store is away")

        patch.setattr(world.store.objects, "read", away)
        world.run(world.poll)
    assert world.tried == [1]
    world.run(world.poll)
    assert world.tried == [1, 2]


def test_a_fixed_version_is_not_polled(tmp_path: Path) -> None:
    world = World(tmp_path, "films@1")
    world.publish()
    world.run(world.first, lambda: world.watcher.run(world.replace))
    assert world.pauses_s == []


def test_a_fixed_version_that_could_not_be_loaded_is_tried_again(tmp_path: Path) -> None:
    world = World(tmp_path, "films@1")
    world.publish()
    world.broken = {1}
    world.then[4] = world.broken.clear
    world.run(world.poll, lambda: world.watcher.run(world.replace))
    assert set(world.tried) == {1}
    assert len(world.tried) >= 2
    assert world.watcher.answers is not None


def test_a_name_alone_follows_new_versions_until_it_has_the_alias(tmp_path: Path) -> None:
    world = World(tmp_path, "films")
    world.publish(alias=None)
    world.run(world.first)
    world.publish(alias=None)
    world.run(world.poll)
    world.store.set_alias("films", 1, "production")
    world.run(world.poll)
    world.publish(alias=None)
    world.run(world.poll)
    assert world.tried == [1, 2, 1]


def test_a_watcher_that_takes_over_from_a_pin_looks_first(world: World) -> None:
    world.publish()
    world.run(world.poll, world.poll)
    assert world.tried == [1]


def test_polls_of_many_replicas_spread(world: World) -> None:
    world.publish()

    class DoneError(Exception):
        pass

    def stop() -> None:
        raise DoneError

    world.then[20] = stop
    with pytest.raises(DoneError):
        world.run(world.first, lambda: world.watcher.run(world.replace))
    assert len(set(world.pauses_s)) == 20
    assert all(0.8 * EVERY_S <= pause_s <= 1.2 * EVERY_S for pause_s in world.pauses_s)
