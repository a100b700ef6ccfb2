"""Answers requests from an exported folder: whose history, which scores, which items remain, which are best.

It runs in a thread and knows no HTTP.

Dimensions: B batch, L length, V items, K results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mizzen.errors import RequestError
from mizzen.workloads.contract import Runtime
from mizzen.workloads.recommendation import catalogue, histories
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.export import open_model, read_settings
from mizzen.workloads.recommendation.filters import AttributeFilters, Condition
from mizzen.workloads.recommendation.histories import Histories


@dataclass(frozen=True)
class Query:
    """For whom, and what of the ranking is wanted; at least one of `user` and `history` is given."""

    user: str | None
    history: Sequence[str] | None
    """Item ids, the oldest first; if given, the stored history of `user` is not looked at."""
    num_results: int
    exclude_seen: bool
    filters: Mapping[str, Condition]


@dataclass(frozen=True)
class Scored:
    """An item and its score."""

    item: str
    score: float
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """The best items first; by popularity if `fallback_reason` says why the model could not be asked."""

    items: Sequence[Scored]
    fallback_reason: str | None
    unknown_items: Sequence[str]


@dataclass(frozen=True)
class _Known:
    """What is known of the asker."""

    history: np.ndarray
    """Item numbers from 1, the oldest first."""
    unknown_items: Sequence[str]
    fallback_reason: str | None


class Recommender:
    """A model with its items and its users' histories, open for queries."""

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self._predict = open_model(folder, runtime)
        self._max_length = int(read_settings(folder)["max_length"])
        self._items = Catalogue.read(folder / catalogue.FILE)
        self._histories = Histories(folder / histories.FILE)
        self._filters = AttributeFilters(self._items)
        self._popularity_V = self._items.count("end").astype(np.float32)

    def answer(self, queries: list[Query]) -> list[Answer | Exception]:
        """One answer for each query, or the `RequestError` that is its own; one call of the network."""
        asked = [(query, self._known(query)) for query in queries]
        scores = self._scores([known.history for _, known in asked if known.fallback_reason is None])
        answers: list[Answer | Exception] = []
        for query, known in asked:
            scores_V = self._popularity_V if known.fallback_reason else next(scores)
            try:
                answers.append(self._choose(query, known, scores_V))
            except RequestError as error:
                answers.append(error)
        return answers

    def _known(self, query: Query) -> _Known:
        if query.history is not None:
            numbers = [(item, self._items.numbers.get(item)) for item in query.history]
            history = np.array([number for _, number in numbers if number], dtype=np.int64)
            unknown = list(dict.fromkeys(item for item, number in numbers if not number))
            reason = "no item of the history is known" if unknown else "the history is empty"
            return _Known(history, unknown, None if len(history) else reason)
        row = None if query.user is None else self._histories.find(query.user)
        if row is None:
            return _Known(np.zeros(0, np.int64), (), "the user is not known to this version of the model")
        return _Known(self._histories.items(row).astype(np.int64), (), None)

    def _scores(self, rows: list[np.ndarray]) -> Any:
        """An iterator over the scores (V,) of each history."""
        if not rows:
            return iter(())
        length = min(max(map(len, rows)), self._max_length)
        history_BL = np.zeros((len(rows), length), dtype=np.int64)
        for history_L, row in zip(history_BL, rows, strict=True):
            last = row[-length:]
            history_L[length - len(last) :] = last
        return iter(self._predict({"history": history_BL})["scores"])

    def _choose(self, query: Query, known: _Known, scores_V: np.ndarray) -> Answer:
        allowed_V = self._filters.allowed(query.filters)
        if allowed_V is None:
            allowed_V = np.ones(len(scores_V), dtype=bool)
        if query.exclude_seen:
            allowed_V[known.history - 1] = False
        rows = np.flatnonzero(allowed_V)
        left = scores_V[rows]
        if len(rows) > query.num_results:
            best = np.argpartition(-left, query.num_results - 1)[: query.num_results]
            rows, left = rows[best], left[best]
        order_K = np.lexsort((rows, -left))
        items = [self._scored(int(rows[i]), float(left[i])) for i in order_K]
        return Answer(items, known.fallback_reason, known.unknown_items)

    def _scored(self, row: int, score: float) -> Scored:
        attributes = {name: values[row].as_py() for name, values in self._items.attributes.items()}
        return Scored(self._items.item_ids[row], score, attributes)
