"""From messages to tokens and labels, by the model's own chat template.

It does not know how a template writes its turns: what an assistant's turn adds to the text before it is
what is learnt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mizzen.errors import DataError, InputError
from mizzen.workloads.chat.data import Conversations, Message

IGNORED = -100
"""The label of a token that is not learnt: PyTorch's own convention."""
_BEGIN, _END = "\ufdd0", "\ufdd1"
"""Characters that Unicode reserves for use inside a program: around the number of a special token's name."""
_MARK = re.compile(f"{_BEGIN}([0-9]+){_END}")


@lru_cache(maxsize=4)
def tokenizer_of(folder: Path) -> Any:
    """The tokenizer in a model's folder. Raises `InputError` if it has no chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    if not tokenizer.chat_template:
        raise InputError(
            "the base model's tokenizer has no chat template",
            saw=str(folder),
            allowed="a model that was made for chat",
            remedy="Put a chat_template.jinja beside its tokenizer.json.",
            field="model.base",
        )
    return tokenizer


@dataclass(frozen=True)
class Example:
    """One conversation in tokens."""

    input_ids: list[int]
    labels: list[int]
    """The token itself where it is learnt, `IGNORED` elsewhere; as long as `input_ids`, not shifted."""
    cut: bool
    """Whether the conversation was longer than the model's `max_length`."""


def encode(tokenizer: Any, messages: Sequence[Message], max_length: int) -> Example:
    """The conversation in tokens, cut at the end to `max_length`; only assistants' words are learnt.

    Raises `DataError` if the template writes a turn differently once another follows it.
    """
    input_ids: list[int] = []
    labels: list[int] = []
    done = ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:i], ask=True)
        after = _render(tokenizer, messages[: i + 1], ask=False)
        if not (before.startswith(done) and after.startswith(before)):
            raise DataError(
                "the chat template rewrites earlier turns, so the assistant's words cannot be told apart",
                saw=repr(after[:200]),
                allowed="a template that only appends",
                field="model.base",
            )
        given = _ids(tokenizer, before[len(done) :])
        turn = after[len(before) :]
        end = _end_of_words(tokenizer, turn)
        learnt, rest = _ids(tokenizer, turn[:end]), _ids(tokenizer, turn[end:])
        input_ids += given + learnt + rest
        labels += [IGNORED] * len(given) + learnt + [IGNORED] * len(rest)
        done = after
    return Example(input_ids[:max_length], labels[:max_length], len(input_ids) > max_length)


def prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Tokens of a conversation that waits for the assistant's next words.

    Special tokens come from the template alone: what looks like one in a message is plain text.
    """
    return _ids(tokenizer, _render(tokenizer, messages, ask=True))


def _render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], *, ask: bool) -> str:
    """The template's text, in which a special token's name in a message is a mark (see `_ids`)."""
    names = _names(tokenizer)
    numbers = {name: i for i, name in enumerate(names)}
    pattern = re.compile("|".join(map(re.escape, names)))

    def marked(value: Any) -> Any:  # tools' calls have texts further inside
        if isinstance(value, str):
            return pattern.sub(lambda found: f"{_BEGIN}{numbers[found[0]]}{_END}", value)
        if isinstance(value, Mapping):
            return {key: marked(inner) for key, inner in value.items()}
        return [marked(inner) for inner in value] if isinstance(value, list) else value

    text: str = tokenizer.apply_chat_template(
        [marked(message) for message in messages], tokenize=False, add_generation_prompt=ask
    )
    return text


def _names(tokenizer: Any) -> list[str]:
    """What is marked in messages: special tokens' names, longer ones first, and what marks are made of."""
    names = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return [*sorted(names, key=lambda name: (-len(name), name)), _BEGIN, _END]


def _ids(tokenizer: Any, text: str) -> list[int]:
    # The template writes special tokens itself; a name that is cut in two is none.
    names = _names(tokenizer)
    ids: list[int] = []
    for i, part in enumerate(_MARK.split(text)):
        pieces = (names[int(part)][:1], names[int(part)][1:]) if i % 2 else (part,)
        for piece in filter(None, pieces):
            ids += tokenizer.encode(piece, add_special_tokens=False)
    return ids


def _end_of_words(tokenizer: Any, turn: str) -> int:
    """Where the token that ends the turn ends; a line break after it belongs to the template."""
    at = turn.find(tokenizer.eos_token) if tokenizer.eos_token else -1
    return len(turn) if at < 0 else at + len(tokenizer.eos_token)


class Examples:
    """A map-style data set of tokenised conversations."""

    def __init__(self, conversations: Conversations, tokenizer: Any, max_length: int) -> None:
        self._conversations = conversations
        self._tokenizer = tokenizer
        self._max_length = max_length

    def __len__(self) -> int:
        return len(self._conversations)

    def __getitem__(self, index: int) -> Example:
        return encode(self._tokenizer, self._conversations[index], self._max_length)


def collate(rows: Sequence[Example]) -> dict[str, Any]:
    """`input_ids`, `attention_mask` and `labels`, each (B, T), padded on the right to the longest row."""
    import torch

    longest = max(len(row.input_ids) for row in rows)
    input_ids_BT = torch.zeros(len(rows), longest, dtype=torch.int64)
    attention_mask_BT = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels_BT = torch.full((len(rows), longest), IGNORED, dtype=torch.int64)
    for b, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids_BT[b, :length] = torch.tensor(row.input_ids)
        attention_mask_BT[b, :length] = 1
        labels_BT[b, :length] = torch.tensor(row.labels)
    return {"input_ids": input_ids_BT, "attention_mask": attention_mask_BT, "labels": labels_BT}
