"""`docs/metrics.md` says what `metrics.py` declares."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from mizzen import metrics
from mizzen.metrics import SERIES

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def metrics_page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("metrics_page", DOCS / "metrics_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_schema_says(metrics_page: ModuleType) -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert text == metrics_page.page(text), "run python docs/metrics_page.py"


def test_every_series_and_label_is_on_it_with_its_bound(metrics_page: ModuleType) -> None:
    rows = [line for line in metrics_page.tables().splitlines() if line.startswith("| `")]
    for series in SERIES:
        (row,) = (row for row in rows if row.startswith(f"| `{series.name}` |"))
        assert series.help in row
        assert series.emitter in row
        for label in series.labels:
            assert f"`{label.name}`" in row
            of_label = [row for row in rows if row.startswith(f"| `{label.name}` |") and label.help in row]
            bound = label.values[-1] if label.values else f"{label.limit} values"
            assert any(bound in row for row in of_label)


def test_a_page_that_is_not_up_to_date_fails_the_check(
    metrics_page: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "metrics.md"
    old.write_text(f"a\n{metrics_page.BEGIN}\nold\n{metrics_page.END}\nz\n", encoding="utf-8")
    monkeypatch.setattr(metrics_page, "PAGE", old)
    monkeypatch.setattr("sys.argv", ["metrics_page.py", "--check"])
    with pytest.raises(SystemExit, match=r"run python docs/metrics_page\.py"):
        metrics_page.main()
    monkeypatch.setattr("sys.argv", ["metrics_page.py"])
    metrics_page.main()
    assert old.read_text(encoding="utf-8").startswith("a\n<!--")
    assert old.read_text(encoding="utf-8").endswith("-->\nz\n")
    monkeypatch.setattr("sys.argv", ["metrics_page.py", "--check"])
    metrics_page.main()


def test_a_series_outside_of_the_sections_is_found_out(
    metrics_page: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SERIES", (*SERIES, SERIES[0]))
    with pytest.raises(SystemExit, match="every series"):
        metrics_page.tables()
