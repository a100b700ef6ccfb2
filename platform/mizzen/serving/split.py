"""Which of an application's two versions a request goes to, when a canary stands beside the first.

The same client meets the same version in every replica: a hash decides, of what the client calls its session
(header `mizzen-session`) or else of the request's id; where it sends neither, chance does. The hash is salted
with the canary's digest, so it is not always the same clients who try what is new, and a larger weight takes
more clients and gives none back. It sends nothing anywhere: `switch` does.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from mizzen.serving.middleware import ALWAYS_ANSWERED, relative_path

SESSION = b"mizzen-session"
_IDS = (b"mizzen-request-id", b"x-request-id")
_OF_THE_FIRST = ALWAYS_ANSWERED | {"/examples"}
"""What tells of the application, and not of one version: probes, documentation, examples."""
_NAMED = re.compile(r"/v2/models/[^/]+/versions/([0-9]{1,9})(/|$)")
"""The Open Inference Protocol lets a request name its version."""


@dataclass(frozen=True)
class Split:
    """How requests are shared out between two versions."""

    weight: float
    """Share of the requests that the canary gets."""
    canary_version: int
    salt: bytes

    def takes(self, scope: Any) -> bool:
        """Whether the HTTP request of `scope` goes to the canary."""
        path = relative_path(scope)
        if path in _OF_THE_FIRST:
            return False
        named = _NAMED.match(path)
        if named is not None:
            return int(named[1]) == self.canary_version
        return self._point(scope["headers"]) < self.weight

    def _point(self, headers: Iterable[tuple[bytes, bytes]]) -> float:
        """Where the client stands between 0 and 1."""
        key = b""
        for name, value in headers:
            if name == SESSION and value:
                key = b"session " + value
                break
            if name in _IDS and value:
                key = b"request " + value
        if not key:
            return random.random()
        digest = blake2b(key, digest_size=8, key=self.salt).digest()
        return int.from_bytes(digest, "big") / 2**64
