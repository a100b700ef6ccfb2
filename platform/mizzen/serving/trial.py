"""Asks endpoints for a real answer, as a user would: waits until one is ready, then sends its own example.

It needs no store and no model here: the endpoint itself says (`/examples`) what works on what it has loaded.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any

from mizzen.errors import NotFoundError, ServingError

PAUSE_S = 0.5
_LATER = frozenset({429, 502, 503, 504})
"""What an endpoint answers that is busy, or whose replica is only just starting."""
_SHOWN = 300
"""Characters of a body that an error shows."""


@dataclass(frozen=True)
class Trial:
    """An endpoint that has answered."""

    url: str
    model: str
    version: int
    path: str | None
    """Where the example was sent, below `url`; None if this workload has none, and then nothing was sent."""
    latency_s: float | None
    """From the request to the whole answer."""


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    latency_s: float

    def __str__(self) -> str:
        text = " ".join(self.body.decode(errors="replace").split())
        return f"{self.status} {text[:_SHOWN]}".rstrip()


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key must not travel to another server."""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def read_key(place: Path) -> str:
    """The key in a file, or in the first file of a folder. Raises `NotFoundError` if there is none."""
    files = [place]
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.name[0] != "." and file.is_file())
    try:
        key = files[0].read_text().strip() if files else ""
    except (OSError, UnicodeDecodeError) as cause:
        raise NotFoundError(f"the API key cannot be read from {place}: {cause}") from None
    if not key:
        raise NotFoundError(f"there is no API key in {place}", remedy="Give the file that holds it.")
    return key


def attempt(url: str, *, key: str | None = None, timeout_s: float = 60.0) -> Trial:
    """Have the application at `url` answer its first example, within `timeout_s` altogether.

    Raises `ServingError` with what it said last.
    """
    endpoint = _Endpoint(url.rstrip("/"), key, time.monotonic() + timeout_s)
    ready = endpoint.ask("/readyz", is_final=lambda answer: answer.status in (200, 401, 403))
    health = endpoint.json(ready, "/readyz")
    listed = endpoint.json(endpoint.ask("/examples"), "/examples")
    if not _is_mizzen(health, listed):
        raise ServingError(
            f"{endpoint.url} is no application of Mizzen",
            saw=str(health)[:_SHOWN],
            remedy="Give the address of one, route prefix and all, for instance http://HOST:8000/my-app.",
        )
    model, version = health["model"], health["version"]
    if not listed:
        return Trial(endpoint.url, model, version, None, None)
    path, body = listed[0]["path"], listed[0]["body"]
    answer = endpoint.ask(path, json.dumps(body).encode())
    if not endpoint.json(answer, path):
        raise ServingError(f"{endpoint.url}{path} answered with nothing in it", saw=str(answer))
    return Trial(endpoint.url, model, version, path, answer.latency_s)


def _is_mizzen(health: Any, examples: Any) -> bool:
    """Whether these are what `/readyz` and `/examples` of an application answer with."""
    return (
        isinstance(health, dict)
        and {"model", "version"} <= health.keys()
        and isinstance(examples, list)
        and all(isinstance(one, dict) and {"path", "body"} <= one.keys() for one in examples)
    )


@dataclass(frozen=True)
class _Endpoint:
    url: str
    key: str | None
    deadline_s: float

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        is_final: Callable[[_Answer], bool] = lambda answer: answer.status not in _LATER,
    ) -> _Answer:
        """The first final answer; raises `ServingError` if none comes in time."""
        while True:
            last: object
            try:
                answer = self._send(path, body)
                if is_final(answer):
                    return answer
                last = answer
            except (OSError, HTTPException) as cause:
                last = getattr(cause, "reason", cause)
            if time.monotonic() + PAUSE_S >= self.deadline_s:
                raise ServingError(
                    f"{self.url}{path} did not answer in time",
                    saw=last,
                    remedy="Look with `mizzen status`, or give it longer with --timeout.",
                )
            time.sleep(PAUSE_S)

    def _send(self, path: str, body: bytes | None) -> _Answer:
        headers = {"content-type": "application/json"} if body is not None else {}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        opener = urllib.request.build_opener(_Stay)
        started_s = time.perf_counter()
        try:
            with opener.open(request, timeout=max(PAUSE_S, self.deadline_s - time.monotonic())) as response:
                status, content = response.status, response.read()
        except urllib.error.HTTPError as refused:
            with refused:
                status, content = refused.code, refused.read()
        return _Answer(status, content, time.perf_counter() - started_s)

    def json(self, answer: _Answer, path: str) -> Any:
        """The content of a good answer; raises `ServingError` for any other."""
        if answer.status == 401:
            raise ServingError(
                f"{self.url}{path} wants an API key"
                if self.key is None
                else f"{self.url} refuses the API key",
                remedy="Give the file that holds the key with --api-key-file.",
            )
        if not 200 <= answer.status < 300:
            raise ServingError(f"{self.url}{path} does not answer as it should", saw=answer)
        try:
            return json.loads(answer.body)
        except ValueError:
            raise ServingError(f"{self.url}{path} does not answer with JSON", saw=answer) from None
