"""Whether two servers give the same answer to the same request: what a peer is compared with must be equal.

Ids and names must be the same, numbers nearly; what only one of them says besides is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

RELATIVE = 1e-4
ABSOLUTE = 1e-4
"""Batches of other sizes add floats in another order."""
CLOSE_SCORES = 1e-3
"""Items whose scores are closer may change places."""


class Different(Exception):
    """Two servers do not give the same answer."""


class Checker:
    """Holds every server's answers against those of the first."""

    def __init__(self, workload: str) -> None:
        self._same = SAME[workload]
        self._first: tuple[str, list[Any]] | None = None

    def __call__(self, server: str, answers: list[Any]) -> None:
        """Raises `Different`."""
        if self._first is None:
            self._first = server, answers
            return
        name, expected = self._first
        for number, (one, other) in enumerate(zip(expected, answers, strict=True)):
            if not self._same(one, other):
                raise Different(
                    f"request {number} is answered by {name} with {str(one)[:600]} and by {server} with"
                    f" {str(other)[:600]}"
                )


def same_recommendations(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """The same items with the same scores and attributes."""
    if len(one["items"]) != len(other["items"]):
        return False
    known = {item["item_id"]: item for item in one["items"]}
    border = one["items"][-1]["score"] if one["items"] else 0.0
    for mine, theirs in zip(one["items"], other["items"], strict=True):
        same = known.get(theirs["item_id"])
        if same is None:
            # As good as the last, so either may be the one that is left out.
            if abs(theirs["score"] - border) > CLOSE_SCORES:
                return False
        elif same["attributes"] != theirs["attributes"] or not _near(same["score"], theirs["score"]):
            return False
        if abs(mine["score"] - theirs["score"]) > CLOSE_SCORES:
            return False
    return True


def same_forecasts(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """The same means and quantiles of the same series."""
    pairs = list(zip(one["outputs"], other["outputs"], strict=True))
    return all(_same_content(mine["content"][0], theirs["content"][0]) for mine, theirs in pairs)


def _same_content(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return (
        mine["name"] == theirs["name"]
        and _all_near(mine["mean_forecast"], theirs["mean_forecast"])
        and set(mine["quantiles"]) == set(theirs["quantiles"])
        and all(
            _all_near(mine["quantiles"][level], theirs["quantiles"][level]) for level in mine["quantiles"]
        )
    )


def _all_near(mine: list[float], theirs: list[float]) -> bool:
    return len(mine) == len(theirs) and all(map(_near, mine, theirs))


def _near(mine: float, theirs: float) -> bool:
    return math.isclose(mine, theirs, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


SAME: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], bool]] = {
    "recommendation": same_recommendations,
    "forecasting": same_forecasts,
}
