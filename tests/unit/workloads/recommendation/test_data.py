"""Cleaning, the order of ties, and what is held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mizzen.errors import DataError
from mizzen.workloads.contract import Prepared
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.histories import Histories

Prepare = Callable[..., Prepared]


def table(*rows: tuple[Any, Any, Any]) -> pa.Table:
    users, items, times = zip(*rows, strict=True)
    return pa.table({"user": list(users), "item": list(items), "timestamp": list(times)})


def walk(user: str, items: str, start: int = 0) -> list[tuple[str, str, int]]:
    return [(user, item, start + step) for step, item in enumerate(items)]


def histories(prepared: Prepared) -> dict[str, list[str]]:
    """The item ids of each user, as they were written."""
    ids = Catalogue.read(prepared.folder / "items.arrow").item_ids
    read = Histories(prepared.folder / "histories.arrow")
    return {read.user(row): [ids[n - 1] for n in read.items(row)] for row in range(len(read))}


def test_every_row_that_cannot_be_used_is_counted_with_its_reason(prepare: Prepare) -> None:
    rows = pa.table(
        {
            "user": [*"aaaaaa", "a", None, "  ", *"aa", "a", "b", "b"],
            "item": [*"uvwxyz", "u", "u", "u", None, "", "q", "u", "v"],
            "timestamp": [*"123456", "1", "7", "7", "7", "7", "soon", "1", "2"],
        }
    )
    report = prepare({"met.csv": [rows]}).report
    assert (report.rows_read, report.rows_kept) == (14, 6)
    assert report.dropped == {
        "item is missing": 2,
        "repeats an earlier row": 1,
        "timestamp is missing or unreadable": 1,
        "user is missing": 2,
        "user with fewer than min_interactions rows": 2,
    }
    assert report.rows_read == report.rows_kept + sum(report.dropped.values())


def test_a_row_below_min_rating_is_dropped_and_so_is_one_without_rating(prepare: Prepare) -> None:
    rows = table(*walk("a", "stuvwxyz")).append_column(
        "stars", pa.array([5.0, 4.0, None, 4.0, 3.9, 4.0, 4.0, 5.0])
    )
    prepared = prepare({"met.csv": [rows]}, columns={"rating": "stars"}, min_rating=4)
    assert prepared.report.dropped == {"rating below min_rating": 2}
    assert histories(prepared) == {"a": list("stvxyz"[:2] + "vxyz")}


def test_rows_count_by_their_type_and_a_rating_by_its_value(prepare: Prepare) -> None:
    kinds = ["click", "rating", "rating", "rating", "impression", None, "purchase", "click"]
    rows = (
        table(*walk("a", "stuvwxyz"))
        .append_column("what", pa.array(kinds))
        .append_column("value", pa.array([None, 4.0, 3.0, None, None, 5.0, 1.0, 0.0]))
    )
    prepared = prepare(
        {"met.csv": [rows]},
        columns={"type": "what", "rating": "value"},
        types={"click": None, "purchase": None, "rating": 4},
        min_interactions=3,
    )
    assert histories(prepared) == {"a": list("styz")}
    assert prepared.report.dropped == {
        "rating below that of its type in data.types": 2,
        "type is not among data.types": 2,
    }


def test_of_rows_with_one_event_id_a_user_keeps_the_earliest(prepare: Prepare) -> None:
    rows = table(*walk("a", "vwxyz"), ("a", "v", 7), ("b", "q", 3), *walk("b", "rst", 5)).append_column(
        "event_id", pa.array(["1", "2", None, None, "3", "1", "1", None, "2", "3"])
    )
    prepared = prepare({"met.csv": [rows]}, columns={"event": "event_id"}, min_interactions=3)
    assert histories(prepared) == {"a": list("vwxyz"), "b": list("qrst")}
    assert prepared.report.dropped == {"repeats the event id of an earlier row": 1}


def test_only_the_latest_rows_of_a_long_history_are_kept(prepare: Prepare) -> None:
    prepared = prepare({"met.csv": [table(*walk("a", "stuvwxyz"))]}, max_history=5)
    assert histories(prepared) == {"a": list("vwxyz")}
    assert prepared.report.dropped == {"older than the user's last max_history rows": 3}


def test_rows_with_the_same_time_stay_in_the_order_of_the_file_across_blocks(prepare: Prepare) -> None:
    first = table(("a", "q", 5), ("b", "z", 1), ("a", "p", 5), ("a", "r", 1))
    second = table(("a", "o", 5), ("b", "y", 1), ("a", "n", 5), ("b", "x", 1), ("b", "w", 1), ("b", "v", 1))
    prepared = prepare({"met.csv": [first, second]})
    assert histories(prepared) == {"a": list("rqpon"), "b": list("zyxwv")}
    assert prepared.report.facts["users_whose_last_two_times_tie"] == 2


def test_the_same_rows_give_the_same_bytes_however_they_are_cut_into_blocks(
    prepare: Prepare, world_tables: dict[str, list[pa.Table]]
) -> None:
    def content(folder: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}

    rows = pa.concat_tables(world_tables["met.csv"])
    cut = [rows.slice(start, 7) for start in range(0, rows.num_rows, 7)]
    whole = content(prepare({"met.csv": [rows]}).folder)
    assert sorted(whole) == ["histories.arrow", "items.arrow", "meta.json"]
    assert content(prepare({"met.csv": cut}).folder) == whole


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (["1970-01-01T00:00:02Z", "1970-01-01 00:00:01", "1970-01-01T02:00:00+02:00"], "s"),
        ([2, 1, 0], "s"),
        ([2.5, 1.5, -0.5], "s"),
        (["2", "1", "0"], "ms"),
        ([2_000_000_000_000_000_002, 2_000_000_000_000_000_001, 2_000_000_000_000_000_000], "us"),
        (pa.array([2, 1, 0], pa.timestamp("ns")), "s"),
        (pa.array([2, 1, 0], pa.timestamp("s", "Europe/Berlin")), "s"),
        (pa.array([2, 1, 0], pa.date32()), "s"),
        (pa.array(["2", "1", "0"]).dictionary_encode(), "s"),
    ],
)
def test_times_are_read_from_numbers_texts_and_dates(prepare: Prepare, times: Any, unit: str) -> None:
    rows = pa.table({"user": ["a"] * 3, "item": ["x", "y", "z"], "timestamp": times})
    expected = (
        ["x", "y", "z"]
        if isinstance(times, pa.Array) and times.type == pa.timestamp("ns")
        else ["z", "y", "x"]
    )
    assert histories(prepare({"met.csv": [rows]}, min_interactions=3, timestamp_unit=unit)) == {"a": expected}


@pytest.mark.parametrize(
    "times",
    [[None, 1, 2, 3], [float("nan"), 1.0, 2.0, 3.0], [float("inf"), 1.0, 2.0, 3.0], [2**62, 1, 2, 3]]
    + [[text, "1", "2", "3"] for text in ("", "yesterday", "2020-13-01", "1e300")],
)
def test_a_time_that_cannot_be_read_costs_its_row_only(prepare: Prepare, times: Sequence[Any]) -> None:
    rows = pa.table({"user": ["a"] * 4, "item": list("wxyz"), "timestamp": times})
    prepared = prepare({"met.csv": [rows]}, min_interactions=3)
    assert prepared.report.dropped == {"timestamp is missing or unreadable": 1}
    assert histories(prepared) == {"a": ["x", "y", "z"]}


@pytest.mark.parametrize(
    "users",
    [
        pa.array([7, 7, 7]),
        pa.array([7.0, 7.0, 7.0]),
        pa.array(["7", " 7", "7 "]),
        pa.array(["7", "7", "7"], pa.large_string()),
        pa.array(["7", "7", "7"]).dictionary_encode(),
    ],
)
def test_ids_are_texts_whatever_the_file_says(prepare: Prepare, users: pa.Array) -> None:
    rows = pa.table({"user": users, "item": ["x", "y", "z"], "timestamp": [1, 2, 3]})
    assert list(histories(prepare({"met.csv": [rows]}, min_interactions=3))) == ["7"]


def test_ids_may_change_their_type_from_block_to_block(prepare: Prepare) -> None:
    """A CSV reader that looks at a block at a time takes 1, 2 for numbers and 1, b for texts."""
    first = table((1, 10, 1), (1, 11, 2))
    second = table(("1", "x", 3))
    assert histories(prepare({"met.csv": [first, second]}, min_interactions=3)) == {"1": ["10", "11", "x"]}


def test_a_column_that_is_not_there_is_named_with_those_that_are(prepare: Prepare) -> None:
    with pytest.raises(
        DataError, match=r"no column 'customer'; saw user, item, timestamp.*data\.columns\.user"
    ):
        prepare({"met.csv": [table(*walk("a", "vwxyz"))]}, columns={"user": "customer"})


def test_a_column_of_lists_is_no_column_of_ids(prepare: Prepare) -> None:
    rows = pa.table({"user": [["a"]] * 3, "item": ["x", "y", "z"], "timestamp": [1, 2, 3]})
    with pytest.raises(DataError, match="cannot hold user ids; saw list"):
        prepare({"met.csv": [rows]})


def test_an_empty_table_is_refused(prepare: Prepare) -> None:
    with pytest.raises(DataError, match="the interaction table is empty"):
        prepare({"met.csv": []})


def test_a_table_of_which_nothing_is_left_is_refused_with_the_reasons(prepare: Prepare) -> None:
    with pytest.raises(DataError, match=r"saw 3 rows, 0 users.*fewer than min_interactions rows: 3"):
        prepare({"met.csv": [table(*walk("a", "xyz"))]})


def test_items_are_numbered_by_popularity_in_training_and_held_out_items_do_not_count(
    prepare: Prepare,
) -> None:
    rows = table(*walk("a", "xxyzz"), *walk("b", "xwyzz"))
    prepared = prepare({"met.csv": [rows]})
    items = Catalogue.read(prepared.folder / "items.arrow")
    assert items.item_ids == ["x", "y", "w", "z"]
    assert items.count("validation").tolist() == [3, 2, 1, 0]
    assert items.count("test").tolist() == [3, 2, 1, 2]
    assert items.count("end").tolist() == [3, 2, 1, 4]


def test_every_user_is_found_and_nobody_else(
    prepare: Prepare, world_tables: dict[str, list[pa.Table]]
) -> None:
    read = Histories(prepare(world_tables).folder / "histories.arrow")
    assert len(read) == 40
    assert [read.find(read.user(row)) for row in range(40)] == list(range(40))
    assert read.lengths().tolist() == [len(read.items(row)) for row in range(40)]
    assert all(read.find(nobody) is None for nobody in ("", "user 40", "user", "User 1", "ü"))


class TestItemTable:
    """Attributes of the items."""

    def prepared(self, prepare: Prepare, items: list[pa.Table], **columns: Any) -> Prepared:
        tables = {"met.csv": [table(*walk("a", "vwxyz"))], "i": items}
        return prepare(tables, items="i", item_columns={"item": "id", **columns})

    def test_attributes_are_aligned_to_items_and_the_first_row_of_an_item_counts(
        self, prepare: Prepare
    ) -> None:
        first = pa.table({"id": ["x", "nobody met this"], "year": [1990, 1]})
        second = pa.table({"id": ["v", "x"], "year": [1991, 2]})
        prepared = self.prepared(prepare, [first, second], attributes=["year"])
        items = Catalogue.read(prepared.folder / "items.arrow")
        years = dict(zip(items.item_ids, items.attributes["year"].to_pylist(), strict=True))
        assert years == {"v": 1991, "w": None, "x": 1990, "y": None, "z": None}
        assert prepared.report.facts["items_without_attributes"] == 3
        assert prepared.report.facts["item_rows_of_items_without_interactions_or_repeated"] == 2

    def test_a_text_with_several_values_is_split(self, prepare: Prepare) -> None:
        rows = pa.table({"id": ["v", "w", "x"], "tags": ["a | b", "", None]})
        prepared = self.prepared(prepare, [rows], attributes=["tags"], separators={"tags": "|"})
        items = Catalogue.read(prepared.folder / "items.arrow")
        tags = dict(zip(items.item_ids, items.attributes["tags"].to_pylist(), strict=True))
        assert tags == {"v": ["a", "b"], "w": [], "x": None, "y": None, "z": None}

    def test_a_missing_attribute_is_named(self, prepare: Prepare) -> None:
        with pytest.raises(DataError, match="the item table has no column 'colour'; saw id"):
            self.prepared(prepare, [pa.table({"id": ["v"]})], attributes=["colour"])

    def test_an_attribute_that_cannot_be_shown_is_refused(self, prepare: Prepare) -> None:
        rows = pa.table({"id": ["v"], "size": pa.array([{"h": 1}])})
        with pytest.raises(DataError, match="the attribute 'size' of the item table cannot be used"):
            self.prepared(prepare, [rows], attributes=["size"])
