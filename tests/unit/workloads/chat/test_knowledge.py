from __future__ import annotations

import logging
import threading

import pytest

from mizzen.errors import NotFoundError, ServingError, StoreError
from mizzen.workloads.chat.knowledge import FollowedKnowledge
from mizzen.workloads.contract import ModelIdentity

NEVER_S = 3600.0


class Base:
    def __init__(self, version: int) -> None:
        self.identity = ModelIdentity("kb", version, "c" * 64)


class Store:
    """Opens what the reference means, or raises; says when it has been asked."""

    def __init__(self, meaning: object) -> None:
        self.meaning = meaning
        self.asked = threading.Semaphore(0)

    def open(self, reference: str) -> object:
        assert reference == "kb@production"
        self.asked.release()
        if isinstance(self.meaning, Exception):
            raise self.meaning
        return self.meaning


def follow(store: Store, refresh_s: float = NEVER_S) -> FollowedKnowledge:
    return FollowedKnowledge(store.open, "kb@production", refresh_s)


@pytest.mark.parametrize("error", [NotFoundError("no such alias", saw="production"), StoreError("away")])
def test_a_start_without_the_knowledge_base_fails_and_says_what_to_do(error: Exception) -> None:
    with pytest.raises(
        ServingError, match=r"'kb@production' cannot be opened.*mizzen knowledge build"
    ) as refused:
        follow(Store(error))
    assert str(error) in str(refused.value)


def test_a_moved_alias_is_followed_and_an_outage_keeps_what_was_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store(Base(1))
    knowledge = follow(store)
    try:
        store.meaning = second = Base(2)
        knowledge.refresh()
        assert knowledge.retriever is second
        for failure in (StoreError("the store is away"), RuntimeError("the index is torn")):
            store.meaning = failure
            with caplog.at_level(logging.WARNING):
                knowledge.refresh()
            assert knowledge.retriever is second
            assert str(failure) in caplog.text
    finally:
        knowledge.close()


def test_a_thread_asks_again_until_it_is_closed() -> None:
    store = Store(Base(1))
    knowledge = follow(store, refresh_s=0.01)
    for _ in range(3):
        assert store.asked.acquire(timeout=10)
    knowledge.close()
    assert not any(thread.name == "mizzen-chat-knowledge" for thread in threading.enumerate())
