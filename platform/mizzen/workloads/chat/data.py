"""Conversations: read as a stream, cleaned, split, and kept as messages in memory-mapped Arrow files.

It does not tokenise: which tokenizer applies is a matter of the model (`tokens`).
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mizzen.errors import DataError
from mizzen.workloads.chat import samples
from mizzen.workloads.contract import DataReport, Fields, Sources

Message = dict[str, str]
"""`{"role": ..., "content": ...}`."""
ROLES = ("system", "user", "assistant")
SPLITS = ("train", "validation", "test")
ROWS_A_BATCH = 1024


class ChatColumns(Fields):
    """Which columns hold the conversation: one with all messages, or a prompt and its response."""

    messages: str | None = None
    """A list of `{role, content}`; in CSV the same as JSON text."""
    prompt: str | None = None
    response: str | None = None
    system: str | None = None
    """Beside `prompt` and `response`: what the assistant was told to be."""
    timestamp: str | None = None
    """Split by time, the newest conversations held out; without it by a hash of the first question."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        pair = self.prompt is not None and self.response is not None
        half = (self.prompt is None) != (self.response is None)
        if half or pair == (self.messages is not None):
            raise ValueError("name either messages, or both prompt and response")
        if self.system is not None and not pair:
            raise ValueError("system goes with prompt and response; messages carry their own")
        return self


OPENAI = ChatColumns(messages="messages")
"""As files for fine-tuning at OpenAI have it; the sample too."""


class ChatData(Fields):
    """The `data` section of a chat job."""

    dataset: Literal["chatterbot-corpus"] | None = None
    path: str | None = None
    """A file, folder or object-storage URL of JSON Lines, Parquet or CSV."""
    columns: ChatColumns = OPENAI
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    max_characters: Annotated[int, Field(ge=1)] = 100_000
    """Longer conversations are dropped; what is too long in tokens is cut later, see `model.max_length`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give either dataset or path, not both and not neither")
        if self.dataset is not None and self.columns != OPENAI:
            raise ValueError("columns go with path; the sample has its own")
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share leave nothing to train on")
        return self


def prepare(data: ChatData, sources: Sources, folder: Path) -> DataReport:
    """Write `train.arrow`, `validation.arrow` and `test.arrow`; see `Workload.prepare`.

    Duplicates are found by digests of 16 bytes, the only thing that is kept in memory for each row (and
    8 bytes for its time).
    """
    if data.dataset is not None:
        file = sources.sample(data.dataset) / samples.CONVERSATIONS

        def rows() -> Iterable[Mapping[str, Any]]:
            return _json_lines(file)

    else:
        table = sources.table(str(data.path))
        _check_columns(data.columns, table.schema().names)

        def rows() -> Iterable[Mapping[str, Any]]:
            streamed: Iterable[Mapping[str, Any]] = table.iter_rows()
            return streamed

    borders = _time_borders(data, rows()) if data.columns.timestamp else None
    dropped: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    turns: Counter[str] = Counter()
    seen: set[bytes] = set()
    num_read = 0
    with ExitStack() as stack:
        writers = {split: stack.enter_context(_Writer(folder / f"{split}.arrow")) for split in SPLITS}
        for row in rows():
            num_read += 1
            messages, reason = clean(_messages(row, data.columns), data.max_characters)
            digest = hashlib.sha256(json.dumps(messages).encode()).digest()[:16]
            if reason is None and digest in seen:
                reason = "duplicate"
            if reason is not None:
                dropped[reason] += 1
                continue
            seen.add(digest)
            split = _by_time(data, row, borders) if borders else by_hash(data, messages)
            writers[split].add(messages)
            counts[split] += 1
            turns[split] += sum(message["role"] == "assistant" for message in messages)
    empty = [split for split in SPLITS if not counts[split]]
    if empty:
        raise DataError(
            f"no conversation is left for {' and '.join(empty)}",
            saw=f"{num_read} rows, {sum(counts.values())} of them good, dropped {dict(dropped)}",
            allowed="at least one conversation in each of train, validation and test",
            remedy="Give more conversations, or larger shares.",
            field="data",
        )
    facts: dict[str, Any] = {f"{split}_conversations": counts[split] for split in SPLITS}
    facts |= {f"{split}_answers": turns[split] for split in SPLITS}
    facts["split_by"] = "time" if borders else "hash of the first question"
    return DataReport(num_read, sum(counts.values()), dict(sorted(dropped.items())), facts)


def clean(messages: object, max_characters: int) -> tuple[list[Message], str | None]:
    """The messages, trimmed, and why the conversation cannot be used (`None` if it can).

    Questions after the last answer are cut off: there is nothing to learn from them.
    """
    if not isinstance(messages, list) or not messages:
        return [], "empty"
    kept: list[Message] = []
    for message in messages:
        role, content = (
            (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (0, 0)
        )
        if not isinstance(role, str) or not isinstance(content, str):
            return [], "malformed message"
        if role not in ROLES:
            return [], "unknown role"
        if not content.strip():
            return [], "empty message"
        kept.append({"role": role, "content": content.strip()})
    if any(message["role"] == "system" for message in kept[1:]):
        return [], "system message not first"
    while kept and kept[-1]["role"] != "assistant":
        kept.pop()
    if not kept:
        return [], "no assistant turn"
    if not any(message["role"] == "user" for message in kept):
        return [], "no user turn"
    if sum(len(message["content"]) for message in kept) > max_characters:
        return [], "too long"
    return kept, None


def by_hash(data: ChatData, messages: list[Message]) -> str:
    """The split of a conversation: the same question is never both learnt from and asked in a test."""
    question = next(message["content"] for message in messages if message["role"] == "user")
    point = int.from_bytes(hashlib.sha256(question.lower().encode()).digest()[:8]) / 2**64
    if point < data.test_share:
        return "test"
    return "validation" if point < data.test_share + data.validation_share else "train"


def _messages(row: Mapping[str, Any], columns: ChatColumns) -> object:
    if columns.messages is not None:
        value = row[columns.messages]
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                return [value]  # malformed: counted as such
        return list(value) if value is not None else None
    turns = [("system", columns.system), ("user", columns.prompt), ("assistant", columns.response)]
    pairs = [(role, row[column]) for role, column in turns if column is not None]
    # A row without a system text is a row like others; one without prompt or response is empty.
    return [{"role": r, "content": "" if v is None else v} for r, v in pairs if not (r == "system" and not v)]


def _check_columns(columns: ChatColumns, found: list[str]) -> None:
    named = columns.model_dump(exclude_none=True)
    for field, column in named.items():
        if column not in found:
            raise DataError(
                f"the table has no column {column!r}",
                saw=", ".join(found),
                remedy=f"Name the right column in data.columns.{field}.",
                field=f"data.columns.{field}",
            )


def _seconds(value: object, column: str) -> float:
    """A time as seconds since 1970. Raises `DataError`."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = datetime.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, int | float) and value == value and not isinstance(value, bool):
        return float(value)
    raise DataError(
        f"not a time in column {column!r}",
        saw=repr(value),
        allowed="seconds since 1970, a timestamp, or text in ISO 8601",
        field="data.columns.timestamp",
    )


def _time_borders(data: ChatData, rows: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """From which second on a conversation is for validation, and from which for the test."""
    column = str(data.columns.timestamp)
    times = array("d", (_seconds(row[column], column) for row in rows))
    if not times:
        raise DataError("the table is empty", saw=str(data.path), field="data.path")
    ordered = sorted(times)
    first_test = ordered[min(len(ordered) - 1, int(len(ordered) * (1 - data.test_share)))]
    share_before = 1 - data.test_share - data.validation_share
    return ordered[int(len(ordered) * share_before)], first_test


def _by_time(data: ChatData, row: Mapping[str, Any], borders: tuple[float, float]) -> str:
    column = str(data.columns.timestamp)
    seconds = _seconds(row[column], column)
    if seconds >= borders[1]:
        return "test"
    return "validation" if seconds >= borders[0] else "train"


def _json_lines(file: Path) -> Iterator[Mapping[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


class _Writer:
    """Writes conversations to an Arrow file, some at a time."""

    def __init__(self, file: Path) -> None:
        import pyarrow as pa

        self._pa = pa
        message = pa.struct([("role", pa.string()), ("content", pa.string())])
        self._schema = pa.schema([("messages", pa.list_(message))])
        self._writer = pa.ipc.new_file(str(file), self._schema)
        self._rows: list[list[Message]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, messages: list[Message]) -> None:
        self._rows.append(messages)
        if len(self._rows) == ROWS_A_BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            batch = self._pa.record_batch(
                [self._pa.array(self._rows, self._schema.field(0).type)], self._schema
            )
            self._writer.write_batch(batch)
            self._rows = []


class Conversations:
    """The conversations of one split, read from disk as they are asked for."""

    def __init__(self, folder: Path, split: str, limit: int | None = None) -> None:
        import pyarrow as pa

        # Memory-mapped: opening reads no row, and ranks on one machine share the pages.
        table = pa.ipc.open_file(pa.memory_map(str(folder / f"{split}.arrow"))).read_all()
        self._column = table.column("messages")
        self._num = len(self._column) if limit is None else min(limit, len(self._column))

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index: int) -> list[Message]:
        if not 0 <= index < self._num:
            raise IndexError(index)
        messages: list[Message] = self._column[index].as_py()
        return messages
