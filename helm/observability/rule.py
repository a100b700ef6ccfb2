"""What a rule is: a recording rule or an alert, in groups, in files; and how they become YAML.

Expressions are PromQL with placeholders. `$RELEASE` stands for matchers of the Helm release, `$NAMESPACE` for
its namespace, `$UP` for the targets of Mizzen, `$SECONDS(15m)` for a number of seconds, and `$RUNBOOKS` (in
annotations) for where runbooks lie.
Nothing here knows a series.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

LEVELS = {
    "app": ("app",),
    "app_slo": ("app", "slo"),
    "app_version": ("app", "model", "version"),
    "app_version_feature": ("app", "model", "version", "feature"),
    "app_version_feature_bin": ("app", "model", "version", "feature", "bin"),
    "run": ("train_job", "run"),
    "run_rank": ("train_job", "run", "rank"),
    "operation": ("operation",),
}
"""First part of a recorded series' name, and the labels that it has beside those of the release."""
RELEASE_LABELS = ("namespace", "release")
"""Set by the chart's monitors; absent on a laptop, where grouping by them changes nothing."""
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = r"(\d+)(ms|s|m|h|d)"


def by(level: str) -> str:
    """`by (...)` with the labels of a level."""
    return f"by ({', '.join((*RELEASE_LABELS, *LEVELS[level]))})"


def grew(series: str, labels: str, window: str, matchers: str = "") -> str:
    """By how much a counter grew in `window`, by `labels`, where `increase` alone would be blind.

    That is: if its first value is not 0 because the process counts before it is read for the first time, and
    if it grew, or began anew, while nobody read it, as between two commands on a laptop. What a pod counted
    that was read once and is gone, as after a failed job, counts for the whole window too.
    """
    chosen = f"{series}{{$RELEASE{',' if matchers else ''}{matchers}}}"
    now = f"last_over_time({chosen}[{window}])"
    before = f"last_over_time({chosen}[7d] offset {window})"
    return (
        f"sum by ({labels}) (\n"
        f"  ({now} - {before}) > 0\n"
        f"  or ({now} unless {before})\n"
        f"  or ({now} < {before})\n"
        f"  or increase({chosen}[{window}]) > 0\n"
        f")"
    )


@dataclass(frozen=True)
class Record:
    """A recorded series, `LEVEL:METRIC:OPERATION`."""

    name: str
    expression: str


@dataclass(frozen=True)
class Alert:
    """An alert; critical ones wake somebody, warnings become a ticket."""

    name: str
    severity: Literal["critical", "warning"]
    expression: str
    summary: str
    """One line, which a telephone shows."""
    description: str
    """Plain sentences: what it means, and the first thing to look at."""
    lasting: str = ""
    """How long it must be so; empty: alerts at once."""


@dataclass(frozen=True)
class Group:
    """Rules that are evaluated together, in order."""

    name: str
    rules: Sequence[Record | Alert]
    interval: str = ""
    """How often; empty: as often as Prometheus evaluates by default."""


@dataclass(frozen=True)
class RuleFile:
    """Groups of one file."""

    name: str
    about: str
    groups: Sequence[Group]
    on_laptops: bool = True
    """Whether a Prometheus without Kubernetes can have its series."""


# --- what is written ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """How the files are to be: for the chart, or plain."""

    chart: bool
    scale: float = 1.0
    """All times are multiplied by it: a test need not wait for hours."""

    def text(self, file: RuleFile) -> str:
        """The file's text."""
        groups = [self._group(group) for group in file.groups]
        placeholders = (
            "# `$RELEASE` and `$NAMESPACE` become matchers for the release, `$RUNBOOKS` its runbooks.\n"
        )
        head = f"# {file.about}\n# Made by helm/observability/rules.py: change it there.\n"
        body: Any = groups if self.chart else {"groups": groups}
        dumped = yaml.dump(body, Dumper=_Readable, sort_keys=False, width=110, allow_unicode=True)
        return head + (placeholders if self.chart else "") + dumped

    def _group(self, group: Group) -> dict[str, Any]:
        interval = {"interval": self._duration(group.interval, least_ms=1000)} if group.interval else {}
        return {"name": group.name, **interval, "rules": [self._rule(rule) for rule in group.rules]}

    def _rule(self, rule: Record | Alert) -> dict[str, Any]:
        if isinstance(rule, Record):
            return {"record": rule.name, "expr": self.expression(rule.expression)}
        return {
            "alert": rule.name,
            "expr": self.expression(rule.expression),
            **({"for": self._duration(rule.lasting)} if rule.lasting else {}),
            "labels": {"severity": rule.severity},
            "annotations": {
                "summary": _one_line(rule.summary),
                "description": _one_line(rule.description),
                "runbook_url": f"{'$RUNBOOKS' if self.chart else 'docs/runbooks'}/{rule.name}.md",
            },
        }

    def expression(self, text: str) -> str:
        """An expression with its times scaled; if plain, without what the chart's template would fill in."""
        text = _dedented(text).replace("$UP", "up{$RELEASE}" if self.chart else 'up{job="mizzen"}')
        text = re.sub(r"\$SECONDS\((\w+)\)", lambda found: f"{self._milliseconds(found[1]) / 1000:g}", text)
        text = re.sub(rf"\[{_DURATION}\]", lambda found: f"[{self._duration(found[0][1:-1])}]", text)
        text = re.sub(rf"offset {_DURATION}", lambda found: f"offset {self._duration(found[0][7:])}", text)
        if self.chart:
            return text
        text = re.sub(r"\$RELEASE,?", "", text)
        return text.replace("{}", "")

    def _milliseconds(self, duration: str) -> float:
        found = re.fullmatch(_DURATION, duration)
        assert found, duration
        return int(found[1]) * _UNITS_MS[found[2]] * self.scale

    def _duration(self, duration: str, least_ms: int = 1) -> str:
        if self.scale == 1.0:
            return duration
        milliseconds = max(least_ms, round(self._milliseconds(duration)))
        return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _dedented(text: str) -> str:
    lines = text.strip("\n").rstrip().splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:].rstrip() for line in lines)


class _Readable(yaml.SafeDumper):
    """Several lines as a block, lists indented."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Readable.add_representer(str, _block)
