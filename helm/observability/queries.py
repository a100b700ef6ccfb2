"""Lists every query of every dashboard and every rule for one machine, ready to be run against a Prometheus.

    python helm/observability/queries.py --window 15s --range 10m

prints JSON. `panels`: dashboard, panel, expression, `no_data`. `rules`: file, group, kind (`record` or
`alert`), name, expression, series, `no_data`. Variables are filled in as Grafana does with `All`. `no_data`
is null, or why one machine without GPU has no data for it (`no_data.yaml`). It reads the files in the
repository, and asks no Prometheus.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

HERE = Path(__file__).resolve().parent
DASHBOARDS = HERE.parent / "mizzen" / "dashboards"
RULES = HERE.parents[1] / "deploy" / "monitoring" / "rules"


@dataclass(frozen=True)
class PanelQuery:
    """One query of a panel."""

    dashboard: str
    panel: str
    expression: str
    no_data: str | None


@dataclass(frozen=True)
class RuleQuery:
    """One rule. That an alert's expression has no result is the good case: its `series` have data."""

    file: str
    group: str
    kind: str
    name: str
    expression: str
    series: Sequence[str]
    no_data: str | None


def filled(expression: str, window: str, range_: str) -> str:
    """The expression as Grafana sends it with `All` in each filter."""
    expression = expression.replace("$__rate_interval", window).replace("$__range", range_)
    return re.sub(r"\$\w+", ".*", expression)


def series(expression: str) -> set[str]:
    """The names of all series that an expression asks for."""
    return {name for selector in _selectors(promql_parser.parse(expression)) if (name := selector.name)}


def _selectors(expression: Any) -> Iterator[Any]:
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        if (inner := getattr(expression, name, None)) is not None:
            yield from _selectors(inner)
    for argument in getattr(expression, "args", None) or []:
        yield from _selectors(argument)


@dataclass(frozen=True)
class Excuses:
    """Why there is no data: by patterns of series, and by names of what is recorded from such series."""

    patterns: Mapping[str, str]
    recorded: Mapping[str, str]

    def why(self, expression: str) -> str | None:
        """The reason why an expression has no data, if there is one."""
        for name in sorted(series(expression)):
            if name in self.recorded:
                return self.recorded[name]
            for pattern, reason in self.patterns.items():
                if re.fullmatch(pattern, name):
                    return reason
        return None


def excuses(rules: Sequence[tuple[str, str, Mapping[str, Any]]]) -> Excuses:
    """Those of `no_data.yaml`, and what follows from them for recorded series."""
    patterns = {
        entry["series"]: entry["reason"] for entry in yaml.safe_load((HERE / "no_data.yaml").read_text())
    }
    recorded: dict[str, str] = {}
    for _, _, rule in rules:
        if "record" in rule and (reason := Excuses(patterns, recorded).why(rule["expr"])):
            recorded[rule["record"]] = reason
    return Excuses(patterns, recorded)


def rules() -> list[tuple[str, str, Mapping[str, Any]]]:
    """File, group and rule of each rule for one machine, in order."""
    return [
        (path.name, group["name"], rule)
        for path in sorted(RULES.glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def rule_queries() -> list[RuleQuery]:
    """All rules for one machine."""
    known = rules()
    excused = excuses(known)
    return [
        RuleQuery(
            file,
            group,
            kind := "record" if "record" in rule else "alert",
            rule[kind],
            rule["expr"],
            sorted(series(rule["expr"])),
            excused.why(rule["expr"]),
        )
        for file, group, rule in known
    ]


def panel_queries(window: str, range_: str) -> list[PanelQuery]:
    """All queries of all panels, with rates over `window` and a chosen time of `range_`."""
    excused = excuses(rules())
    queries = []
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                expression = filled(target["expr"], window, range_)
                queries.append(PanelQuery(board["uid"], panel["title"], expression, excused.why(expression)))
    return queries


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description="List every query of dashboards and rules.")
    parser.add_argument("--window", default="1m", help="for $__rate_interval")
    parser.add_argument("--range", default="1h", help="for $__range", dest="range_")
    given = parser.parse_args()
    found = {
        "panels": [asdict(query) for query in panel_queries(given.window, given.range_)],
        "rules": [asdict(query) for query in rule_queries()],
    }
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
