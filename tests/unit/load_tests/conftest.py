"""The load tests are scripts beside the package: their folder is where they find each other."""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "load_tests"
sys.path += [str(FOLDER), str(FOLDER / "quality"), str(FOLDER / "training")]
