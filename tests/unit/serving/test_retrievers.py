from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import GateError, NotFoundError, StoreError
from mizzen.serving import retrievers
from mizzen.serving.retrievers import LOOK_EVERY_S, Retrievers
from mizzen.store.manifest import Draft, GateReport, Lineage, Manifest, ParityResult
from mizzen.store.store import ModelStore
from mizzen.workloads.contract import ModelIdentity, Retriever, Runtime, Workload


@dataclass
class Opened:
    """Stands for an open knowledge base."""

    identity: ModelIdentity
    text: str


@dataclass
class Library(Workload):
    """A workload whose versions hold one text; slow to open if `gate` is closed."""

    name = "library"
    opened: list[int] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def retriever(self, folder: Path, runtime: Runtime, identity: ModelIdentity) -> Any:
        assert self.gate.wait(10)
        self.opened.append(identity.version)
        return Opened(identity, (folder / "text").read_text())


Library.__abstractmethods__ = frozenset()


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    made.gate.set()
    monkeypatch.setattr(retrievers.registry, "get", lambda name: {"library": made}[name])
    return made


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(f"file://{tmp_path}/store")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opener(store: ModelStore, clock: Clock, tmp_path: Path, library: Library) -> Retrievers:
    runtime: Any = None
    return Retrievers(store, tmp_path / "cache", runtime, clock=clock)


@pytest.fixture
def publish(store: ModelStore, tmp_path: Path) -> Callable[..., Manifest]:
    """Publishes a version with a text, and points the alias at it."""

    def publishing(text: str, *, passed: bool = True, name: str = "kb") -> Manifest:
        folder = tmp_path / "export"
        folder.mkdir(exist_ok=True)
        (folder / "text").write_text(text)
        parity = ParityResult(probe="p", max_abs=0 if passed else 1, mean_abs=0, tolerance=0.1, passed=passed)
        gate = GateReport(parity=(parity,), quality=None, precision="fp32", provider="CPU", passed=passed)
        lineage = Lineage(
            job={}, data_digest="0", data_report={}, run_id=text, code_version="0", world_size=1,
            deepspeed={}, libraries={},
        )  # fmt: skip
        draft = Draft(name=name, workload="library", precision="fp32", quality={}, gate=gate, lineage=lineage)
        manifest = store.publish(draft, folder)
        if passed:
            store.set_alias(name, manifest.version, "production")
        return manifest

    return publishing


def text_of(retriever: Retriever) -> str:
    assert isinstance(retriever, Opened)
    return retriever.text


def test_a_reference_is_opened_once_as_long_as_it_means_the_same(
    opener: Retrievers, publish: Any, clock: Clock, library: Library
) -> None:
    publish("one")
    first = opener("kb@production")
    clock.now_s += 10 * LOOK_EVERY_S
    assert opener("kb@production") is first
    assert opener("kb@1") is first
    assert opener("kb") is first
    assert library.opened == [1]


def test_an_alias_that_moves_is_followed_forwards_and_back(
    opener: Retrievers, publish: Any, clock: Clock, store: ModelStore
) -> None:
    publish("one")
    assert text_of(opener("kb@production")) == "one"
    publish("two")
    assert text_of(opener("kb@production")) == "one"  # not asked again before it is time
    clock.now_s += LOOK_EVERY_S
    assert text_of(opener("kb@production")) == "two"
    store.set_alias("kb", 1, "production")
    clock.now_s += LOOK_EVERY_S
    assert text_of(opener("kb@production")) == "one"


def test_the_store_is_asked_now_and_then_and_for_a_version_never_again(
    opener: Retrievers, publish: Any, clock: Clock, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("one")
    opener("kb@production"), opener("kb@1")
    asked: list[tuple[str, ...]] = []
    really = store.has_changed
    monkeypatch.setattr(store, "has_changed", lambda signs: asked.append(signs) or really(signs))
    for _ in range(5):
        for _ in range(100):
            opener("kb@production"), opener("kb@1")
        clock.now_s += LOOK_EVERY_S
    assert len(asked) == 4


def test_while_the_store_is_away_the_version_before_answers(
    opener: Retrievers, publish: Any, clock: Clock, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("one")
    opener("kb@production")
    publish("two")

    def away(signs: tuple[str, ...]) -> bool:
        raise StoreError("the store is away")

    with monkeypatch.context() as gone:
        gone.setattr(store, "has_changed", away)
        clock.now_s += LOOK_EVERY_S
        assert text_of(opener("kb@production")) == "one"
    clock.now_s += LOOK_EVERY_S
    assert text_of(opener("kb@production")) == "two"


def test_a_version_that_cannot_be_opened_leaves_the_one_before(
    opener: Retrievers, publish: Any, clock: Clock, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("one")
    opener("kb@production")
    publish("two")

    def broken(*_: object) -> Retriever:
        raise StoreError("bytes do not match")

    with monkeypatch.context() as gone:
        gone.setattr(library, "retriever", broken)
        clock.now_s += LOOK_EVERY_S
        assert text_of(opener("kb@production")) == "one"
    clock.now_s += LOOK_EVERY_S
    assert text_of(opener("kb@production")) == "two"


def test_a_version_that_did_not_pass_its_gate_is_refused(opener: Retrievers, publish: Any) -> None:
    publish("bad", passed=False)
    with pytest.raises(GateError, match="kb@1 did not pass its gate"):
        opener("kb@1")


def test_what_is_not_there_is_an_error_until_it_is_there(opener: Retrievers, publish: Any) -> None:
    with pytest.raises(NotFoundError):
        opener("kb@production")
    publish("one")
    assert text_of(opener("kb@production")) == "one"


def test_many_first_callers_open_it_once(opener: Retrievers, publish: Any, library: Library) -> None:
    publish("one")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(opener, ["kb@production"] * 32))
    assert {id(one) for one in found} == {id(found[0])}
    assert library.opened == [1]


def test_nobody_waits_while_a_new_version_is_opened(
    opener: Retrievers, publish: Any, clock: Clock, library: Library
) -> None:
    publish("one")
    opener("kb@production")
    publish("two")
    clock.now_s += LOOK_EVERY_S
    library.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(opener, "kb@production")
        while not opener._followed["kb@production"].lock.locked():
            pass
        assert text_of(opener("kb@production")) == "one"
        library.gate.set()
        assert text_of(slow.result(10)) == "two"
    assert text_of(opener("kb@production")) == "two"
