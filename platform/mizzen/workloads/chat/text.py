"""From tokens to text while they come: whole characters only, and never past a stop string.

It does not decide which tokens end a generation: `engine` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
UNFINISHED = "�"
"""What a tokenizer writes for bytes that are no whole character (yet)."""
MAX_HELD_TOKENS = 8
"""A character of UTF-8 has at most 4 bytes; bytes that are none after this many tokens are shown so."""


class Detokenizer:
    """Text of a growing sequence of tokens, piece by piece.

    A token's text can depend on the token before it, so each piece is the difference between two
    decodings of the last few tokens.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._shown: list[int] = []  # tokens of the last piece, as context
        self._held: list[int] = []  # tokens whose text is not whole yet

    def add(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        self._held.append(token)
        return self._take(len(self._held) >= MAX_HELD_TOKENS)

    def finish(self) -> str:
        """What is left, with unfinished characters as they are."""
        return self._take(True) if self._held else ""

    def _take(self, anyway: bool) -> str:
        before = self._decode(self._shown)
        text = self._decode(self._shown + self._held)[len(before) :]
        if text.endswith(UNFINISHED) and not anyway:
            return ""
        self._shown, self._held = self._held, []
        return text


class StopStrings:
    """Lets text through up to the first stop string, also one that spans several pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False
        """Whether a stop string has come; nothing is let through after it."""

    def add(self, piece: str) -> str:
        """The part of the text so far that can be shown now."""
        if self.found:
            return ""
        text = self._held + piece
        starts = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if starts:
            self.found, self._held = True, ""
            return text[: min(starts)]
        keep = max((self._overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back because it might have become a stop string."""
        held, self._held = self._held, ""
        return "" if self.found else held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """How many characters at the end of `text` begin `stop`."""
        longest = min(len(text), len(stop) - 1)
        return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
