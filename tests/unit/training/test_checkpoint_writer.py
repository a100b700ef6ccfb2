"""Writing in the background: killed between any two objects, a store that is away or slow, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from mizzen.errors import StoreError
from mizzen.store.objects import Objects
from mizzen.training.checkpoint_writer import CheckpointWriter, Draft
from mizzen.training.checkpoints import Checkpoints, Part, RankRecord, name_of

WAIT_S = 60.0


class Store(Objects):
    """A folder whose writes can be made to fail, or to wait."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.as_uri())
        self.begun: list[str] = []
        self.failing: list[BaseException] = []
        """What the next writes raise, in turn."""
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    @contextmanager
    def writer(self, key: str) -> Iterator[Any]:
        self.entered.set()
        assert self.open.wait(WAIT_S)
        self.begun.append(key)
        if self.failing:
            raise self.failing.pop(0)
        with super().writer(key) as file:
            yield file


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


def draft(step: int = 10, rank: int = 0, world_size: int = 1) -> Draft:
    parts = [
        Part("state/model.pt", {"w": torch.arange(5.0), "step": step}),
        Part(f"random-{rank}.safetensors", b"numbers"),
    ]
    record = RankRecord(
        rank=rank, world_size=world_size, step=step, samples=step, zero_stage=1, data_digest="d"
    )
    return Draft(name_of(step, 1, "0" * 8), parts, record)


def writer(
    store: Store, told: list[tuple[str, str]] | None = None, retry_for_s: float = WAIT_S
) -> CheckpointWriter:
    heard = told if told is not None else []
    return CheckpointWriter(
        store, "checkpoints", tell=lambda kind, text: heard.append((kind, text)),
        written=lambda record, duration_s: None, alive=lambda: None, retry_for_s=retry_for_s, pause_s=0.001,
    )  # fmt: skip


def test_what_was_written_is_a_checkpoint_with_digests(store: Store, tmp_path: Path) -> None:
    one = writer(store)
    one.begin(draft())
    one.finish()
    found = Checkpoints(store, "checkpoints")
    last = found.last()
    assert last is not None
    assert [file.name for file in last.lead.files] == ["state/model.pt", "random-0.safetensors"]
    for file in last.lead.files:
        found.fetch(last, file, tmp_path / "here" / file.name)
    state = torch.load(tmp_path / "here" / "state" / "model.pt", weights_only=True)
    assert torch.equal(state["w"], torch.arange(5.0))


@pytest.mark.parametrize("num_writes", [0, 1, 2, 3, 4, 5])
def test_killed_between_any_two_objects_the_one_before_stays_the_last(store: Store, num_writes: int) -> None:
    """Two ranks write three objects each; the machine dies after `num_writes` of them."""
    for rank in range(2):
        before = writer(store)
        before.begin(draft(10, rank, 2))
        before.finish()
    left = num_writes
    for rank in range(2):
        store.failing, count = [], min(left, 3)
        left -= count
        one = writer(store)
        _killed_after(store, count)
        one.begin(draft(20, rank, 2))
        with pytest.raises(SystemExit):
            one.finish()
            raise SystemExit  # this rank came to its end
    found = Checkpoints(store, "checkpoints")
    assert [each.step for each in found.complete()] == [10]


def _killed_after(store: Store, count: int) -> None:
    """Of this rank's three writes the first `count` succeed, the next kills it."""
    real, done = Store.writer, []

    @contextmanager
    def writer_(key: str) -> Iterator[Any]:
        if len(done) == count:
            raise SystemExit
        done.append(key)
        with real(store, key) as file:
            yield file

    store.writer = writer_  # type: ignore[method-assign] # what a dying machine does to the store


def test_a_store_that_is_away_is_tried_again_and_told_of_once(store: Store) -> None:
    told: list[tuple[str, str]] = []
    store.failing = [StoreError("away"), StoreError("away"), StoreError("away")]
    one = writer(store, told)
    one.begin(draft())
    one.finish()
    assert Checkpoints(store, "checkpoints").last() is not None
    assert [kind for kind, _ in told] == ["store_away", "store_back"]


def test_after_its_time_a_checkpoint_is_given_up_and_the_next_one_is_written(store: Store) -> None:
    told: list[tuple[str, str]] = []
    one = writer(store, told, retry_for_s=0.0)
    store.failing = [StoreError("away")]
    one.begin(draft(10))
    one.wait()  # the run goes on
    assert told[-1][0] == "store_away"
    assert "given up" in told[-1][1]
    one.begin(draft(20))
    one.finish()
    last = Checkpoints(store, "checkpoints").last()
    assert last is not None
    assert last.step == 20


def test_a_run_that_ends_without_its_last_checkpoint_is_told(store: Store) -> None:
    one = writer(store, retry_for_s=0.0)
    store.failing = [StoreError("away")]
    one.begin(draft())
    with pytest.raises(StoreError, match="away"):
        one.finish()


def test_an_error_of_the_thread_reaches_the_run(store: Store) -> None:
    one = writer(store)
    store.failing = [MemoryError("no room")]
    one.begin(draft())
    with pytest.raises(MemoryError, match="no room"):
        one.wait()
    one.begin(draft(20))  # and only once
    one.finish()


def test_the_run_goes_on_while_the_store_is_slow(store: Store) -> None:
    """The store takes nothing until it is released; steps are done meanwhile, and change what was copied."""
    store.open.clear()
    one = writer(store)
    weights = torch.zeros(3)
    record = draft().record
    one.begin(Draft(name_of(10, 1, "0" * 8), [Part("state/w.pt", weights.clone())], record))
    assert store.entered.wait(WAIT_S)
    for _ in range(100):
        weights += 1  # a step
    assert one.busy
    assert store.begun == []
    store.open.set()
    one.finish()
    content = store.read(f"checkpoints/{name_of(10, 1, '0' * 8)}/state/w.pt")
    assert content
    assert not one.busy


def test_the_next_checkpoint_waits_for_the_one_before_and_says_that_it_lives(store: Store) -> None:
    store.open.clear()
    alive: list[int] = []

    def released() -> None:
        alive.append(1)
        store.open.set()

    one = CheckpointWriter(
        store, "checkpoints", tell=lambda kind, text: None, written=lambda record, duration_s: None,
        alive=released, retry_for_s=0.0,
    )  # fmt: skip
    one.begin(draft(10))
    one.begin(draft(20))
    one.finish()
    assert alive
    steps = [int(key.split("/")[1].split("-")[1]) for key in store.begun]
    assert steps == sorted(steps)
