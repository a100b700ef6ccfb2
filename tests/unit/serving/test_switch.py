"""The switch between versions, called as ASGI, without Ray."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from mizzen.serving.switch import Switch


class Version:
    """Answers with its name when its gate opens; knows whether it was closed while it had requests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate = asyncio.Event()
        self.in_flight = 0
        self.closed = False

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.in_flight += 1
        await self.gate.wait()
        assert not self.closed
        self.in_flight -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.name.encode()})

    async def close(self) -> None:
        assert self.in_flight == 0
        self.closed = True


async def call(switch: Switch, path: str = "/x") -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await switch({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
    return sent


def versions(*names: str) -> list[Any]:
    return [Version(name) for name in names]


def test_requests_go_to_the_version_in_force_and_finish_where_they_began():
    async def scenario() -> None:
        switch = Switch()
        old, new = versions("old", "new")
        switch.swap(old)
        began = [asyncio.create_task(call(switch)) for _ in range(3)]
        await asyncio.sleep(0)
        assert switch.swap(new) is old
        draining = asyncio.create_task(switch.drained(old))
        new.gate.set()
        assert (await call(switch))[1]["body"] == b"new"
        assert not draining.done()
        old.gate.set()
        assert [(await task)[1]["body"] for task in began] == [b"old"] * 3
        await asyncio.wait_for(draining, 5)

    asyncio.run(scenario())


def test_without_a_version_it_is_alive_but_not_ready():
    async def scenario() -> None:
        switch = Switch()
        statuses = {
            path: (await call(switch, path))[0]["status"] for path in ("/healthz", "/readyz", "/v1/x")
        }
        assert statuses == {"/healthz": 200, "/readyz": 503, "/v1/x": 503}

    asyncio.run(scenario())


def test_the_end_of_the_server_waits_for_requests_and_closes_the_version():
    async def scenario() -> None:
        switch = Switch()
        (version,) = versions("only")
        switch.swap(version)
        request = asyncio.create_task(call(switch))
        await asyncio.sleep(0)
        messages: asyncio.Queue[Message] = asyncio.Queue()
        sent: list[str] = []

        async def send(message: Message) -> None:
            sent.append(message["type"])

        lifespan = asyncio.create_task(switch({"type": "lifespan"}, messages.get, send))
        messages.put_nowait({"type": "lifespan.startup"})
        messages.put_nowait({"type": "lifespan.shutdown"})
        while sent != ["lifespan.startup.complete"]:
            await asyncio.sleep(0)
        assert not version.closed
        version.gate.set()
        await lifespan
        await request
        assert version.closed
        assert sent[-1] == "lifespan.shutdown.complete"

    asyncio.run(scenario())
