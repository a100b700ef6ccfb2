"""Service levels: error ratios over several windows, and alerts when a budget burns too fast.

Multi-window, multi-burn-rate alerts as in chapter 5 of Google's Site Reliability Workbook. What counts, and
the objectives, come from the series themselves (`slo` in the serve file): no application is named.
"""

from __future__ import annotations

from rule import Alert, Group, Record, RuleFile, by

SHORT_WINDOWS = ("5m", "30m", "1h", "2h")
LONG_WINDOWS = ("6h", "1d", "3d")
FAST = ((14.4, "1h", "5m"), (6.0, "6h", "30m"))
"""Pace, long window, short window: 2% of a month's budget in an hour, or 5% in six."""
SLOW = ((3.0, "1d", "2h"), (1.0, "3d", "6h"))
"""10% of a month's budget in a day, or in three."""
FEWEST_BAD = 10
"""So many requests must have been bad in the long window: one of three is no reason to wake anybody."""
MOST = 0.9
"""Where the objective is low, a multiple of its budget would be more than all requests: then so many."""

_BUDGET = "app_slo:mizzen_slo_error_budget:ratio"


def _windows(windows: tuple[str, ...]) -> list[Record]:
    return [record for window in windows for record in _window(window)]


def _window(window: str) -> tuple[Record, ...]:
    requests, bad = (
        f"app_slo:mizzen_slo_requests:rate{window}",
        f"app_slo:mizzen_slo_requests_bad:rate{window}",
    )
    ratio = f"app_slo:mizzen_slo_requests_bad:ratio_rate{window}"
    return (
        Record(requests, f"sum {by('app_slo')} (rate(mizzen_slo_requests_total{{$RELEASE}}[{window}]))"),
        Record(
            bad,
            f"""
            sum {by("app_slo")} (rate(mizzen_slo_requests_total{{$RELEASE,outcome="bad"}}[{window}]))
            or 0 * {requests}{{$RELEASE}}
            """,
        ),
        Record(ratio, f"{bad}{{$RELEASE}} / ({requests}{{$RELEASE}} > 0)"),
        Record(
            f"app_slo:mizzen_slo_error_budget_burn:ratio_rate{window}",
            f"{ratio}{{$RELEASE}} / {_BUDGET}{{$RELEASE}}",
        ),
    )


def _burns(slo: str, speeds: tuple[tuple[float, str, str], ...]) -> str:
    return "\nor\n".join(_burns_at(slo, *speed) for speed in speeds)


def _burns_at(slo: str, factor: float, long: str, short: str) -> str:
    chosen = f'{{$RELEASE,slo="{slo}"}}'
    ratio = "app_slo:mizzen_slo_requests_bad:ratio_rate"
    allowed = f"clamp_max({factor:g} * {_BUDGET}{chosen}, {MOST})"
    return (
        f"(\n"
        f"  {ratio}{long}{chosen} > {allowed}\n"
        f"  and {ratio}{short}{chosen} > {allowed}\n"
        f"  and app_slo:mizzen_slo_requests_bad:rate{long}{chosen} * $SECONDS({long}) >= {FEWEST_BAD}\n"
        f")"
    )


_PACE = {
    "fast": "At this pace the error budget of a month is gone within days, or sooner.",
    "slow": "It is not urgent, but at this pace the error budget of a month will not last the month.",
}

_SERVICE_LEVELS_RULES = (
    # A gauge goes with its replica; while one crashes again and again, alerts must not come and go with it.
    Record(_BUDGET, f"1 - max {by('app_slo')} (last_over_time(mizzen_slo_objective_ratio{{$RELEASE}}[5m]))"),
    *_windows(SHORT_WINDOWS),
)

_SERVICE_LEVEL_ALERTS_RULES = (
    Alert(
        "MizzenAvailabilityBudgetBurnsFast",
        "critical",
        _burns("availability", FAST),
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.app }} fail",
        f"""They end with 5xx, or are refused because the application is overloaded. {_PACE["fast"]}
        Look at the dashboard `Mizzen overview` and at the replicas' logs.""",
    ),
    Alert(
        "MizzenAvailabilityBudgetBurnsSlowly",
        "warning",
        _burns("availability", SLOW),
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.app }} failed in a day or three",
        f"They end with 5xx, or are refused because the application is overloaded. {_PACE['slow']}",
    ),
    Alert(
        "MizzenLatencyBudgetBurnsFast",
        "critical",
        _burns("latency", FAST),
        "{{ $value | humanizePercentage }} of the answers of {{ $labels.app }} come too late",
        f"""Their first byte comes later than `slo.latency_s` in the serve file says. {_PACE["fast"]}
        Look at queues, batches and replicas on the dashboard `Mizzen overview`.""",
    ),
    Alert(
        "MizzenLatencyBudgetBurnsSlowly",
        "warning",
        _burns("latency", SLOW),
        "{{ $value | humanizePercentage }} of the answers of {{ $labels.app }} came late in a day or three",
        f"Their first byte comes later than `slo.latency_s` in the serve file says. {_PACE['slow']}",
    ),
)

FILE = RuleFile(
    "service_levels",
    "Service levels of each application: error ratios, and alerts on the pace at which budgets burn.",
    (
        Group(
            "mizzen-service-levels",
            _SERVICE_LEVELS_RULES,
        ),
        Group("mizzen-service-levels-long", _windows(LONG_WINDOWS), interval="1m"),
        Group(
            "mizzen-service-level-alerts",
            _SERVICE_LEVEL_ALERTS_RULES,
        ),
    ),
)
