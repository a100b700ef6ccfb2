"""Which beginnings of sequences are kept, in blocks of tokens, so that a new prompt need not be read anew.

A conversation's next turn begins with all of the turn before, and many conversations with the same system
message. A block is known by its tokens and the block before it, as in vLLM's prefix caching (Kwon et al.
2023), so equal beginnings are kept once. Where there is no room, the block that was used longest ago goes.

It decides only: `decoder` holds the keys and values, and copies them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BLOCK_TOKENS = 16

Key = tuple[object, tuple[int, ...]]
"""The serial number of the block before, or who shares the sequence if it is the first; and the tokens."""


@dataclass(frozen=True)
class Block:
    """A block that is kept."""

    serial: int
    """Never given twice, so a block whose predecessor is gone is never found by mistake."""
    place: int
    """Where the decoder has it."""


class Prefixes:
    """The index of what is kept; for one thread."""

    def __init__(self, num_blocks: int) -> None:
        """`num_blocks` of `BLOCK_TOKENS` tokens each; with 0 nothing is kept."""
        self.num_blocks = num_blocks
        self._blocks: OrderedDict[Key, Block] = OrderedDict()  # the one used longest ago first
        self._next_serial = 0

    @property
    def num_tokens(self) -> int:
        """Tokens that are kept."""
        return len(self._blocks) * BLOCK_TOKENS

    def find(self, tokens: Sequence[int], sharer: str) -> list[int]:
        """Places of the blocks with which `tokens` begins; their tokens need not be read.

        At least one token is left to be read, because the next follows from what the model says after it.
        """
        found = list(self._known(tokens[:-1], sharer))
        self._touch([key for key, _ in found])
        return [block.place for _, block in found]

    def add(self, tokens: Sequence[int], sharer: str) -> tuple[int, list[int]]:
        """Keep `tokens`, as far as they fill blocks and there is room.

        Returns how many tokens are kept already, and places for the blocks that follow, in order: the
        caller fills them.
        """
        known = list(self._known(tokens, sharer))
        chain = [key for key, _ in known]
        self._touch(chain)
        before: object = known[-1][1].serial if known else sharer
        places = []
        for start in range(len(known) * BLOCK_TOKENS, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            place = self._room(set(chain))
            if place is None:
                break
            block = Block(self._next_serial, place)
            self._next_serial += 1
            chain.append((before, tuple(tokens[start : start + BLOCK_TOKENS])))
            self._blocks[chain[-1]] = block
            before = block.serial
            places.append(place)
        self._touch(chain)
        return len(known) * BLOCK_TOKENS, places

    def _known(self, tokens: Sequence[int], sharer: str) -> Iterator[tuple[Key, Block]]:
        before: object = sharer
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            key = (before, tuple(tokens[start : start + BLOCK_TOKENS]))
            block = self._blocks.get(key)
            if block is None:
                return
            yield key, block
            before = block.serial

    def _touch(self, chain: Sequence[Key]) -> None:
        """A block is newer than those that follow it, so that it does not go before them."""
        for key in reversed(chain):
            self._blocks.move_to_end(key)

    def _room(self, chain: set[Key]) -> int | None:
        """A free place, or that of the block used longest ago unless it is one of `chain`."""
        if len(self._blocks) < self.num_blocks:
            return len(self._blocks)
        oldest = next(iter(self._blocks), None)
        if oldest is None or oldest in chain:
            return None
        return self._blocks.pop(oldest).place
