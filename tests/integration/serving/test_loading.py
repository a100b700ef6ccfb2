"""A version is loaded in this process, without Ray."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest

from mizzen.errors import ServingError
from mizzen.serving.loading import Surroundings, load
from mizzen.serving.pins import pin
from mizzen.serving.spec import App
from mizzen.workloads import registry


@pytest.fixture
def adders(site, monkeypatch) -> Iterator[None]:
    def forget() -> None:
        registry._entries.cache_clear()
        registry.get.cache_clear()
        sys.modules.pop("mizzen_adder", None)

    monkeypatch.syspath_prepend(str(site))
    forget()
    yield
    forget()


def test_what_a_version_has_begun_is_ended_if_it_cannot_be_loaded(home, adders):
    manifest = home.publish({"constant": 1}, name="half-loaded")
    around = Surroundings(home.settings.store_url, home.settings.cache_dir)
    app = App(name="a", model="half-loaded", options={"fail_at_start": True})
    with pytest.raises(ServingError, match="told not to start") as failure:
        asyncio.run(load(app, pin(manifest), around))
    assert failure.tb is not None  # it holds the endpoint until here
    (endpoint,) = sys.modules["mizzen_adder"].ALIVE
    assert endpoint.closed


def test_a_version_is_loaded_and_taken_down(home, adders):
    manifest = home.publish({"constant": 1}, name="loaded")
    around = Surroundings(home.settings.store_url, home.settings.cache_dir)

    async def scenario() -> None:
        loaded = await load(App(name="a", model="loaded"), pin(manifest), around)
        assert loaded.endpoint.started
        assert not loaded.endpoint.closed
        await loaded.close()
        assert loaded.endpoint.closed

    asyncio.run(scenario())
