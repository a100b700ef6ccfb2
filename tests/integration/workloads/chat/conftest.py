"""The tiny model and the knowledge base of the unit tests, for these tests too."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

UNIT = Path(__file__).resolve().parents[3] / "unit" / "workloads" / "chat" / "conftest.py"

_spec = spec_from_file_location("chat_unit_conftest", UNIT)
assert _spec is not None and _spec.loader is not None
_unit = module_from_spec(_spec)
_spec.loader.exec_module(_unit)

tiny_base = _unit.tiny_base
tiny_model = _unit.tiny_model
tiny_export = _unit.tiny_export
word_base = _unit.word_base
