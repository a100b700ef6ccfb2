"""What a dashboard is here: rows of panels with queries, and words for what queries often ask.

A panel is a title, a unit, a sentence and queries. In queries `@SERVED`, `@APP`, `@MODEL`, `@JOB`, `@RUN` and
`@RELEASE` stand for the matchers of the variables. How it looks is decided in `grafana`; nothing here knows a
series.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

FILTERS = {
    "RELEASE": ("namespace", "release"),
    "APP": ("namespace", "release", "app"),
    "MODEL": ("namespace", "release", "model"),
    "SERVED": ("namespace", "release", "app", "model", "version"),
    "JOB": ("namespace", "release", "train_job"),
    "RUN": ("namespace", "release", "train_job", "run"),
}
VARIABLES = ("namespace", "release", "app", "model", "version", "train_job", "run")
"""From general to special."""
Kind = Literal["lines", "stacked", "number", "bars", "table"]


@dataclass(frozen=True)
class Query:
    """One query, and what its lines are called."""

    expression: str
    legend: str
    exemplars: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel."""

    title: str
    unit: str
    """One of Grafana's unit ids: `s`, `bytes`, `reqps`, `percentunit`, ..."""
    about: str
    """What it shows, in a sentence."""
    queries: Sequence[Query]
    _: KW_ONLY
    kind: Kind = "lines"
    width: int = 8
    height: int = 8
    least: float | None = 0.0
    most: float | None = None
    limits: Sequence[tuple[float, str]] = ()
    """From which value on it has which colour (`orange`, `red`, `green`); below the first: `base`."""
    base: str = "green"
    runbook: str = ""
    """The alert whose runbook it names."""


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Board:
    """One dashboard."""

    name: str
    title: str
    about: str
    rows: Sequence[Row]
    since: str = "now-1h"

    @property
    def variables(self) -> list[str]:
        """The variables that its queries use, from general to special."""
        text = " ".join(
            query.expression for row in self.rows for panel in row.panels for query in panel.queries
        )
        used = {label for found in re.findall(r"@([A-Z]+)", text) for label in FILTERS[found]}
        return [label for label in VARIABLES if label in used]


# --- expressions ----------------------------------------------------------------------------------


def rate(series: str, chosen: str, by: str) -> str:
    """`series` a second, summed by labels; `chosen` is a filter such as `@APP` with more matchers."""
    return f"sum by ({by}) (rate({series}{{{chosen}}}[$__rate_interval]))"


def share(part: str, whole: str) -> str:
    """`part` of `whole`: 0 if there is none, nothing if the whole is none."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def counted(series: str, chosen: str, by: str) -> str:
    """How often something rare happened in the chosen time.

    `increase` would not see the first time, nor what happened while nobody read the series. A counter that is
    lower than it was has begun anew.
    """
    now = f"last_over_time({series}{{{chosen}}}[$__range])"
    before = f"last_over_time({series}{{{chosen}}}[30d] offset $__range)"
    return f"sum by ({by}) ({now} - ({before} <= {now} or 0 * {now}))"


def mean(histogram: str, chosen: str, by: str) -> str:
    """A histogram's mean."""
    return f"{rate(f'{histogram}_sum', chosen, by)} / ({rate(f'{histogram}_count', chosen, by)} > 0)"


def quantiles(histogram: str, chosen: str, by: str, legend: str, exemplars: bool = False) -> list[Query]:
    """A histogram's median, 95th and 99th percentile."""
    buckets = rate(f"{histogram}_bucket", chosen, f"{by}, le")
    return [
        Query(f"histogram_quantile({q:g}, {buckets})", f"{legend} p{round(100 * q)}", exemplars and q == 0.99)
        for q in (0.5, 0.95, 0.99)
    ]


def filled(expression: str) -> str:
    """The expression with the variables' matchers in place of `@...`."""
    return re.sub(
        r"@([A-Z]+)", lambda found: ",".join(f'{name}=~"${name}"' for name in FILTERS[found[1]]), expression
    )
