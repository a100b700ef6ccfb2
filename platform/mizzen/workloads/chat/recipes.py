"""The ready job files of the chat workload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mizzen.workloads.contract import Recipe

_JOBS = Path(__file__).parent / "jobs"

RECIPES: Mapping[str, Recipe] = {
    "quickstart": Recipe(_JOBS / "quickstart.yaml", "A few steps of fine-tuning on the sample dialogues"),
    "lora": Recipe(_JOBS / "lora.yaml", "Low-rank adapters, four passes over the sample dialogues"),
    "base": Recipe(_JOBS / "base.yaml", "The base model as it is, through the same gate"),
}
