"""Judges figures by the budgets in `budgets.yaml`: ratios and differences to a peer of the same run.

A figure that is missing is a budget that is not met: what was not measured cannot be fine. It measures
nothing and reads no files but the budgets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SYMBOLS = {
    "ratio_at_least": "≥", "ratio_at_most": "≤", "difference_at_most": "≤", "at_most": "≤", "at_least": "≥"
}  # fmt: skip
ALONE = ("at_most", "at_least")
"""These hold a figure of Mizzen against the limit itself, without a peer."""
OURS = "mizzen"
Results = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
"""Figures by workload, server, measurement and name."""


@dataclass(frozen=True)
class Budget:
    """One target."""

    workload: str
    says: str
    ours: tuple[str, str]
    """Measurement and figure of Mizzen."""
    peer: str | None
    theirs: tuple[str, str] | None
    kind: str
    """One of `SYMBOLS`."""
    limit: float


@dataclass(frozen=True)
class Verdict:
    """A budget, and whether it was met."""

    budget: Budget
    ours: float | None
    theirs: float | None
    value: float | None
    """What is held against the limit."""
    met: bool


def read(file: Path) -> list[Budget]:
    """The budgets in `file`. Raises `ValueError` naming the entry that is wrong."""
    return [_budget(entry) for entry in yaml.safe_load(file.read_text())["budgets"]]


def _budget(entry: Mapping[str, Any]) -> Budget:
    kinds = [kind for kind in SYMBOLS if kind in entry]
    known = {"workload", "says", "ours", "peer", "theirs", *SYMBOLS}
    compares = not set(kinds) & set(ALONE)
    if (
        len(kinds) != 1
        or set(entry) - known
        or not {"workload", "says", "ours"} <= set(entry)
        or compares != ("peer" in entry and "theirs" in entry)
    ):
        raise ValueError(
            f"a budget is wrong; saw {dict(entry)}; allowed: workload, says, ours, and one of"
            f" {', '.join(ALONE)}, or peer, theirs and one of"
            f" {', '.join(kind for kind in SYMBOLS if kind not in ALONE)}"
        )
    return Budget(
        workload=entry["workload"],
        says=entry["says"],
        ours=_pair(entry["ours"]),
        peer=entry.get("peer"),
        theirs=_pair(entry["theirs"]) if compares else None,
        kind=kinds[0],
        limit=float(entry[kinds[0]]),
    )


def _pair(text: str) -> tuple[str, str]:
    measurement, _, figure = text.rpartition(".")
    if not measurement or not figure:
        raise ValueError(f"a figure is named wrongly; saw {text!r}; allowed: MEASUREMENT.FIGURE")
    return measurement, figure


def judge(budgets: Sequence[Budget], results: Results) -> list[Verdict]:
    """One verdict for each budget, in the same order."""
    return [_judge(budget, results) for budget in budgets]


def _judge(budget: Budget, results: Results) -> Verdict:
    ours = _figure(results, budget.workload, OURS, budget.ours)
    theirs = None
    if budget.peer is not None and budget.theirs is not None:
        theirs = _figure(results, budget.workload, budget.peer, budget.theirs)
    value: float | None = None
    if ours is not None and budget.kind in ALONE:
        value = ours
    elif ours is not None and theirs is not None and budget.kind == "difference_at_most":
        value = ours - theirs
    elif ours is not None and theirs:
        value = ours / theirs
    at_least = budget.kind.endswith("at_least")
    met = value is not None and (value >= budget.limit if at_least else value <= budget.limit)
    return Verdict(budget, ours, theirs, value, met)


def _figure(results: Results, workload: str, server: str, pair: tuple[str, str]) -> float | None:
    value = results.get(workload, {}).get(server, {}).get(pair[0], {}).get(pair[1])
    return None if value is None else float(value)
