"""What a store's work leaves in the metrics, from a process that keeps some and from one that does not."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mizzen import metrics, totals
from mizzen.store.manifest import Draft, GateReport, ParityResult, QualityResult
from mizzen.store.measured import failed_checks
from mizzen.store.store import ModelStore

PUBLISH = """
import json, sys
from pathlib import Path
from mizzen import recording
from mizzen.errors import GateError, NotFoundError, StoreError
from mizzen.store import measured
from mizzen.store.manifest import Draft
from mizzen.store.store import ModelStore

root, export, drafts = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
recording.begin()
measured.expect("films")
store = ModelStore(f"file://{root}")
for draft in drafts:
    store.publish(Draft.model_validate(draft), export)
store.set_alias("films", 1, "production")
try:
    store.set_alias("films", 2, "production")  # its gate failed
except GateError:
    pass
try:
    store.manifest("films", 9)
except NotFoundError:
    pass
written = store.objects.read("models/films/versions/00000001.json")
(Path(root) / "broken").write_bytes(b"")
try:
    store.objects.read("broken/below")  # a file where a folder should be
except StoreError:
    pass
"""
READ = """
import sys
from mizzen.store.store import ModelStore
store = ModelStore(f"file://{sys.argv[1]}")
assert store.models() == ["films"]
store.set_alias("films", 1, "candidate")
"""


def gate(*, parity: bool | None = True, quality: bool | None = None, judged: bool = True) -> GateReport:
    """A report with these results; None: there is none of the kind."""
    probes = () if parity is None else (
        ParityResult(
            probe="batch", max_abs=0.25 if parity else math.inf, mean_abs=0.1,
            tolerance=0.5 if judged else None, passed=parity,
        ),
    )  # fmt: skip
    result = None if quality is None else QualityResult(
        metric="ndcg", higher_is_better=True, reference=0.5, exported=0.4, relative_loss=0.2,
        limit=0.3 if quality else 0.1, passed=quality,
    )  # fmt: skip
    passed = parity is not False and quality is not False and (quality is not None or judged)
    return GateReport(
        parity=probes, quality=result, precision="int8", provider="CPUExecutionProvider", passed=passed
    )


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (gate(), []),
        (gate(quality=True), []),
        (gate(parity=False), ["parity"]),
        (gate(quality=False), ["quality"]),
        (gate(parity=False, quality=False), ["parity", "quality"]),
        (gate(judged=False), ["nothing_judged"]),
        (gate(parity=None, judged=False), ["nothing_judged"]),
    ],
)
def test_the_checks_that_refused_a_version_are_named(report: GateReport, expected: list[str]) -> None:
    assert failed_checks(report) == expected


def run(home: Path, code: str, *arguments: str) -> None:
    environ = {**os.environ, "MIZZEN_HOME": str(home)}
    subprocess.run([sys.executable, "-c", code, *arguments], env=environ, check=True, timeout=60)


def test_all_that_a_store_is_asked_for_is_counted(tmp_path: Path, make_draft: Any, export: Path) -> None:
    def draft(report: GateReport) -> dict[str, Any]:
        changed: Draft = make_draft().model_copy(update={"gate": report})
        return changed.model_dump(mode="json")

    root, home = tmp_path / "store", tmp_path / "home"
    drafts = [draft(gate(quality=True)), draft(gate(parity=False, quality=False))]
    run(home, PUBLISH, str(root), str(export), json.dumps(drafts))

    def lines(series: Any, *names: str) -> dict[Any, float]:
        found = totals.samples(series, home / "metrics")
        return {tuple(labels[name] for name in names): value for labels, value in found}

    assert lines(metrics.STORE_PUBLISHES, "model", "gate") == {("films", "passed"): 1, ("films", "failed"): 1}
    assert lines(metrics.STORE_GATE_FAILURES, "check") == {
        ("parity",): 1,
        ("quality",): 1,
        ("nothing_judged",): 0,
    }
    assert lines(metrics.STORE_PARITY_ERROR, "model") == {("films",): math.inf}
    assert lines(metrics.STORE_QUALITY_LOSS, "model") == {("films",): 0.2}
    assert lines(metrics.STORE_VERSION_BYTES, "model") == {
        ("films",): ModelStore(f"file://{root}").manifest("films", 1).size_bytes
    }
    assert lines(metrics.STORE_ALIAS_MOVES, "model", "alias") == {("films", "production"): 1}
    # What is not there, or there already, is an answer and no failure.
    errors = lines(metrics.STORE_ERRORS, "operation")
    assert errors == {("read",): 1, ("write",): 0, ("create",): 0, ("list",): 0, ("delete",): 0}
    moved = lines(metrics.STORE_TRANSFERRED, "direction")
    assert moved["write",] == sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    assert moved["read",] > 3 * len((root / "models/films/versions/00000001.json").read_bytes())
    text = totals.exposition(home / "metrics").decode()
    for operation in ("read", "write", "create", "list"):
        line = f'mizzen_store_operation_duration_seconds_count{{operation="{operation}"}}'
        assert line in text
    assert str(root) not in text
    assert "00000001" not in text


def test_a_process_that_keeps_no_series_leaves_none(
    tmp_path: Path, store: ModelStore, make_draft: Any, export: Path
) -> None:
    store.publish(make_draft(), export)
    run(tmp_path / "home", READ, str(tmp_path / "store"))
    assert not (tmp_path / "home" / "metrics").exists()
