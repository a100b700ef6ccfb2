"""Forecasting: series, horizons, anomalies."""

from __future__ import annotations

from board import Board, Panel, Query, Row, quantiles, rate, share

_BY = "app, model, version"
_NAME = "{{app}}: {{model}} {{version}}"

_FORECASTS = (
    Panel(
        "Series forecast",
        "short",
        "Time series a second, and whether they could be forecast.",
        (Query(rate("mizzen_forecasting_series_total", "@SERVED", "app, outcome"), "{{app}} {{outcome}}"),),
        kind="stacked",
        width=12,
    ),
    Panel(
        "Series refused",
        "percentunit",
        "Share of series that could not be forecast: too short, constant, not numbers.",
        (
            Query(
                share(
                    rate("mizzen_forecasting_series_total", '@SERVED,outcome="refused"', _BY),
                    rate("mizzen_forecasting_series_total", "@SERVED", _BY),
                ),
                _NAME,
            ),
        ),
        width=12,
    ),
    Panel(
        "Horizon",
        "none",
        "Steps ahead that were asked for.",
        quantiles("mizzen_forecasting_horizon_steps", "@SERVED", _BY, _NAME),
        width=12,
    ),
    Panel(
        "Anomalies",
        "percentunit",
        "Share of the judged points that lie outside of their forecast.",
        (
            Query(
                share(
                    rate("mizzen_forecasting_anomalies_total", "@SERVED", _BY),
                    rate("mizzen_forecasting_points_judged_total", "@SERVED", _BY),
                ),
                _NAME,
            ),
        ),
        width=12,
    ),
)

BOARD = Board(
    "forecasting",
    "Mizzen forecasting",
    "Series that are forecast, how far ahead, and anomalies.",
    (Row("Forecasts", _FORECASTS),),
)
