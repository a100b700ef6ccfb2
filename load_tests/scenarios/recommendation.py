"""Recommendations for users and histories of MovieLens-100K; `traffic` says how they arrive."""

from __future__ import annotations

from traffic import Answer, Failed, Traffic

PATH = "/v1/recommendations"


class Recommendations(Traffic):
    """Asks for the ten best items."""

    def ask(self, body: str) -> Answer:
        """One request; the unit is a request."""
        if b'"item_id"' not in self.post(PATH, body).content:
            raise Failed("an answer without items")
        return Answer()
