"""Picks the next token from the model's logits, as the request asks.

It does not know requests or text: `engine` calls it for each sequence and step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sampling:
    """How tokens are picked, and when a generation ends."""

    max_tokens: int
    temperature: float = 1.0
    """0 picks the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability (Holtzman et al. 2020)."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time that it was generated already."""
    presence_penalty: float = 0.0
    """Taken from a token's logit if it was generated already."""
    stop: tuple[str, ...] = ()
    seed: int | None = None
    """The same seed, prompt and model: the same answer."""


class Sampler:
    """Picks tokens of one generation, one after another."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._generated: Counter[int] = Counter()

    def pick(self, logits_V: NDArray[Any]) -> int:
        """The next token for `logits_V`, (V,)."""
        s = self._sampling
        if self._generated and (s.frequency_penalty or s.presence_penalty):
            logits_V = logits_V.copy()
            for token, count in self._generated.items():
                logits_V[token] -= s.frequency_penalty * count + s.presence_penalty
        token = int(logits_V.argmax()) if s.temperature == 0 or s.top_p == 0 else self._draw(logits_V)
        if s.frequency_penalty or s.presence_penalty:
            self._generated[token] += 1
        return token

    def _draw(self, logits_V: NDArray[Any]) -> int:
        weights_V = (logits_V.astype(np.float64) - logits_V.max()) / self._sampling.temperature
        np.exp(weights_V, out=weights_V)
        order: NDArray[Any] | None = None
        if self._sampling.top_p < 1:
            order = np.argsort(-weights_V, kind="stable")
            weights_V = weights_V[order]
            sums_V = np.cumsum(weights_V)
            # The token that crosses the border belongs to the nucleus.
            kept = int(np.searchsorted(sums_V, self._sampling.top_p * sums_V[-1])) + 1
            weights_V = weights_V[:kept]
        sums_V = np.cumsum(weights_V)
        at = int(np.searchsorted(sums_V, self._random.random() * sums_V[-1], side="right"))
        at = min(at, len(sums_V) - 1)
        return at if order is None else int(order[at])
