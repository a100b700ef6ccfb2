"""Records what a version recommends, and what becomes of it, as series.

Nothing of a request becomes a label but the number of a version that a recommendation id names, and of those
only some: ids can be forged.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from mizzen import metrics
from mizzen.series import OTHER
from mizzen.workloads.contract import ModelIdentity, Recorder
from mizzen.workloads.recommendation.ranking import Answer, Query

Known = Literal["user", "session", "nothing"]
KNOWN: tuple[Known, ...] = get_args(Known)
MAX_OTHER_VERSIONS = 20
"""Versions besides its own whose feedback a replica tells apart: those that it hears of first."""
REMEMBERED_EVENTS = 20_000
"""Ids of events by which repeats are known: some megabytes at most."""


class Answers:
    """For whom was recommended, and which items of the catalogue; from one thread."""

    def __init__(self, recorder: Recorder, num_items: int) -> None:
        self._recorder = recorder
        self._met = bytearray(num_items)
        self._num_met = 0
        recorder.set(metrics.RECOMMENDATION_CATALOGUE, num_items)
        recorder.set(metrics.RECOMMENDATION_COVERED, 0)
        for known in KNOWN:
            recorder.count(metrics.RECOMMENDATION_USERS, 0, known=known)

    def user(self, query: Query, answer: Answer) -> None:
        """Somebody was answered."""
        self._recorder.count(metrics.RECOMMENDATION_USERS, known=known_of(query, answer))

    def items(self, rows: Iterable[int]) -> None:
        """These rows of the catalogue were recommended."""
        before = self._num_met
        for row in rows:
            if not self._met[row]:
                self._met[row] = 1
                self._num_met += 1
        if self._num_met > before:
            self._recorder.set(metrics.RECOMMENDATION_COVERED, self._num_met)


def known_of(query: Query, answer: Answer) -> Known:
    """What was known of who asked: a history, stored or sent along; a session alone; or nothing."""
    if answer.fallback == "popularity":
        return "nothing"
    nobody = query.user is None and query.history is None
    return "session" if nobody or answer.fallback == "session" else "user"


class Events:
    """Counts feedback, each event once as far as this replica can tell: a repeat may reach another one."""

    def __init__(self, recorder: Recorder, identity: ModelIdentity) -> None:
        self._recorder = recorder
        self._own = identity.version
        self._others: set[int] = set()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        for kind in metrics.RECOMMENDATION_EVENTS.labels[3].values:
            self._count(kind, str(self._own), joined=False, amount=0)
            self._count(kind, str(self._own), joined=True, amount=0)

    def count(self, events: Sequence[tuple[str, str, int | None]]) -> None:
        """Id and type of each event, and the version that recommended if that is known."""
        with self._lock:
            new = [(kind, version) for event_id, kind, version in events if self._is_new(event_id)]
            labels = [(kind, self._label(version), version is not None) for kind, version in new]
        for kind, label, joined in labels:
            self._count(kind, label, joined=joined)

    def _count(self, kind: str, version: str, *, joined: bool, amount: float = 1) -> None:
        labels = {"event": kind, "joined": "true" if joined else "false"}
        self._recorder.count(metrics.RECOMMENDATION_EVENTS, amount, version=version, **labels)

    def _is_new(self, event_id: str) -> bool:
        if event_id in self._seen:
            self._seen.move_to_end(event_id)
            return False
        self._seen[event_id] = None
        if len(self._seen) > REMEMBERED_EVENTS:
            self._seen.popitem(last=False)
        return True

    def _label(self, version: int | None) -> str:
        if version is None or version == self._own:
            return str(self._own)
        if version not in self._others and len(self._others) < MAX_OTHER_VERSIONS:
            self._others.add(version)
        return str(version) if version in self._others else OTHER
