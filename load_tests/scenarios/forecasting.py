"""Forecasts of the M1 competition's yearly series; `traffic` says how they arrive."""

from __future__ import annotations

from traffic import Answer, Failed, Traffic

PATH = "/v1/timeseries/forecast"


class Forecasts(Traffic):
    """Asks for the mean and three quantiles of one or several series."""

    def ask(self, body: str) -> Answer:
        """One request; the unit is a series."""
        wanted = body.count('"series"')
        if self.post(PATH, body).content.count(b'"mean_forecast"') != wanted:
            raise Failed("an answer without a forecast of each series")
        return Answer(units=wanted)
