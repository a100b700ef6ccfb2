"""How a version is taken down; how one is loaded is tested with a store, in tests/integration."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter

from mizzen.recording import ServedMetrics
from mizzen.serving.loading import Loaded, alias_of
from mizzen.serving.pins import Pin
from mizzen.workloads.contract import Endpoint


class Stuck(Endpoint):
    """Cannot be closed."""

    def __init__(self) -> None:
        self.router = APIRouter()

    async def close(self) -> None:
        raise RuntimeError("stuck")


class Closes:
    """Stands for a lake and for batches."""

    def __init__(self) -> None:
        self.closed = False


class Lake(Closes):
    async def close(self) -> None:
        self.closed = True


class Batches(Closes):
    def close(self) -> None:
        self.closed = True


async def nothing(*_: Any) -> None:
    """Answers nothing."""


def test_an_endpoint_that_cannot_be_closed_keeps_neither_threads_nor_rows_that_wait() -> None:
    lake: Any = Lake()
    batches: Any = Batches()
    of = Pin(name="m", version=1, digest="0" * 64)
    version = Loaded(of, nothing, Stuck(), batches, ServedMetrics("a", "m", 1), lake, "bed", {})
    with pytest.raises(RuntimeError, match="stuck"):
        asyncio.run(version.close())
    assert (lake.closed, batches.closed) == (True, True)


@pytest.mark.parametrize(
    ("reference", "alias"), [("m@production", "production"), ("m@3", "none"), ("m", "none")]
)
def test_the_alias_of_a_reference_is_shown_and_a_version_is_none(reference: str, alias: str) -> None:
    assert alias_of(reference) == alias
