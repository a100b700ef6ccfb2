"""Sends calls with httpx, synchronously and asynchronously, again where that may help.

A call is sent again after 408, 409, 429, 502, 503 and 504, and when there was no answer, as long as
`max_retries` lasts, after a wait that doubles each time, with jitter, or as long as `Retry-After` says, half
a minute at most. Every call of Mizzen's may be sent twice: predictions change nothing, and feedback is known
by its event ids. If the caller is in a span of OpenTelemetry's, the server's span will lie below it. It does
not know routes.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeVar

import httpx
from httpx_retries import Retry, RetryTransport
from httpx_sse import EventSource

from mizzen.client import errors
from mizzen.client.calls import DONE, Call, read_event

T = TypeVar("T")
RETRIED = (408, 409, 429, 502, 503, 504)
CONNECT_TIMEOUT_S = 5.0
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 30.0


@dataclass(frozen=True)
class Options:
    """How a client sends; `api_key` is shown nowhere."""

    base_url: str
    api_key: str | None = field(repr=False)
    timeout_s: float
    max_retries: int
    first_wait_s: float = FIRST_WAIT_S
    """Before the first repetition; each later one waits twice as long, less some jitter."""

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in ("http", "https") or not url.host:
            raise errors.ClientError(
                "the server's address is wrong",
                saw=repr(self.base_url),
                allowed="http://HOST:PORT or https://HOST, and the path before the applications if any",
            )
        if not self.timeout_s > 0:
            raise errors.ClientError("timeout_s is wrong", saw=self.timeout_s, allowed="more than 0")
        if self.max_retries < 0:
            raise errors.ClientError("max_retries is wrong", saw=self.max_retries, allowed="0 or more")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise errors.ClientError("the API key holds characters that no key has")

    @property
    def timeout(self) -> httpx.Timeout:
        """For httpx: connecting takes less patience than waiting for a model."""
        return httpx.Timeout(self.timeout_s, connect=min(CONNECT_TIMEOUT_S, self.timeout_s))

    @property
    def headers(self) -> dict[str, str]:
        """Sent with every call."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"Accept": "application/json", "User-Agent": f"mizzen-python/{version('mizzen')}", **key}

    @property
    def retry(self) -> Retry:
        """When, and how long after, a call is sent again."""
        return Retry(
            total=self.max_retries,
            allowed_methods=("GET", "POST"),
            status_forcelist=RETRIED,
            backoff_factor=self.first_wait_s,
            max_backoff_wait=LONGEST_WAIT_S,
            backoff_jitter=0.5,
        )

    def request(self, client: httpx.Client | httpx.AsyncClient, call: Call[T]) -> httpx.Request:
        """The request of `call`. Raises `ClientError` if its path or its body cannot be sent."""
        timeout = httpx.Timeout(call.timeout_s) if call.timeout_s is not None else httpx.USE_CLIENT_DEFAULT
        try:
            return client.build_request(
                call.method,
                self.base_url.rstrip("/") + call.path,
                json=call.body,
                headers={**_trace_headers(), **call.headers},
                timeout=timeout,
            )
        except (TypeError, ValueError, httpx.InvalidURL) as cause:
            raise errors.ClientError(
                f"{call.method} {call.path}: the request cannot be written: {cause}",
                remedy="Give plain numbers, texts, lists and dicts, and None for what is missing, not NaN.",
            ) from None


class Sender:
    """Sends calls and waits for them; safe to use from several threads."""

    def __init__(self, options: Options, transport: httpx.BaseTransport | None = None) -> None:
        """`transport` is what sends instead of the network."""
        self.options = options
        inner = transport or httpx.HTTPTransport()
        self.http = httpx.Client(
            transport=RetryTransport(inner, retry=options.retry),
            timeout=options.timeout,
            headers=options.headers,
        )

    def send(self, call: Call[T]) -> T:
        """The answer. Raises `ClientError`."""
        with _translated(call):
            response = self.http.send(self.options.request(self.http, call))
        return call.read(response)

    @contextmanager
    def stream(self, call: Call[T]) -> Iterator[Iterator[T]]:
        """The events of the answer as they come; leaving the context early ends it at the server too."""
        with _translated(call):
            response = self.http.send(self.options.request(self.http, call), stream=True)
        try:
            if response.status_code >= 400:
                with _translated(call):
                    response.read()
                raise errors.of_response(response)
            yield self._events(call, response)
        finally:
            response.close()

    def _events(self, call: Call[T], response: httpx.Response) -> Iterator[T]:
        request_id = response.headers.get("mizzen-request-id")
        done = False
        with _translated(call):
            for event in EventSource(response).iter_sse():  # to its end, or the connection is not used again
                done = event.data == DONE
                if not done:
                    yield read_event(call, event.data, request_id)
        if not done:
            raise _broken_off(call)

    def close(self) -> None:
        """Close the connections."""
        self.http.close()


class AsyncSender:
    """Sends calls from one event loop."""

    def __init__(self, options: Options, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`transport` is what sends instead of the network."""
        self.options = options
        inner = transport or httpx.AsyncHTTPTransport()
        self.http = httpx.AsyncClient(
            transport=RetryTransport(inner, retry=options.retry),
            timeout=options.timeout,
            headers=options.headers,
        )

    async def send(self, call: Call[T]) -> T:
        """The answer. Raises `ClientError`."""
        with _translated(call):
            response = await self.http.send(self.options.request(self.http, call))
        return call.read(response)

    @asynccontextmanager
    async def stream(self, call: Call[T]) -> AsyncIterator[AsyncIterator[T]]:
        """The events of the answer as they come; leaving the context early ends it at the server too."""
        with _translated(call):
            response = await self.http.send(self.options.request(self.http, call), stream=True)
        try:
            if response.status_code >= 400:
                with _translated(call):
                    await response.aread()
                raise errors.of_response(response)
            async with aclosing(self._events(call, response)) as pieces:
                yield pieces
        finally:
            await response.aclose()

    async def _events(self, call: Call[T], response: httpx.Response) -> AsyncGenerator[T, None]:
        request_id = response.headers.get("mizzen-request-id")
        done = False
        with _translated(call):
            async with aclosing(EventSource(response).aiter_sse()) as received:
                async for event in received:
                    done = event.data == DONE
                    if not done:
                        yield read_event(call, event.data, request_id)
        if not done:
            raise _broken_off(call)

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()


def _trace_headers() -> dict[str, str]:
    """W3C Trace Context of the span that the caller is in, if OpenTelemetry is in use in this process."""
    headers: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import propagate

        propagate.inject(headers)
    return headers


@contextmanager
def _translated(call: Call[Any]) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as cause:
        raise errors.of_transport(cause, f"{call.method} {call.path}") from cause


def _broken_off(call: Call[Any]) -> errors.APIConnectionError:
    return errors.APIConnectionError(
        f"{call.method} {call.path}: the answer ended before its last event",
        remedy="Ask again; the server's log may say why it stopped.",
    )
