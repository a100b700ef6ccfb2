"""Spans of OpenTelemetry, from a request's arrival to the engine, and through the phases of a training run.

Off, and at no cost, until `start` is called in a process whose environment names a collector
(`OTEL_EXPORTER_OTLP_ENDPOINT`): until then nothing of OpenTelemetry is imported and every span is `NOTHING`.
The SDK's own variables hold (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, ...).

Attributes without a dot in their name become `mizzen.<name>`. They are names, numbers and ids of ours, never
what a client sends: no prompt, no user's id, no key, no body, not the words of an exception. How spans reach
the collector is in `otlp`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self

from mizzen import settings

if TYPE_CHECKING:
    from mizzen.otlp import Tracer

Value = str | int | float | bool | None
"""Of an attribute; None leaves it out."""
Kind = Literal["internal", "server", "client"]
Context = Any
"""Where a span belongs, or the opaque context in which it was begun; None stands for none."""
Headers = Iterable[tuple[bytes, bytes]]
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""W3C Trace Context, section 3.2: version, trace id, the caller's span, flags."""
_PLAIN = 55
"""Characters of it, without what a later version may add."""


class Span:
    """A piece of work, as a context manager; this one records nothing, and is what there is while off."""

    __slots__ = ()
    recording = False
    """Whether it will reach the collector: it was sampled."""
    trace_id = ""
    """32 hexadecimal digits; empty while off."""
    traceparent = ""
    """The span as a W3C header; empty while off."""

    def __enter__(self) -> Self:
        """Make it the current span until the block ends, and end it then."""
        return self

    def __exit__(self, kind: object, error: object, where: object) -> None:
        """An exception is noted by its type alone: its words may hold what a client sent."""

    @property
    def context(self) -> Context:
        """For spans that belong below it, or are to be linked with it."""
        return None

    def rename(self, name: str) -> None:
        """What was not known when it began."""

    def set(self, **attributes: Value) -> None:
        """Add attributes."""

    def event(self, name: str, **attributes: Value) -> None:
        """Something that happens now."""

    def failed(self, error_type: str) -> None:
        """Mark it as failed; `error_type` is a class of errors, or an HTTP status."""

    def end(self, end_ns: int | None = None) -> None:
        """For a span that was begun without a block: it is over, now or at `end_ns` since 1970."""


NOTHING = Span()
_tracer: Tracer | None = None


def start(**facts: str) -> bool:
    """Switch tracing on in this process if its environment asks for it; says whether it is on.

    `facts` describe the process (`role="replica"`). It may be called more than once.
    """
    global _tracer
    if _tracer is None and settings.current().traces:
        from mizzen import otlp

        _tracer = otlp.tracer(facts)
    return _tracer is not None


def stop(timeout_s: float = 2.0) -> None:
    """Send what has not been sent, for `timeout_s` at most, and switch tracing off."""
    global _tracer
    if _tracer is not None:
        before, _tracer = _tracer, None
        before.shutdown(timeout_s)


def flush(timeout_s: float = 2.0) -> None:
    """Send what has not been sent, for `timeout_s` at most: the process may be killed soon."""
    if _tracer is not None:
        _tracer.flush(timeout_s)


def on() -> bool:
    """Whether spans are recorded in this process."""
    return _tracer is not None


def span(name: str, /, **attributes: Value) -> Span:
    """A span below the current one, for a `with` block; without a current one it begins a trace."""
    return NOTHING if _tracer is None else _tracer.begin(name, attributes)


def part(name: str, /, **attributes: Value) -> Span:
    """The same, but only as a part of a span that is recorded: never a trace of its own."""
    if _tracer is None or not _tracer.current().recording:
        return NOTHING
    return _tracer.begin(name, attributes)


def begin(
    name: str,
    attributes: Mapping[str, Value],
    *,
    kind: Kind = "internal",
    parent: Context = None,
    links: Iterable[Context] = (),
    start_ns: int | None = None,
) -> Span:
    """A span that began now, or at `start_ns` since 1970, below `parent` or else the current one.

    Either `with` makes it current and ends it, or `end` ends it.
    """
    if _tracer is None:
        return NOTHING
    return _tracer.begin(name, attributes, kind=kind, parent=parent, links=links, start_ns=start_ns)


def current() -> Span:
    """The span in whose block this is."""
    return NOTHING if _tracer is None else _tracer.current()


def context() -> Context:
    """Where we are, to be handed to other threads; None if nothing is recorded here."""
    if _tracer is None or not _tracer.current().recording:
        return None
    return _tracer.context()


def handed_on() -> str:
    """Where we are, as a W3C header for a process that is started elsewhere; empty if that is nowhere.

    What this process was handed itself goes on, also while tracing is off here.
    """
    own = settings.current().traceparent or ""
    return current().traceparent or (own[:_PLAIN] if TRACEPARENT.fullmatch(own) else "")


def received(headers: Headers) -> Context:
    """The caller's place in its trace, by `traceparent` and `tracestate`; malformed ones count as none."""
    if _tracer is None:
        return None
    return _tracer.extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers})


def trace_id_in(headers: Headers) -> str:
    """The trace id that a caller sent, for log lines; empty if there is none that is well formed."""
    for name, value in headers:
        if name == b"traceparent":
            found = TRACEPARENT.fullmatch(value.decode("latin-1"))
            return found[1] if found else ""
    return ""


@contextmanager
def below(traceparent: str | None) -> Iterator[None]:
    """Let spans in the block belong to a span of another process; None or a malformed one changes nothing."""
    if _tracer is None or not traceparent:
        yield
        return
    with _tracer.attached(_tracer.extract({"traceparent": traceparent})):
        yield
