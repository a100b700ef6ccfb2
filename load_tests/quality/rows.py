"""The rows of the table: runs each contender once for each seed, and has its predictions judged.

What has ended is kept in a folder and not run again, so a comparison of an hour may be broken off.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cost
import handover
import judge
from contenders import Contender, Data
from cost import Cost
from mizzen.workloads.contract import Prepared

ROW = "row.json"


@dataclass(frozen=True)
class Row:
    """One method on one data set, with one seed."""

    data: str
    name: str
    kind: str
    seed: int | None
    figures: Mapping[str, float]
    """Empty if it did not end."""
    cost: Cost | None
    """None for methods that need no training."""
    report: Mapping[str, Any]
    """What the contender says of itself."""


@dataclass(frozen=True)
class Bench:
    """Where a run takes place."""

    work: Path
    pythons: Mapping[str | None, Path]
    num_threads: int
    quick: bool
    say: Callable[[str], None]


def simple(data: Data, prepared: Prepared) -> list[Row]:
    """The rows of the methods that need no training."""
    return [
        Row(data.name, name, "simple", None, judge.judge(data.workload, prepared, predicted), None, {})
        for name, predicted in judge.simple(data.workload, prepared).items()
    ]


def row(contender: Contender, seed: int, prepared: Prepared, bench: Bench) -> Row:
    """Run a contender, if it has not been run yet, and judge what it predicts.

    Raises `ValueError` if it has worked on other data, or its predictions are not of the right shape.
    """
    data = contender.data
    folder = bench.work / data.name / f"{contender.name} {seed}".replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    used = _kept(folder / ROW, identity(contender, seed, bench))
    if used is None:
        used = _run(contender, seed, folder, bench)
    name = handover.SCORES if data.workload == "recommendation" else handover.FORECASTS
    number = seed if contender.seeded else None
    if not used.ended:
        return Row(data.name, contender.name, contender.kind, number, {}, used, {})
    report = json.loads((folder / "report.json").read_text())
    if report.get("data_digest", prepared.digest) != prepared.digest:
        saw = report["data_digest"]
        raise ValueError(f"{contender.name} has worked on the data {saw}, not on {prepared.digest}")
    predicted = handover.predictions(folder / name, judge.shape(data.workload, prepared))
    figures = judge.judge(data.workload, prepared, predicted)
    return Row(data.name, contender.name, contender.kind, number, figures, used, report)


def identity(contender: Contender, seed: int, bench: Bench) -> list[Any]:
    """What must be the same for a kept run to be taken."""
    return [*contender.arguments, seed, bench.quick, bench.num_threads]


def _kept(file: Path, wanted: list[Any]) -> Cost | None:
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    return Cost(**content["cost"]) if content["identity"] == wanted else None


def _run(contender: Contender, seed: int, folder: Path, bench: Bench) -> Cost:
    bench.say(f"{contender.data.name}: {contender.name}, seed {seed}")
    given = bench.work / contender.data.name / "given"
    python = bench.pythons[contender.environment]
    command = contender.command(python, given, folder, seed, bench.quick)
    used = cost.run(command, folder / "log.txt", contender.limit_cpu_s, bench.num_threads)
    content = {"identity": identity(contender, seed, bench), "cost": dataclasses.asdict(used)}
    (folder / ROW).write_text(json.dumps(content, indent=1) + "\n")
    return used
