"""Series on disk: written one after the other, read through memory maps.

Each series lies on a regular grid of steps, from its first to its last observation; a step without an
observation is NaN. `target.f64` holds all series end to end, `past.f32` and `known.f32` the covariates of
the same steps; `offsets.i64` says where each series starts, `starts.i64` at which time (seconds since
1970, UTC). No row is ever held in memory beyond the series that is being written.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from mizzen.workloads.contract import Prepared
from mizzen.workloads.forecasting.frequency import Frequency

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Meta:
    """What training, export and serving must know of prepared series."""

    frequency: Frequency
    horizon: int
    context_length: int
    min_context: int
    seasonality: tuple[int, ...]
    test_windows: int
    validation_windows: int
    stride: int
    train_stride: int
    scaling: str
    calendar: tuple[str, ...]
    past_names: tuple[str, ...]
    known_names: tuple[str, ...]
    past_mean: tuple[float, ...] = ()
    past_deviation: tuple[float, ...] = ()
    known_mean: tuple[float, ...] = ()
    known_deviation: tuple[float, ...] = ()

    @property
    def held_out(self) -> int:
        """Steps at the end of each series that belong to test windows."""
        return self.horizon + (self.test_windows - 1) * self.stride

    def origins(self, length: int, split: str) -> list[int]:
        """Origins of the held-out windows of a series, rising; an origin is the first step forecast.

        Origins with too short a past are left out.
        """
        last = length - self.horizon
        count = self.test_windows
        if split == "validation":
            last, count = length - self.held_out - self.horizon, self.validation_windows
        origins = [last - i * self.stride for i in reversed(range(count))]
        return [origin for origin in origins if origin >= self.min_context]

    def training_end(self, length: int) -> int:
        """The first step of a series that training must not see."""
        end = length - self.held_out - self.horizon - (self.validation_windows - 1) * self.stride
        return max(end, 0)

    def to_json(self) -> str:
        """For a file; `from_json` reads it."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Meta:
        """What `to_json` wrote."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()
        }
        return cls(**{**fields, "frequency": Frequency(**fields["frequency"])})


@dataclass(frozen=True)
class Steps:
    """One series on its grid: target (T,), past covariates (T, P), known covariates (T, K)."""

    name: str
    start: np.datetime64
    target: Array
    past: Array
    known: Array


class SeriesWriter:
    """Appends series to the files in `folder`; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = [(folder / name).open("wb") for name in ("target.f64", "past.f32", "known.f32")]
        self._names = (folder / "names.jsonl").open("w", encoding="utf-8")
        self._offsets = [0]
        self._starts: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()
        self._names.close()
        if error is None:
            (self._folder / "offsets.i64").write_bytes(np.array(self._offsets, dtype="<i8").tobytes())
            (self._folder / "starts.i64").write_bytes(np.array(self._starts, dtype="<i8").tobytes())

    def append(self, series: Steps) -> None:
        """Write one series."""
        self._files[0].write(series.target.astype("<f8").tobytes())
        self._files[1].write(series.past.astype("<f4").tobytes())
        self._files[2].write(series.known.astype("<f4").tobytes())
        self._names.write(json.dumps(series.name) + "\n")
        self._offsets.append(self._offsets[-1] + len(series.target))
        self._starts.append(int(series.start.astype("datetime64[s]").astype(np.int64)))


class Store:
    """The prepared series of one folder, read as they are asked for."""

    def __init__(self, prepared: Prepared) -> None:
        self._folder = prepared.folder
        self.meta = Meta.from_json((prepared.folder / "meta.json").read_text(encoding="utf-8"))
        self.offsets: Array = np.fromfile(prepared.folder / "offsets.i64", dtype="<i8")
        self.starts: Array = np.fromfile(prepared.folder / "starts.i64", dtype="<i8")

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> Array:
        """Steps of each series."""
        return np.diff(self.offsets)

    @cached_property
    def _target(self) -> Array:
        return np.memmap(self._folder / "target.f64", dtype="<f8", mode="r")

    @cached_property
    def _past(self) -> Array:
        return self._covariates("past.f32", len(self.meta.past_names))

    @cached_property
    def _known(self) -> Array:
        return self._covariates("known.f32", len(self.meta.known_names))

    def _covariates(self, name: str, width: int) -> Array:
        rows = int(self.offsets[-1])
        if width == 0:
            return np.zeros((rows, 0), dtype=np.float32)
        return np.memmap(self._folder / name, dtype="<f4", mode="r", shape=(rows, width))

    def start(self, series: int) -> np.datetime64:
        """The time of a series' first step."""
        return np.datetime64(int(self.starts[series]), "s")

    def target(self, series: int, first: int, last: int) -> Array:
        """Steps `first` to `last - 1` of a series' target, (T,)."""
        offset = int(self.offsets[series])
        return np.asarray(self._target[offset + first : offset + last])

    def past(self, series: int, first: int, last: int) -> Array:
        """The same of its past covariates, (T, P), as they stood in the table."""
        offset = int(self.offsets[series])
        return np.asarray(self._past[offset + first : offset + last])

    def known(self, series: int, first: int, last: int) -> Array:
        """The same of its known covariates, (T, K)."""
        offset = int(self.offsets[series])
        return np.asarray(self._known[offset + first : offset + last])
