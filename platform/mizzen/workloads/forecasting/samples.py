"""The two sample data sets: where they come from, and how their files become series.

The M1 competition's yearly series (Makridakis et al. 1982) come in the package aeon, Taylor's half-hourly
electricity demand of England and Wales (2003) in the package pmdarima. Neither package is installed or
imported: the one file wanted is taken out of the wheel, and read as data.
"""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mizzen.errors import DataError
from mizzen.workloads.contract import Sample, Wheel

_M1 = "aeon/datasets/data/m1_yearly_dataset/m1_yearly_dataset.tsf"
_TAYLOR = "pmdarima/datasets/taylor.py"


@dataclass(frozen=True)
class Facts:
    """What a sample says of itself, so that a job file need not."""

    frequency: str
    horizon: int
    seasonality: tuple[int, ...]


FACTS = {
    "m1-yearly": Facts("P1Y", 6, ()),
    "taylor": Facts("PT30M", 48, (48, 336)),
}


def samples() -> Mapping[str, Sample]:
    """The samples by name."""
    return {
        "m1-yearly": Sample(
            description="181 yearly economic series of the M1 forecasting competition (4,515 observations)",
            license="the packaging, aeon, is BSD-3-Clause; the series were published for research",
            wheel=Wheel("aeon", "1.6.0", "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409"),
            unpack=lambda wheel, folder: _take(wheel, _M1, folder),
        ),
        "taylor": Sample(
            description="half-hourly electricity demand of England and Wales, 5 June to 27 August 2000",
            license="the packaging, pmdarima, is MIT; the series was published for research",
            wheel=Wheel(
                "pmdarima",
                "2.1.1",
                "e8148ff1f4cdb9a07164247eb3e6dddc1baef6e226d38528bd3fdf5d160f8dee",
                tags="cp311-cp311-manylinux_2_17_x86_64",
            ),
            unpack=lambda wheel, folder: _take(wheel, _TAYLOR, folder),
        ),
    }


def _take(wheel: Path, member: str, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder / Path(member).name).write_bytes(archive.read(member))


def read(name: str, folder: Path) -> Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Each series of the sample in `folder`: its name, its times (datetime64[s]), its values (float64).

    Raises `DataError` if the file is not as expected.
    """
    return _read_m1(folder / Path(_M1).name) if name == "m1-yearly" else _read_taylor(folder)


def _read_m1(file: Path) -> Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """The `.tsf` format of the Monash archive: `name:start:value,value,...`, missing values as `?`."""
    for number, line in enumerate(file.read_text(encoding="latin-1").splitlines(), 1):
        if not line.strip() or line[0] in "#@":
            continue
        parts = line.strip().split(":")
        try:
            name, start, text = parts
            values = np.array([np.nan if v == "?" else float(v) for v in text.split(",")])
            first_year = np.datetime64(start[:4], "Y")
        except ValueError:
            raise DataError(
                f"line {number} of {file.name} is no series", saw=line[:60], allowed="name:start:values"
            ) from None
        years = first_year + np.arange(len(values)).astype("timedelta64[Y]")
        yield name, years.astype("datetime64[s]"), values


def _read_taylor(folder: Path) -> Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """The numbers in the first argument of `np.array([...])`; the file is parsed, never run."""
    file = folder / Path(_TAYLOR).name
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lists = [node for node in ast.walk(tree) if isinstance(node, ast.List) and len(node.elts) > 1_000]
    if len(lists) != 1:
        raise DataError(f"{file.name} does not hold one list of numbers", saw=f"{len(lists)} lists")
    values = np.array(ast.literal_eval(lists[0]), dtype=np.float64)
    start = np.datetime64("2000-06-05T00:00:00", "s")
    yield "demand", start + (np.arange(len(values)) * 1_800).astype("timedelta64[s]"), values
