"""Recommendation: click-through of versions. What is a good one is the business's to say: no alerts."""

from __future__ import annotations

from rule import Group, Record, RuleFile, by


def _joined(event: str) -> str:
    matchers = f'$RELEASE,event="{event}",joined="true"'
    return f"sum {by('app_version')} (rate(mizzen_recommendation_events_total{{{matchers}}}[1d]))"


FILE = RuleFile(
    "workloads",
    "What recommendations come to.",
    (
        Group(
            "mizzen-recommendation-recorded",
            (
                Record(
                    "app_version:mizzen_recommendation_clicks:ratio_rate1d",
                    f"""
                    ({_joined("click")} or 0 * {_joined("impression")})
                    / ({_joined("impression")} > 0)
                    """,
                ),
            ),
            interval="1m",
        ),
    ),
)
