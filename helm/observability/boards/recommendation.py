"""Recommendation: who is recommended to, how much of the catalogue is seen, and what users do with it."""

from __future__ import annotations

from board import Board, Panel, Query, Row, counted, rate, share

_BY = "app, model, version"
_NAME = "{{app}}: {{model}} {{version}}"
_USERS = rate("mizzen_recommendation_users_total", "@SERVED", _BY)
_EVENTS = "mizzen_recommendation_events_total"


def _joined(event: str) -> str:
    return counted(_EVENTS, f'@SERVED,event="{event}",joined="true"', _BY)


_PEOPLE = (
    Panel(
        "Users recommended to",
        "short",
        "Users a second, by what was known of them.",
        (Query(rate("mizzen_recommendation_users_total", "@SERVED", "app, known"), "{{app}} {{known}}"),),
        kind="stacked",
    ),
    Panel(
        "Cold starts",
        "percentunit",
        "Share of users of whom nothing was known.",
        (
            Query(
                share(rate("mizzen_recommendation_users_total", '@SERVED,known="nothing"', _BY), _USERS),
                _NAME,
            ),
        ),
        most=1.0,
    ),
    Panel(
        "Catalogue covered",
        "percentunit",
        "Share of the items that the replica with most of them has recommended since it loaded the version.",
        (
            Query(
                "max by (app, model, version) (mizzen_recommendation_covered_items{@SERVED})"
                " / (max by (app, model, version) (mizzen_recommendation_catalogue_items{@SERVED}) > 0)",
                _NAME,
            ),
        ),
        most=1.0,
    ),
)

_FEEDBACK = (
    Panel(
        "Click-through by version",
        "percentunit",
        "Clicks of impressions in the chosen time, of those that name the recommendation they came from.",
        (Query(share(_joined("click"), _joined("impression")), _NAME),),
        kind="bars",
    ),
    Panel(
        "Click-through by version, over a day",
        "percentunit",
        "The same over the last 24 hours, as it went.",
        (Query("app_version:mizzen_recommendation_clicks:ratio_rate1d{@SERVED}", _NAME),),
    ),
    Panel(
        "Feedback joined",
        "percentunit",
        "Share of events in the chosen time that name the recommendation they came from.",
        (
            Query(
                share(counted(_EVENTS, '@SERVED,joined="true"', "app"), counted(_EVENTS, "@SERVED", "app")),
                "{{app}}",
            ),
        ),
        kind="bars",
        most=1.0,
    ),
    Panel(
        "Feedback",
        "short",
        "Events a second, by what the user did.",
        (Query(rate("mizzen_recommendation_events_total", "@SERVED", "app, event"), "{{app}} {{event}}"),),
        kind="stacked",
        width=24,
    ),
)

BOARD = Board(
    "recommendation",
    "Mizzen recommendation",
    "Who is recommended to, how much of the catalogue is seen, and what users do with it.",
    (Row("Recommendations", _PEOPLE), Row("Feedback", _FEEDBACK)),
    since="now-6h",
)
