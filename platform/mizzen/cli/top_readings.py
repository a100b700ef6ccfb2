"""Readings of all series at one moment, from this MIZZEN_HOME or from another machine's `/metrics`.

`top_figures` reckons with two of them; nothing is reckoned here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from mizzen.errors import InputError, MizzenError

TIMEOUT_S = 10.0
LARGEST_BYTES = 64 * 2**20

Labels = tuple[tuple[str, str], ...]
"""Sorted by name."""


@dataclass(frozen=True)
class Reading:
    """Every line of an exposition."""

    at_s: float
    """By a clock that only rises."""
    lines: Mapping[str, Mapping[Labels, float]]
    """Values by the line's name (`..._total`, `..._bucket`) and its labels."""

    def of(self, name: str) -> Mapping[Labels, float]:
        """The lines called `name`."""
        return self.lines.get(name, {})


def parsed(text: str, at_s: float) -> Reading:
    """The reading in Prometheus's text format. Raises `ValueError` if that is something else."""
    from prometheus_client.parser import text_string_to_metric_families

    lines: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            lines.setdefault(sample.name, {})[_kept(tuple(sorted(sample.labels.items())))] = sample.value
    return Reading(at_s, lines)


@lru_cache(maxsize=100_000)
def _kept(labels: Labels) -> Labels:
    """The same object for equal labels: a hundred readings are kept, and their lines are much the same."""
    return labels


def of_folder(folder: Path) -> Callable[[], Reading]:
    """Reads the series of all processes that keep theirs in `folder`."""
    from mizzen.totals import exposition

    return lambda: parsed(exposition(folder).decode(), time.monotonic())


def of_url(url: str) -> Callable[[], Reading]:
    """Reads what an exporter shows at `url`; `host:port` alone will do.

    Raises `InputError` if that is no address; the reader raises `MizzenError` if no series come from there.
    """
    import httpx

    address = url if "://" in url else f"http://{url}"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("--url is no address", saw=url, allowed="http://HOST:PORT/metrics, or HOST:PORT")
    if parts.path in ("", "/"):
        address = parts._replace(path="/metrics").geturl()
    client = httpx.Client(timeout=TIMEOUT_S, follow_redirects=True)

    def read() -> Reading:
        body = bytearray()
        try:
            with client.stream("GET", address) as answer:
                answer.raise_for_status()
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > LARGEST_BYTES:
                        raise MizzenError(f"{address} answers with more than {LARGEST_BYTES} bytes")
            found = parsed(body.decode(), time.monotonic())
        except (httpx.HTTPError, httpx.InvalidURL) as cause:
            raise MizzenError(
                f"{address} does not answer: {cause}", remedy="Is `mizzen metrics` or a port-forward running?"
            ) from None
        except ValueError:
            raise MizzenError(
                f"{address} does not answer in Prometheus's format", saw=body[:60].decode(errors="replace")
            ) from None
        return found

    return read
