"""Answers queries from an exported folder: whose history, which scores, which items remain, which are best.

It runs in a thread and knows no HTTP.

Dimensions: B batch, L length, V items, K results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mizzen.errors import RequestError
from mizzen.workloads.contract import Features, Runtime
from mizzen.workloads.recommendation import features, histories
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.export import open_network, read_settings
from mizzen.workloads.recommendation.features import Traits
from mizzen.workloads.recommendation.filters import AttributeFilters, Condition
from mizzen.workloads.recommendation.histories import Histories
from mizzen.workloads.recommendation.selection import Promoted, best, woven

Fallback = Literal["popularity", "session"]
_KEPT_HISTORIES = 5_000
"""Users are found in a memory-mapped file; who asks once will mostly ask again."""
STRANGER = "the user is not known to this version of the model"


@dataclass(frozen=True)
class Query:
    """For whom, and what of the ranking is wanted; one of `user`, `history` and `session` is given."""

    user: str | None
    history: Sequence[str] | None
    """Item ids, the oldest first; if given, the stored history of `user` is not looked at."""
    num_results: int = 10
    exclude_seen: bool = True
    filters: Mapping[str, Condition] = field(default_factory=dict)
    session: Sequence[str] = ()
    """Item ids that follow the history, the oldest first."""
    offset: int = 0
    exclude_items: Sequence[str] = ()
    promotions: Sequence[Promoted] = ()
    rank: Sequence[str] | None = None
    """These items are to be ranked, all of them; nothing above but the asker counts then."""


@dataclass(frozen=True)
class Answer:
    """The best items first; `fallback` says what stood in for the user's history, if it was not known."""

    rows: Sequence[int]
    """Of the catalogue."""
    scores: Sequence[float]
    promotions: Sequence[str | None]
    """The name of the promotion that an item is there for."""
    fallback: Fallback | None
    fallback_reason: str | None
    unknown_items: Sequence[str]
    """Items of history and session that the model does not know."""
    unranked: Sequence[str] = ()
    """Items that were to be ranked, and that the model does not know."""


@dataclass(frozen=True)
class _Known:
    """What is known of the asker."""

    history: np.ndarray
    """Item numbers from 1, the oldest first."""
    unknown_items: Sequence[str] = ()
    fallback: Fallback | None = None
    fallback_reason: str | None = None


class Recommender:
    """A model with its items and its users' histories, open for queries."""

    def __init__(self, folder: Path, runtime: Runtime, items: Catalogue, filters: AttributeFilters) -> None:
        self._predict = open_network(folder, runtime)
        self._max_length = int(read_settings(folder)["max_length"])
        self._items = items
        self._histories = Histories(folder / histories.FILE)
        self._filters = filters
        self._popularity_V = items.count("end").astype(np.float32)
        self._stored = lru_cache(_KEPT_HISTORIES)(self._found)
        self._traits = Traits(self._max_length, len(items))
        self._watch: Callable[[Features], None] | None = None

    def watch(self, take: Callable[[Features], None]) -> None:
        """Hand the features of all histories that are asked about from now on to `take`."""
        self._watch = take

    def answer(self, queries: list[Query]) -> list[Answer | Exception]:
        """One answer for each query, or the `RequestError` that is its own; one call of the network."""
        asked = [(query, self._known(query)) for query in queries]
        if self._watch is not None:
            # Strangers are counted elsewhere: every service has some, and training none.
            rows = [
                self._traits.of(known.history, len(known.unknown_items))
                for _, known in asked
                if len(known.history) or known.unknown_items
            ]
            if rows:
                self._watch(features.columns(rows))
        scores = self._scores([known.history for _, known in asked if known.fallback != "popularity"])
        answers: list[Answer | Exception] = []
        for query, known in asked:
            scores_V = self._popularity_V if known.fallback == "popularity" else next(scores)
            try:
                choose = self._choose if query.rank is None else self._rank
                answers.append(choose(query, known, scores_V))
            except RequestError as error:
                answers.append(error)
        return answers

    def _found(self, user: str) -> np.ndarray:
        """The stored history; empty if there is none."""
        row = self._histories.find(user)
        return np.zeros(0, np.int64) if row is None else self._histories.items(row).astype(np.int64)

    def _known(self, query: Query) -> _Known:
        session, unknown = self._items.find(query.session)
        if query.history is not None:
            history, unknown_before = self._items.find(query.history)
            unknown = list(dict.fromkeys([*unknown_before, *unknown]))
            reason = "no item of the history is known" if unknown else "the history is empty"
        elif query.user is not None:
            history, reason = self._stored(query.user), STRANGER
            if len(session) and not len(history):
                return _Known(session, unknown, "session", f"{STRANGER}; items of the session are")
        else:
            history, reason = np.zeros(0, np.int64), "no item of the session is known"
        if len(session):
            history = np.concatenate([history, session])
        return _Known(history, unknown) if len(history) else _Known(history, unknown, "popularity", reason)

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
        left_V = scores_V.copy()
        if query.filters:
            left_V[~self._filters.allowed(query.filters)] = -np.inf
        if query.exclude_seen:
            left_V[known.history - 1] = -np.inf
        if query.exclude_items:
            left_V[self._items.find(query.exclude_items)[0] - 1] = -np.inf
        num_results = query.offset + query.num_results
        found = best(left_V, num_results)[query.offset :]
        names: list[str | None] = [None] * len(found)
        if query.promotions:
            found, names = self._promote(query, left_V)
        return Answer(
            [row for row, _ in found],
            [score for _, score in found],
            names,
            known.fallback,
            known.fallback_reason,
            known.unknown_items,
        )

    def _promote(self, query: Query, left_V: np.ndarray) -> tuple[list[tuple[int, float]], list[str | None]]:
        """Rows with scores, and the names of the promotions that they are there for."""
        num_results = query.offset + query.num_results
        candidates = []
        for one in query.promotions:
            own_V = left_V.copy()
            if one.filters:
                own_V[~self._filters.allowed(one.filters, f"promotions.{one.name}.filters")] = -np.inf
            if one.items is not None:
                rows = self._items.find(one.items)[0] - 1
                own_V = np.full_like(left_V, -np.inf)
                own_V[rows] = left_V[rows]
            candidates.append(best(own_V, num_results))
        shares = [one.share for one in query.promotions]
        placed = list(woven(best(left_V, num_results), candidates, shares, num_results))[query.offset :]
        names = [None if number is None else query.promotions[number].name for _, number in placed]
        return [one for one, _ in placed], names

    def _rank(self, query: Query, known: _Known, scores_V: np.ndarray) -> Answer:
        numbers, unranked = self._items.find(query.rank or ())
        rows = numbers - 1
        rows = rows[np.lexsort((rows, -scores_V[rows]))]
        return Answer(
            rows.tolist(),
            scores_V[rows].tolist(),
            [None] * len(rows),
            known.fallback,
            known.fallback_reason,
            known.unknown_items,
            unranked,
        )
