"""Calls ASGI applications without a server, message by message."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
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
    method: str = "POST"
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

        about = {"type": "http", "method": self.method, "path": self.path, "headers": list(self.headers)}
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
class Line:
    """One call of a recorder."""

    kind: str
    series: str
    labels: dict[str, str]
    value: float


class Recorded:
    """Keeps what would become metrics, in place of a `Recorder`; those made by `of` write into it too."""

    def __init__(self, lines: list[Line] | None = None, **fixed: str) -> None:
        self.fixed = fixed
        self.lines: list[Line] = [] if lines is None else lines

    def of(self, **fixed: str) -> Recorded:
        return Recorded(self.lines, **fixed)

    def count(self, series: Series, amount: float = 1.0, **labels: str) -> None:
        self._add("counter", series, labels, amount)

    def set(self, series: Series, value: float, **labels: str) -> None:
        self._add("gauge", series, labels, value)

    def observe(self, series: Series, value: float, exemplar: str | None = None, **labels: str) -> None:
        self._add("histogram", series, labels, value)

    def cell(self, series: Series, **labels: str) -> Any:
        return SimpleNamespace(
            inc=lambda amount=1.0: self.count(series, amount, **labels),
            observe=lambda value: self.observe(series, value, **labels),
        )

    def forget(self) -> None:
        self.lines[:] = [
            line
            for line in self.lines
            if line.kind != "gauge" or not self.fixed.items() <= line.labels.items()
        ]

    def _add(self, kind: str, series: Series, labels: dict[str, str], value: float) -> None:
        assert series.kind == kind
        assert labels.keys() <= set(series.label_names)
        self.lines.append(Line(kind, series.name, {**self.fixed, **labels}, value))

    def values(self, series: Series, **labels: str) -> list[float]:
        """What was recorded of the series with these labels, in order."""
        found = [line for line in self.lines if line.series == series.name]
        return [line.value for line in found if labels.items() <= line.labels.items()]

    def total(self, series: Series, **labels: str) -> float:
        """The sum of a counter's lines with these labels."""
        return sum(self.values(series, **labels))

    def shown(self, series: Series, *names: str) -> dict[tuple[str, ...], float]:
        """The last value of each line of a gauge, by the values of the labels `names`."""
        return {
            tuple(line.labels[name] for name in names): line.value
            for line in self.lines
            if line.series == series.name
        }


@pytest.fixture
def recorder() -> Recorded:
    return Recorded()


@pytest.fixture
def call() -> type[Call]:
    """`await call(bodies, path=..., headers=...).to(app)`."""
    return Call
