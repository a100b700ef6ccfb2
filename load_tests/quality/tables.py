"""Writes a comparison down: a table for each data set, how we stand to the best neural peer, and JSON."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import report
from contenders import Data
from rows import Row

FIGURES = {"recommendation": ("hr@10", "ndcg@10"), "forecasting": ("mase", "smape")}
TITLES = {"hr@10": "HR@10", "ndcg@10": "NDCG@10", "mase": "MASE", "smape": "sMAPE, %"}
KINDS = ("ours", "neural", "statistical", "simple")


@dataclass(frozen=True)
class Verdict:
    """Our mean over seeds against that of the best neural peer."""

    data: str
    figure: str
    ours: float | None
    best: float | None
    peer: str | None
    met: bool
    """Not below it. Not met if one of either did not end, or was stopped while it still improved: then
    nothing is decided."""
    decided: bool


def methods(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by method, ours first, then the neural ones."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda one: KINDS.index(one.kind)):
        found.setdefault(row.name, []).append(row)
    return found


def mean(rows: Sequence[Row], figure: str) -> float | None:
    """Over seeds; None if one of them did not end."""
    if any(figure not in row.figures for row in rows):
        return None
    return statistics.fmean(row.figures[figure] for row in rows)


def complete(row: Row) -> bool:
    """Whether it ended by itself."""
    return (row.cost is None or row.cost.ended) and not row.report.get("stopped_at_limit", False)


def judged(data: Data, rows: Sequence[Row]) -> Verdict:
    """Whether we are not below the best neural peer on these rows of `data`."""
    sign = 1 if data.higher_is_better else -1
    by_kind: dict[str, list[tuple[float, str]]] = {"ours": [], "neural": []}
    for name, several in methods(rows).items():
        value = mean(several, data.quality)
        if value is not None and several[0].kind in by_kind:
            by_kind[several[0].kind].append((sign * value, name))
    decided = all(complete(row) for row in rows if row.kind in by_kind)
    ours, peers = max(by_kind["ours"], default=None), max(by_kind["neural"], default=None)
    return Verdict(
        data=data.name,
        figure=data.quality,
        ours=None if ours is None else sign * ours[0],
        best=None if peers is None else sign * peers[0],
        peer=None if peers is None else peers[1],
        met=decided and ours is not None and peers is not None and ours[0] >= peers[0],
        decided=decided,
    )


def markdown(facts: Mapping[str, Any], parts: Mapping[Data, Sequence[Row]]) -> str:
    """All tables of a run."""
    lines = [report.heading(facts), ""]
    for data, rows in parts.items():
        lines += [f"### {data.name}", "", *_table(data, rows), ""]
    lines += ["| data | figure | Mizzen | best neural peer | |", "|---|---|---|---|---|"]
    for verdict in (judged(data, rows) for data, rows in parts.items()):
        lines.append(
            f"| {verdict.data} | {TITLES[verdict.figure]} | {_number(verdict.ours)} |"
            f" {verdict.peer or 'none ended'}: {_number(verdict.best)} |"
            f" {'not below' if verdict.met else '**below**' if verdict.decided else '**not decided**'} |"
        )
    return "\n".join(lines) + "\n"


def _table(data: Data, rows: Sequence[Row]) -> list[str]:
    names = FIGURES[data.workload]
    titles = " | ".join(TITLES[name] for name in names)
    lines = [f"| method | | {titles} | by seed | wall, s | CPU, s |", "|---|---|" + "---|" * (len(names) + 3)]
    for name, several in methods(rows).items():
        values = " | ".join(_number(mean(several, figure)) for figure in names)
        if any(row.cost is not None and not row.cost.ended for row in several):
            values = " | ".join(["did not end"] * len(names))
        by_seed = ", ".join(_number(row.figures.get(data.quality)) for row in several if row.seed is not None)
        stopped = ", stopped at its limit" if any(r.report.get("stopped_at_limit") for r in several) else ""
        lines.append(
            f"| {name}{stopped} | {several[0].kind} | {values} | {by_seed} | {_cost(several, 'wall_s')} |"
            f" {_cost(several, 'cpu_s')} |"
        )
    return lines


def _cost(rows: Sequence[Row], name: str) -> str:
    """The mean over seeds."""
    found = [getattr(row.cost, name) for row in rows if row.cost is not None]
    if None in found:
        return "not measured"
    used = [value for value in found if value is not None]
    return _number(statistics.fmean(used)) if used else ""


def _number(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.4g}"


def as_json(facts: Mapping[str, Any], parts: Mapping[Data, Sequence[Row]]) -> str:
    """Everything, each seed too."""
    content = {
        "machine": dict(facts),
        "rows": [dataclasses.asdict(row) for rows in parts.values() for row in rows],
        "verdicts": [dataclasses.asdict(judged(data, rows)) for data, rows in parts.items()],
    }
    return json.dumps(content, indent=1) + "\n"
