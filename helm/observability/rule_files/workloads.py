"""Recommendation and forecasting: recorded shares. What is a good one is the business's to say: no alerts."""

from __future__ import annotations

from rule import Group, Record, RuleFile, by

_VERSION = by("app_version")
_EVENTS = "mizzen_recommendation_events_total"

_RECOMMENDATION_RECORDED = (
    Record(
        "app_version:mizzen_recommendation_clicks:ratio_rate1d",
        f"""
        (
          sum {_VERSION} (rate({_EVENTS}{{$RELEASE,event="click",joined="true"}}[1d]))
          or 0 * sum {_VERSION} (rate({_EVENTS}{{$RELEASE,event="impression",joined="true"}}[1d]))
        ) / (sum {_VERSION} (rate({_EVENTS}{{$RELEASE,event="impression",joined="true"}}[1d])) > 0)
        """,
    ),
    Record(
        "app_version:mizzen_recommendation_cold_starts:ratio_rate1h",
        f"""
        (
          sum {_VERSION} (rate(mizzen_recommendation_users_total{{$RELEASE,known="nothing"}}[1h]))
          or 0 * sum {_VERSION} (rate(mizzen_recommendation_users_total{{$RELEASE}}[1h]))
        ) / (sum {_VERSION} (rate(mizzen_recommendation_users_total{{$RELEASE}}[1h])) > 0)
        """,
    ),
    Record(
        "app_version:mizzen_recommendation_covered:ratio",
        f"""
        max {_VERSION} (mizzen_recommendation_covered_items{{$RELEASE}})
        / (max {_VERSION} (mizzen_recommendation_catalogue_items{{$RELEASE}}) > 0)
        """,
    ),
)

_FORECASTING_RECORDED = (
    Record(
        "app_version:mizzen_forecasting_anomalies:ratio_rate1h",
        f"""
        (
          sum {_VERSION} (rate(mizzen_forecasting_anomalies_total{{$RELEASE}}[1h]))
          or 0 * sum {_VERSION} (rate(mizzen_forecasting_points_judged_total{{$RELEASE}}[1h]))
        ) / (sum {_VERSION} (rate(mizzen_forecasting_points_judged_total{{$RELEASE}}[1h])) > 0)
        """,
    ),
)

FILE = RuleFile(
    "workloads",
    "What recommendations and forecasts come to.",
    (
        Group(
            "mizzen-recommendation-recorded",
            _RECOMMENDATION_RECORDED,
            interval="1m",
        ),
        Group(
            "mizzen-forecasting-recorded",
            _FORECASTING_RECORDED,
            interval="1m",
        ),
    ),
)
