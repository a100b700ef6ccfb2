from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from mizzen.errors import DataError
from mizzen.workloads.chat import samples
from mizzen.workloads.chat.data import ChatColumns, ChatData, Conversations, clean, prepare


class Table:
    """As much of a `ray.data.Dataset` as `prepare` uses."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def schema(self) -> SimpleNamespace:
        return SimpleNamespace(names=list(self._rows[0]) if self._rows else [])

    def iter_rows(self) -> Iterator[Mapping[str, Any]]:
        return iter(self._rows)


class OneTable:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def table(self, address: str) -> Table:
        return Table(self._rows)

    def sample(self, name: str) -> Path:
        raise AssertionError("no sample is asked for")


def turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def messages(folder: Path, split: str) -> list[Any]:
    kept = Conversations(folder, split)
    return [kept[i] for i in range(len(kept))]


PAIRS = ChatColumns(prompt="q", response="a")
MANY = [{"q": f"question {i}", "a": f"answer {i}"} for i in range(200)]


def test_every_row_is_kept_once_or_dropped_for_a_reason(tmp_path: Path) -> None:
    rows = [*MANY, MANY[3], {"q": "hello", "a": " "}, {"q": "hello", "a": None}]
    report = prepare(ChatData(path="x.csv", columns=PAIRS), OneTable(rows), tmp_path)
    assert (report.rows_read, report.rows_kept) == (203, 200)
    assert report.dropped == {"duplicate": 1, "empty message": 2}
    kept = [m for split in ("train", "validation", "test") for m in messages(tmp_path, split)]
    assert sorted(m[0]["content"] for m in kept) == sorted(row["q"] for row in MANY)


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        (None, "empty"),
        ([], "empty"),
        ("text", "empty"),
        (["text"], "malformed message"),
        ([{"role": "user"}], "malformed message"),
        ([{"role": "user", "content": 3}], "malformed message"),
        ([{"role": "tool", "content": "x"}], "unknown role"),
        ([{"role": "user", "content": "  "}], "empty message"),
        ([{"role": "user", "content": "x"}], "no assistant turn"),
        ([{"role": "assistant", "content": "x"}], "no user turn"),
        ([*turn("a", "b"), {"role": "system", "content": "x"}, *turn("a", "b")], "system message not first"),
        (turn("a" * 60, "b" * 60), "too long"),
    ],
)
def test_an_unusable_conversation_is_dropped_with_its_reason(conversation: object, reason: str) -> None:
    assert clean(conversation, max_characters=100) == (clean(conversation, 100)[0], reason)


def test_a_question_without_an_answer_is_cut_off_the_end() -> None:
    assert clean([*turn("a", " b "), {"role": "user", "content": "c"}], 100) == (turn("a", "b"), None)


def test_the_same_question_never_stands_on_both_sides_of_the_split(tmp_path: Path) -> None:
    rows = [{"m": turn(f"Question {i % 40}", f"answer {i}")} for i in range(200)]
    prepare(ChatData(path="x.jsonl", columns=ChatColumns(messages="m")), OneTable(rows), tmp_path)
    asked = [{m[0]["content"] for m in messages(tmp_path, s)} for s in ("train", "validation", "test")]
    assert not asked[0] & asked[1] and not asked[1] & asked[2] and not asked[0] & asked[2]


def test_with_a_timestamp_the_newest_conversations_are_held_out(tmp_path: Path) -> None:
    columns = ChatColumns(prompt="q", response="a", timestamp="t")
    rows = [{**row, "t": f"2026-01-01T{i // 60:02}:{i % 60:02}:00"} for i, row in enumerate(MANY)]
    report = prepare(ChatData(path="x.csv", columns=columns), OneTable(rows[::-1]), tmp_path)
    numbers = [
        sorted(int(m[0]["content"].split()[1]) for m in messages(tmp_path, split))
        for split in ("train", "validation", "test")
    ]
    assert numbers == [list(range(160)), list(range(160, 180)), list(range(180, 200))]
    assert report.facts["split_by"] == "time"


def test_messages_may_be_json_text_as_in_csv(tmp_path: Path) -> None:
    rows = [{"messages": json.dumps(turn(f"q{i}", "a"))} for i in range(60)] + [{"messages": "{no json"}]
    report = prepare(ChatData(path="x.csv"), OneTable(rows), tmp_path)
    assert report.rows_kept == 60
    assert report.dropped == {"malformed message": 1}


def test_a_system_text_stands_before_the_prompt(tmp_path: Path) -> None:
    rows = [{**row, "s": "Be brief." if i % 2 else None} for i, row in enumerate(MANY)]
    prepare(
        ChatData(path="x", columns=ChatColumns(prompt="q", response="a", system="s")),
        OneTable(rows),
        tmp_path,
    )
    roles = {tuple(m["role"] for m in conversation) for conversation in messages(tmp_path, "train")}
    assert roles == {("system", "user", "assistant"), ("user", "assistant")}


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        prepare(ChatData(path="x", columns=PAIRS), OneTable(MANY), folder)
    for split in ("train", "validation", "test"):
        first, second = ((folder / f"{split}.arrow").read_bytes() for folder in folders)
        assert first == second


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'question'.*saw q, a"):
        prepare(
            ChatData(path="x", columns=ChatColumns(prompt="question", response="a")), OneTable(MANY), tmp_path
        )


def test_too_few_conversations_for_a_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no conversation is left for validation and test"):
        prepare(ChatData(path="x", columns=PAIRS), OneTable([{"q": "question 5", "a": "b"}]), tmp_path)


def test_a_bad_time_is_shown(tmp_path: Path) -> None:
    columns = ChatColumns(prompt="q", response="a", timestamp="t")
    with pytest.raises(DataError, match="not a time in column 't'; saw 'yesterday'"):
        prepare(ChatData(path="x", columns=columns), OneTable([{**MANY[0], "t": "yesterday"}]), tmp_path)


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"dataset": "chatterbot-corpus", "path": "x"},
        {"dataset": "chatterbot-corpus", "columns": {"messages": "m"}},
        {"path": "x", "columns": {"prompt": "q"}},
        {"path": "x", "columns": {"prompt": "q", "response": "a", "messages": "m"}},
        {"path": "x", "columns": {"messages": "m", "system": "s"}},
        {"path": "x", "validation_share": 0.5, "test_share": 0.5},
        {"dataset": "another"},
    ],
)
def test_contradictory_sections_are_refused(section: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatData.model_validate(section)


def test_the_samples_alternatives_become_conversations_of_their_own(tmp_path: Path) -> None:
    from zipfile import ZipFile

    wheel = tmp_path / "corpus.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr(f"{samples.ENGLISH}computers.yml", "conversations:\n- [Q, A1, A2]\n- just a text\n")
        archive.writestr(f"{samples.ENGLISH}health.yml", "conversations:\n- [u1, a1, u2, a2, u3]\n")
    samples.unpack_corpus(wheel, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / samples.CONVERSATIONS).read_text().splitlines()]
    assert [[m["content"] for m in line["messages"]] for line in lines] == [
        ["Q", "A1"],
        ["Q", "A2"],
        ["u1", "a1", "u2", "a2"],
    ]
