"""Picks the next token from the model's logits, as the request asks, and says how likely tokens were.

Legend: V words of the vocabulary. It does not know requests or text: `generation` calls it for each token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mizzen.workloads.chat.grammar import Grammar, Matcher

BLOCK = 256
"""Weights that are summed together on the way to the one that is drawn."""
MAX_ALTERNATIVES = 20
"""Most of the likeliest tokens that are told beside the one that was picked; OpenAI's limit."""


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
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens."""
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Go on after an end token, so that an answer has exactly `max_tokens`, for measurements."""
    seed: int | None = None
    """The same seed, prompt and model: the same answer, as far as the logits are the same. In int8 they
    depend a little on what else is in a step, and on how much of the prompt was kept from before."""
    logprobs: int | None = None
    """How many of the likeliest tokens are told with each token, beside its own log probability; None for
    none of it."""
    grammar: Grammar | None = None
    """What the answer must look like."""


class Sampler:
    """Picks tokens of one generation, one after another."""

    def __init__(self, sampling: Sampling, matcher: Matcher | None = None) -> None:
        """`matcher` follows the sampling's grammar, if it has one."""
        self._sampling = sampling
        self._matcher = matcher
        self._random = np.random.default_rng(sampling.seed)
        self._generated: Counter[int] = Counter()
        self._penalises = bool(sampling.frequency_penalty or sampling.presence_penalty)

    def pick(self, logits_V: NDArray[Any]) -> int:
        """The next token for `logits_V`, (V,) in float32, which stays as it is."""
        s = self._sampling
        if self._penalises or s.logit_bias or self._matcher is not None:
            logits_V = self._changed(logits_V)
        token = int(logits_V.argmax()) if s.temperature == 0 or s.top_p == 0 else self._draw(logits_V)
        if self._penalises:
            self._generated[token] += 1
        if self._matcher is not None:
            self._matcher.take(token)
        return token

    @property
    def done(self) -> bool:
        """Whether the grammar says that the answer is complete."""
        return self._matcher is not None and self._matcher.done

    def _changed(self, logits_V: NDArray[Any]) -> NDArray[Any]:
        s = self._sampling
        logits_V = logits_V.copy()
        for token, bias in s.logit_bias.items():
            logits_V[token] += bias
        for token, count in self._generated.items():
            logits_V[token] -= s.frequency_penalty * count + s.presence_penalty
        if self._matcher is not None:
            logits_V[~self._matcher.allowed(len(logits_V))] = -np.inf
        return logits_V

    def _draw(self, logits_V: NDArray[Any]) -> int:
        weights_V = logits_V - logits_V.max()
        if self._sampling.temperature != 1:
            weights_V /= np.float32(self._sampling.temperature)
        np.exp(weights_V, out=weights_V)
        top_p = self._sampling.top_p
        if top_p == 1:
            return _drawn(weights_V, self._random.random())
        # All weights below this border together are less than what the nucleus leaves out.
        total = float(weights_V.sum())
        likely = np.flatnonzero(weights_V >= (1 - top_p) * total / len(weights_V))
        likely = likely[np.argsort(-weights_V[likely], kind="stable")]
        sums = np.cumsum(weights_V[likely], dtype=np.float64)
        # The token that crosses the border belongs to the nucleus.
        kept = min(int(np.searchsorted(sums, top_p * total)) + 1, len(sums))
        at = int(np.searchsorted(sums[:kept], self._random.random() * sums[kept - 1], side="right"))
        return int(likely[min(at, kept - 1)])


def _drawn(weights_V: NDArray[Any], chance: float) -> int:
    """Where `chance` (0 to 1) lies in the running sum of `weights_V`: first the block, then the place."""
    starts = np.arange(0, len(weights_V), BLOCK)
    sums = np.cumsum(np.add.reduceat(weights_V, starts), dtype=np.float64)
    target = chance * sums[-1]
    block = min(int(np.searchsorted(sums, target, side="right")), len(sums) - 1)
    before = sums[block - 1] if block else 0.0
    inner = np.cumsum(weights_V[starts[block] : starts[block] + BLOCK], dtype=np.float64)
    at = int(np.searchsorted(inner, target - before, side="right"))
    if at == len(inner):  # by rounding: the last that has any weight
        at = int(np.flatnonzero(inner == inner[-1])[0])
    return int(starts[block]) + at


def log_probabilities(logits_V: NDArray[Any], token: int, num_best: int) -> list[tuple[int, float]]:
    """Log probabilities of `token`, and then of the `num_best` likeliest tokens, best first.

    They are the model's own: the log softmax of `logits_V`, (V,), whatever was sampled.
    """
    shifted_V = logits_V - logits_V.max()
    log_sum = float(np.log(np.exp(shifted_V).sum(dtype=np.float64)))
    best = np.argpartition(-shifted_V, min(num_best, len(shifted_V) - 1))[:num_best]
    ordered = sorted(best.tolist(), key=lambda t: (-shifted_V[t], t))
    return [(t, float(shifted_V[t]) - log_sum) for t in (token, *ordered)]
