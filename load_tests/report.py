"""Writes a run down: one table for each workload and one of the verdicts, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from measure import Figures
from verdicts import SYMBOLS, Results, Verdict

UNITS = {"recommendation": "requests", "forecasting": "series", "chat": "tokens"}
BUSY = 0.1
"""Of all cores: more than that used by others, and a run is marked."""


def machine() -> dict[str, Any]:
    """What the figures are of."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown",
        "cpu": model,
        "num_cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average_before": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("ray", "onnxruntime", "onnxruntime-genai", "fastapi")},
    }


def summarise(rounds: Sequence[Mapping[str, Mapping[str, Figures]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The median over rounds of each figure, by server and measurement; errors are added up."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for server, measurements in rounds[0].items():
        for measurement in measurements:
            several = [dataclasses.asdict(one[server][measurement]) for one in rounds]
            result.setdefault(server, {})[measurement] = {
                name: _over_rounds(name, [one[name] for one in several]) for name in several[0]
            }
    return result


def _over_rounds(name: str, values: list[Any]) -> Any:
    if name == "errors":
        return [kinds for kinds in values if kinds]
    if values[0] is None:
        return None
    return sum(values) if name.startswith("num_") else statistics.median(values)


def markdown(facts: Mapping[str, Any], results: Results, verdicts: Sequence[Verdict]) -> str:
    """The tables of a run."""
    lines = [heading(facts), ""]
    for workload, servers in results.items():
        lines += [*_table(workload, servers), ""]
    return "\n".join([*lines, *judged(verdicts)]) + "\n"


def heading(facts: Mapping[str, Any]) -> str:
    """When, where and of what the figures are."""
    return (
        f"Measured {facts['measured_at']} on {facts['num_cores']} cores ({facts['cpu']}),"
        f" {facts['memory_gib']} GiB, Python {facts['python']}, code {facts['code']}."
        f" Load average before: {facts['load_average_before']:.2f}."
    )


def judged(verdicts: Sequence[Verdict]) -> list[str]:
    """The table of the budgets."""
    lines = ["| budget | Mizzen | peer | held against it | |", "|---|---|---|---|---|"]
    for verdict in verdicts:
        budget = verdict.budget
        limit = f"{_number(verdict.value)} {SYMBOLS[budget.kind]} {budget.limit:g}"
        if verdict.value is not None and not verdict.met:
            limit = f"{_number(verdict.value)}, not {SYMBOLS[budget.kind]} {budget.limit:g}"
        lines.append(
            f"| {budget.workload}: {budget.says} | {_number(verdict.ours)} | {_number(verdict.theirs)} |"
            f" {limit} | {'met' if verdict.met else '**missed**'} |"
        )
    return lines


def _table(workload: str, servers: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    unit = UNITS[workload]
    streams = any(f["first_p50_ms"] is not None for runs in servers.values() for f in runs.values())
    first = " first token p50 / p99, ms |" if streams else ""
    lines = [
        f"### {workload}",
        "",
        f"| server | measurement | {unit}/s | p50, ms | p95, ms | p99, ms |{first} errors |"
        " CPU, ms a request | memory, MiB | others' CPU |",
        "|---|---|" + "---|" * (8 + streams),
    ]
    for server, measurements in servers.items():
        for name, f in measurements.items():
            first = f" {_number(f['first_p50_ms'])} / {_number(f['first_p99_ms'])} |" if streams else ""
            busy = _share(f["other_cpu_share"])
            lines.append(
                f"| {server} | {name} | {_number(f['units_per_s'])} | {_number(f['p50_ms'])} |"
                f" {_number(f['p95_ms'])} | {_number(f['p99_ms'])} |{first} {f['num_errors']} |"
                f" {_number(f['server_cpu_ms'])} | {f['memory_bytes'] / 2**20:.0f} | {busy} |"
            )
    return lines


def _share(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.0%}" + (" (busy)" if value > BUSY else "")


def _number(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def as_json(
    facts: Mapping[str, Any], results: Results, rounds: Mapping[str, Any], verdicts: Sequence[Verdict]
) -> str:
    """Everything, each round too."""
    return json.dumps(
        {
            "machine": facts,
            "results": results,
            "rounds": {
                workload: [
                    {
                        server: {name: dataclasses.asdict(figures) for name, figures in measured.items()}
                        for server, measured in one.items()
                    }
                    for one in several
                ]
                for workload, several in rounds.items()
            },
            "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
        },
        indent=1,
    )
