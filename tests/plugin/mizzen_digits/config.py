"""What a job file may say in its `data` and `model` sections."""

from __future__ import annotations

from pydantic import Field

from mizzen.workloads.contract import Fields

NUM_PIXELS = 64
NUM_CLASSES = 10
MAX_PIXEL = 16.0


class DigitsData(Fields):
    """Which digits: scikit-learn's own, or a table of one's own."""

    path: str | None = None
    """A CSV, Parquet or JSON Lines file or folder; default: the digits that scikit-learn bundles."""
    label: str = "label"
    """The column with the digit, 0 to 9."""
    pixel_prefix: str = "pixel_"
    """The columns `pixel_0` to `pixel_63` hold the pixels row by row, 0 (white) to 16 (black)."""

    @property
    def columns(self) -> list[str]:
        """All columns that are read: the pixels, then the label."""
        return [*(f"{self.pixel_prefix}{number}" for number in range(NUM_PIXELS)), self.label]


class DigitsModel(Fields):
    """The size of the network."""

    num_channels: int = Field(16, ge=1, le=256)
    hidden_size: int = Field(64, ge=1, le=4096)
