"""Calls ASGI applications without a server, message by message."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import ASGIApp, Message

from mizzen.series import Series


@dataclass
class Call:
    """One request, and the messages that came back."""

    bodies: list[bytes] = field(default_factory=lambda: [b""])
    path: str = "/x"
    headers: Iterable[tuple[bytes, bytes]] = ()
    sent: list[Message] = field(default_factory=list)
    scope: dict[str, Any] = field(default_factory=dict)

    async def to(self, app: ASGIApp) -> Call:
        """Send it to `app`; returns when that has returned."""
        pieces = [
            {"type": "http.request", "body": body, "more_body": number < len(self.bodies) - 1}
            for number, body in enumerate(self.bodies)
        ]

        async def receive() -> Message:
            return pieces.pop(0) if pieces else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            self.sent.append(message)

        about = {"type": "http", "method": "POST", "path": self.path, "headers": list(self.headers)}
        self.scope.update(about)
        await app(self.scope, receive, send)
        return self

    @property
    def status(self) -> int | None:
        return next((message["status"] for message in self.sent if "status" in message), None)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


@dataclass
class Recorded:
    """Keeps what would become metrics, in place of a `Recorder`."""

    lines: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    def count(self, series: Series, amount: float = 1.0, **labels: str) -> None:
        self.lines.append((series.name, labels, amount))

    def set(self, series: Series, value: float, **labels: str) -> None:
        self.lines.append((series.name, labels, value))

    def observe(self, series: Series, value: float, exemplar: str | None = None, **labels: str) -> None:
        self.lines.append((series.name, labels, value))

    def values(self, series: Series, **labels: str) -> list[float]:
        """What was recorded of the series with these labels, in order."""
        found = [(of, value) for name, of, value in self.lines if name == series.name]
        return [value for of, value in found if labels.items() <= of.items()]


@pytest.fixture
def recorder() -> Recorded:
    return Recorded()


@pytest.fixture
def call() -> type[Call]:
    """`await call(bodies, path=..., headers=...).to(app)`."""
    return Call
