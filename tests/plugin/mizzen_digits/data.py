"""Digits from a table into three files of fixed-size records, read back through a memory map.

Of ten good rows in a row the ninth is for validation and the tenth for the test: pictures have no order in
time. A record is 65 numbers of four bytes: the pixels, and the label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from mizzen.errors import DataError
from mizzen.workloads.contract import DataReport, Sources
from mizzen_digits.config import MAX_PIXEL, NUM_CLASSES, NUM_PIXELS, DigitsData

SPLITS = ("training", "validation", "test")
RECORD = np.dtype("<f4")
RECORD_LENGTH = NUM_PIXELS + 1
ROWS_AT_A_TIME = 4096

Rows = npt.NDArray[np.float64]
"""(rows, 65): what was in the table, NaN where there was no number."""


def prepare(data: DigitsData, sources: Sources, folder: Path) -> DataReport:
    """Write `training.bin`, `validation.bin` and `test.bin`. Raises `DataError` for a missing column."""
    num_read, num_kept, dropped = 0, 0, Counter[str]()
    labels = Counter[int]()
    with ExitStack() as stack:
        files = {split: stack.enter_context((folder / f"{split}.bin").open("wb")) for split in SPLITS}
        for rows in _bundled() if data.path is None else _table(data, data.path, sources):
            good, reasons = _clean(rows)
            part = (num_kept + np.arange(len(good))) % 10
            for split, chosen in zip(SPLITS, (part < 8, part == 8, part == 9), strict=True):
                files[split].write(good[chosen].astype(RECORD).tobytes())
            labels.update(good[:, -1].astype(int).tolist())
            dropped.update(reasons)
            num_read, num_kept = num_read + len(rows), num_kept + len(good)
    facts = {"rows_by_digit": {str(digit): labels[digit] for digit in range(NUM_CLASSES)}}
    return DataReport(num_read, num_kept, dict(dropped), facts)


def _bundled() -> Iterator[Rows]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    yield np.column_stack([bunch.data, bunch.target]).astype(np.float64)


def _table(data: DigitsData, path: str, sources: Sources) -> Iterator[Rows]:
    for table in sources.table(path).iter_batches(batch_size=ROWS_AT_A_TIME, batch_format="pandas"):
        missing = [name for name in data.columns if name not in table.columns]
        if missing:
            raise DataError(
                f"the table has not all columns: {', '.join(missing[:3])}{' ...' if missing[3:] else ''}",
                saw=", ".join(map(str, table.columns[:5])),
                allowed=f"{data.pixel_prefix}0 to {data.pixel_prefix}{NUM_PIXELS - 1}, {data.label}",
                remedy="Name the columns with data.label and data.pixel_prefix.",
                field="data",
            )
        yield table[data.columns].apply(_numbers).to_numpy(np.float64)


def _numbers(column: Any) -> Any:
    import pandas as pd

    return pd.to_numeric(column, errors="coerce")


def _clean(rows: Rows) -> tuple[Rows, Counter[str]]:
    """The rows that are complete and in range, and why the others went."""
    pixels, label = rows[:, :-1], rows[:, -1]
    known = np.isfinite(rows).all(axis=1)
    dark = known & ~((pixels >= 0) & (pixels <= MAX_PIXEL)).all(axis=1)
    odd = known & ~dark & ~np.isin(label, np.arange(NUM_CLASSES))
    reasons = {
        "a value is missing or no number": int((~known).sum()),
        "a pixel is not between 0 and 16": int(dark.sum()),
        "the label is not a digit": int(odd.sum()),
    }
    return rows[known & ~dark & ~odd], Counter({reason: n for reason, n in reasons.items() if n})


class Digits(Dataset[tuple[npt.NDArray[np.float32], int]]):
    """The examples of one split: an image (8, 8) and its label."""

    def __init__(self, folder: Path, split: str) -> None:
        file = folder / f"{split}.bin"
        if not file.stat().st_size:
            raise DataError(f"no row is left for {split}", allowed="at least 10 good rows")
        self._records = np.memmap(file, RECORD, mode="r").reshape(-1, RECORD_LENGTH)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], int]:
        record = self._records[index]
        return np.array(record[:-1], np.float32).reshape(8, 8), int(record[-1])

    def most_frequent(self) -> int:
        """The digit that stands most often here; the smallest of several."""
        return int(np.bincount(self._records[:, -1].astype(int)).argmax())

    def share_of(self, digit: int) -> float:
        """How often `digit` stands here, 0 to 1."""
        return float((self._records[:, -1] == digit).mean())
