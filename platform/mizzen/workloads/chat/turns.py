"""Whose turn it is: how many tokens of prompts are read between two tokens of an answer, and of which prompt.

It decides only: `engine` does it.
"""

from __future__ import annotations

from collections.abc import Sequence

from mizzen.workloads.chat.generation import Generation

CHUNK_TOKENS = 64
"""Tokens of a prompt that are read at once."""
MAX_CHUNKS = 4
"""Most chunks that running sequences wait for between two of their tokens."""


class Turns:
    """The order among prompts; for one thread."""

    def __init__(self) -> None:
        self._oldest_next = True

    def budget(self, num_reading: int, num_running: int) -> int:
        """About how many tokens this turn may read.

        A step costs nearly the same for one sequence as for many, so where more prompts wait than sequences
        run, filling the batch comes first.
        """
        return CHUNK_TOKENS * max(1, min(num_reading - num_running, MAX_CHUNKS))

    def next_to_read(self, reading: Sequence[Generation]) -> Generation:
        """In turns the oldest and the one with the least left: no short one waits for a long one to be
        read, and no long one for ever.
        """
        oldest_first, self._oldest_next = self._oldest_next, not self._oldest_next
        return reading[0] if oldest_first else min(reading, key=lambda generation: generation.num_unread)
