"""The knowledge base of an application: opened at the start, and exchanged when its alias moves.

It does not search by itself: `grounding` and `embeddings` ask its `retriever`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from mizzen.errors import MizzenError, ServingError
from mizzen.workloads.contract import ModelIdentity, Retriever

logger = logging.getLogger(__name__)


def reference_of(identity: ModelIdentity) -> str:
    """`NAME@VERSION`."""
    return f"{identity.name}@{identity.version}"


class FollowedKnowledge:
    """What a reference means now, or meant at most `refresh_s` ago; a thread of its own asks for it again."""

    def __init__(self, open_retriever: Callable[[str], Retriever], reference: str, refresh_s: float) -> None:
        """Opens it, which blocks. Raises `ServingError` if it is not there."""
        self._open = open_retriever
        self._reference = reference
        self._refresh_s = refresh_s
        try:
            self._retriever = open_retriever(reference)
        except MizzenError as cause:
            raise ServingError(
                f"the knowledge base {reference!r} cannot be opened: {cause}",
                remedy="Make it with `mizzen knowledge build`, or correct options.knowledge.model in the"
                " serve file.",
            ) from cause
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mizzen-chat-knowledge", daemon=True)
        self._thread.start()

    @property
    def retriever(self) -> Retriever:
        """The version in force; a request takes it once and stays with it."""
        return self._retriever

    def refresh(self) -> None:
        """Ask again what the reference means. If that cannot be told, the version before stays."""
        try:
            found = self._open(self._reference)
        except Exception as cause:
            # Whatever is wrong with the new version or the way to it, questions go on being answered.
            logger.warning("the knowledge base %s cannot be asked for anew: %s", self._reference, cause)
            return
        if found is not self._retriever:
            logger.info("answers come from %s from now on", reference_of(found.identity))
            self._retriever = found

    def close(self) -> None:
        """Follow no longer. Waits for a question to the store that is under way."""
        self._closing.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._closing.wait(self._refresh_s):
            self.refresh()
