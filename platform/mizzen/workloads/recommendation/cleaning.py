"""Makes rows of an interaction table uniform, and says of each row why it cannot be used.

It looks at one batch of rows at a time, so it runs wherever the batch is. What needs a look at all rows of
a user (duplicates, users with too few of them) is in `data`.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mizzen.workloads.recommendation.config import InteractionColumns

KEPT = "kept"
REASONS = (
    KEPT,
    "user is missing",
    "item is missing",
    "timestamp is missing or unreadable",
    "rating below min_rating",
    "type is not among data.types",
    "rating below that of its type in data.types",
)
"""What the numbers in the `reason` column mean."""

TICKS_PER_UNIT = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
LATEST_US = 2**62
"""Times are whole microseconds since 1970; anything beyond this is taken as unreadable."""


def user_key(user: str) -> int:
    """Where a user stands among all: the first 8 bytes of the BLAKE2b hash of the id."""
    return int.from_bytes(blake2b(user.encode(), digest_size=8).digest(), "big")


def clean(
    rows: pa.Table,
    columns: InteractionColumns,
    timestamp_unit: str,
    min_rating: float | None,
    types: Mapping[str, float | None] | None,
) -> pa.Table:
    """`key` uint64, `user` and `item` string, `time_us` int64, `reason` int8; as many rows as given.

    With `columns.event`, also `event` string.
    """
    users, items = ids(_column(rows, columns.user)), ids(_column(rows, columns.item))
    time_us, readable = _times(_column(rows, columns.timestamp), timestamp_unit)
    reason = np.zeros(rows.num_rows, dtype=np.int8)
    if min_rating is not None and columns.rating is not None:
        rating = _numbers(_column(rows, columns.rating))
        reason[~(rating >= min_rating)] = 4
    if types is not None and columns.type is not None:
        rating = _column(rows, columns.rating) if columns.rating is not None else pa.nulls(rows.num_rows)
        _judge_types(ids(_column(rows, columns.type)), _numbers(rating), types, reason)
    reason[~readable] = 3
    reason[items.is_null().to_numpy(zero_copy_only=False)] = 2
    reason[users.is_null().to_numpy(zero_copy_only=False)] = 1
    cleaned = {"key": _keys(users), "user": users, "item": items, "time_us": time_us, "reason": reason}
    if columns.event is not None:
        cleaned["event"] = ids(_column(rows, columns.event))
    return pa.table(cleaned)


def _judge_types(
    kinds: pa.StringArray, rating: np.ndarray, types: Mapping[str, float | None], reason: np.ndarray
) -> None:
    """Write into `reason` what is wrong with the type of a row, or with its rating."""
    wanted = pa.array(list(types), pa.string())
    number = pc.fill_null(pc.index_in(kinds, wanted), -1).to_numpy(zero_copy_only=False)
    least = np.array([-np.inf if one is None else one for one in types.values()])
    has_least = np.array([one is not None for one in types.values()])
    # A missing rating is NaN, and no comparison with it holds.
    reason[has_least[number] & ~(rating >= least[number])] = 6
    reason[number < 0] = 5


def ids(values: pa.Array) -> pa.StringArray:
    """Ids as texts without space around them; empty ones are null. A whole float loses its fraction."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return ids(values.cast(kind.value_type))
    if pa.types.is_floating(kind):
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
        whole = np.isfinite(numbers) & (np.abs(numbers) < 2**53) & (np.trunc(numbers) == numbers)
        integers = pa.array(np.where(whole, numbers, 0).astype(np.int64)).cast(pa.string())
        texts = pc.if_else(pa.array(whole), integers, values.cast(pa.string()))
        return pc.if_else(pa.array(np.isfinite(numbers)), texts, pa.scalar(None, pa.string()))
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return pa.nulls(len(values), pa.string())
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def usable_as_id(kind: pa.DataType) -> bool:
    """Whether `ids` can read a column of this type."""
    if pa.types.is_dictionary(kind):
        return usable_as_id(kind.value_type)
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_large_string)
    return bool(pa.types.is_null(kind) or any(test(kind) for test in tests))


def _column(rows: pa.Table, name: str) -> pa.Array:
    # In JSON Lines a stretch of rows may lack a field altogether: then it is missing in all of them.
    if name not in rows.column_names:
        return pa.nulls(rows.num_rows)
    column = rows.column(name)
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _keys(users: pa.StringArray) -> pa.Array:
    encoded = users.dictionary_encode()
    table = np.array([user_key(user) for user in encoded.dictionary.to_pylist()] or [0], dtype=np.uint64)
    return pa.array(table[pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)])


def _times(values: pa.Array, unit: str) -> tuple[pa.Array, np.ndarray]:
    """Microseconds since 1970, and which of them could be read."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _times(values.cast(kind.value_type), unit)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        time_us = values.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
        return pc.fill_null(time_us, 0), pc.is_valid(time_us).to_numpy(zero_copy_only=False)
    if pa.types.is_integer(kind) and unit in ("s", "us", "ms"):
        return _exact_times(values, int(TICKS_PER_UNIT[unit]))
    ticks = _numbers(values) * TICKS_PER_UNIT[unit]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = pd.Series(values.to_pylist(), dtype=object).where(np.isnan(ticks))
        parsed = pd.to_datetime(texts, errors="coerce", utc=True, format="ISO8601")
        dated = parsed.notna().to_numpy()
        ticks[dated] = parsed[dated].dt.as_unit("us").astype(np.int64).to_numpy()
    readable = np.abs(ticks) < LATEST_US
    return pa.array(np.where(readable, ticks, 0).astype(np.int64)), readable


def _exact_times(values: pa.Array, factor: int) -> tuple[pa.Array, np.ndarray]:
    # Whole numbers stay whole: as floats, times in microseconds would lose their last digits.
    numbers = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
    readable = pc.is_valid(values).to_numpy(zero_copy_only=False)
    limit = LATEST_US // factor
    readable = readable & (numbers < limit) & (numbers > -limit if numbers.dtype.kind == "i" else True)
    return pa.array(np.where(readable, numbers, 0).astype(np.int64) * factor), readable


def _numbers(values: pa.Array) -> np.ndarray:
    """As float64; NaN where there is no number."""
    numbers = pd.to_numeric(pd.Series(values.to_pylist(), dtype=object), errors="coerce")
    return np.array(numbers, dtype=np.float64)
