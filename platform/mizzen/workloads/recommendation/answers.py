"""What is answered: the models that the OpenAPI document shows, and the JSON bytes that follow them.

The bytes are put together from texts, because building and writing the models took longer than the network;
the tests read them back through the models.

A recommendation id is `VERSION-TIMERANDOM`: the number of the model's version, and 32 hexadecimal digits, of
which the first 12 are the time in milliseconds since 1970. So feedback that names it can be counted by the
version that recommended, without a record of every answer.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from pydantic import Field

from mizzen.errors import MizzenError
from mizzen.workloads.contract import Fields, ModelIdentity
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.ranking import Answer

ID_PATTERN = r"^[1-9][0-9]{0,17}-[0-9a-f]{32}$"
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_KEPT_ITEMS = 100_000
"""Items whose text is kept for the next answer."""


class Item(Fields):
    """One item; scores can be compared within one answer only."""

    item_id: str
    score: float
    attributes: dict[str, int | float | str | list[str] | None]


class RecommendedItem(Item):
    """An item, and why it is there."""

    promotion: str | None = Field(description="The promotion whose slot this is; null if it is the score's.")


class RankedItem(Fields):
    """One of the given items. Unknown ones come last, without a score, in the order given."""

    item_id: str
    score: float | None
    attributes: dict[str, int | float | str | list[str] | None]
    known: bool = Field(description="Whether this version of the model knows the item.")


class _Answered(Fields):
    recommendation_id: str = Field(description="New for each answer: to join feedback to it.")
    model: str
    model_version: int
    model_digest: str


class _AnsweredTo(_Answered):
    user_id: str | None
    fallback: Literal["popularity", "session"] | None = Field(
        description="What stood in for the user's history: `session` (the items of the session), or "
        "`popularity` (then the model could not be asked)."
    )
    fallback_reason: str | None
    unknown_items: list[str] = Field(
        description="Items of the history and the session that the model does not know."
    )


class RecommendationResponse(_AnsweredTo):
    """The best items first; fewer than asked for if the filters leave no more."""

    items: list[RecommendedItem]


class Problem(Fields):
    """What is wrong with one of several queries."""

    message: str
    type: str
    param: str | None
    code: str


class Failure(Fields):
    """The error of one of several queries."""

    error: Problem


class RecommendationResponses(Fields):
    """An answer or an error for each of `requests`, in their order."""

    results: list[RecommendationResponse | Failure]


class RankingResponse(_AnsweredTo):
    """All of the given items, the best first."""

    items: list[RankedItem]


class SimilarItemsResponse(_Answered):
    """The most similar items first; the score is the cosine, -1 to 1."""

    items: list[Item]
    unknown_items: list[str] = Field(description="Given items that the model does not know.")


@dataclass(frozen=True)
class Origin:
    """What a recommendation id says."""

    version: int
    recommended_at: datetime


def new_id(version: int) -> str:
    """A recommendation id, new each time."""
    return f"{version}-{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def origin(recommendation_id: str) -> Origin | None:
    """Which version recommended, and when; None for a text that is no recommendation id."""
    if not re.fullmatch(ID_PATTERN, recommendation_id):
        return None
    version, rest = recommendation_id.split("-")
    try:
        return Origin(int(version), datetime.fromtimestamp(int(rest[:12], 16) / 1000, UTC))
    except (ValueError, OverflowError, OSError):
        return None


class Writer:
    """Writes answers of one version as JSON."""

    def __init__(self, identity: ModelIdentity, items: Catalogue) -> None:
        self._version = identity.version
        self._identity = (
            f'","model":{_text(identity.name)},"model_version":{identity.version},'
            f'"model_digest":{_text(identity.digest)},'
        )
        attributes, ids = items.attributes, items.item_ids

        @lru_cache(_KEPT_ITEMS)
        def parts(row: int) -> tuple[str, str]:
            values = {name: column[row].as_py() for name, column in attributes.items()}
            return f'{{"item_id":{_text(ids[row])},"score":', f',"attributes":{_text(values)}'

        self._parts = parts

    def recommendation(self, user: str | None, answer: Answer) -> str:
        """A `RecommendationResponse`."""
        items = []
        for row, score, promotion in zip(answer.rows, answer.scores, answer.promotions, strict=True):
            start, end = self._parts(row)
            named = "null" if promotion is None else _text(promotion)
            items.append(f'{start}{score}{end},"promotion":{named}}}')
        return self._answered_to(user, answer, items)

    def ranking(self, user: str | None, answer: Answer) -> str:
        """A `RankingResponse`."""
        items = []
        for row, score in zip(answer.rows, answer.scores, strict=True):
            start, end = self._parts(row)
            items.append(f'{start}{score}{end},"known":true}}')
        for item in answer.unranked:
            items.append(f'{{"item_id":{_text(item)},"score":null,"attributes":{{}},"known":false}}')
        return self._answered_to(user, answer, items)

    def similar(self, rows: Sequence[int], scores: Sequence[float], unknown: Sequence[str]) -> str:
        """A `SimilarItemsResponse`."""
        items = []
        for row, score in zip(rows, scores, strict=True):
            start, end = self._parts(row)
            items.append(f"{start}{score}{end}}}")
        return f'{self._answered()}"items":[{",".join(items)}],"unknown_items":{_text(list(unknown))}}}'

    def _answered(self) -> str:
        return f'{{"recommendation_id":"{new_id(self._version)}{self._identity}'

    def _answered_to(self, user: str | None, answer: Answer, items: list[str]) -> str:
        unknown = _text(list(answer.unknown_items)) if answer.unknown_items else "[]"
        return (
            f'{self._answered()}"user_id":{_text(user)},"items":[{",".join(items)}],'
            f'"fallback":{_text(answer.fallback)},"fallback_reason":{_text(answer.fallback_reason)},'
            f'"unknown_items":{unknown}}}'
        )


def failure(error: MizzenError) -> str:
    """A `Failure`, in the shape of an error's own body."""
    problem = {
        "message": str(error),
        "type": "invalid_request_error",
        "param": error.field,
        "code": "invalid_request",
    }
    return _text({"error": problem})


def _text(value: object) -> str:
    return "null" if value is None else _ENCODER.encode(value)
