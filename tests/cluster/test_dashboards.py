"""Dashboards: they are what the generator makes, fit Grafana's schema, and read well.

Whether the series exist is asked in `test_monitoring.py`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
GRAFANA = Path(os.environ.get("MIZZEN_GRAFANA_DIR") or REPOSITORY.parent / "shared" / "grafana")
FILES = sorted((REPOSITORY / "helm" / "mizzen" / "dashboards").glob("*.json"))
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF_GRAFANA = {"__rate_interval", "__range", "__all"}
READABLE = {"green", "orange", "red", "text", "transparent"}
"""Colours that Grafana shows in another shade on a light ground than on a dark one."""

Dashboard = Mapping[str, Any]


@pytest.fixture(params=FILES, ids=[file.stem for file in FILES])
def dashboard(request: pytest.FixtureRequest) -> Dashboard:
    """Each dashboard."""
    found: Dashboard = json.loads(request.param.read_text())
    return found


def panels(dashboard: Dashboard) -> list[Mapping[str, Any]]:
    """Every panel that shows something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(dashboard: Dashboard, kind: str) -> list[Mapping[str, Any]]:
    """The variables of a kind."""
    return [variable for variable in dashboard["templating"]["list"] if variable["type"] == kind]


def test_dashboards_are_what_the_generator_makes() -> None:
    script = REPOSITORY / "helm" / "observability" / "dashboards.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_dashboard_fits_grafana_s_schema(dashboard: Dashboard) -> None:
    file = GRAFANA / "dashboard.jsonschema.json"
    if not file.is_file():
        pytest.skip(f"no schema of dashboards in {GRAFANA}; MIZZEN_GRAFANA_DIR names another folder")
    schema = jsonschema.Draft7Validator(json.loads(file.read_text()))
    assert not [error.message for error in schema.iter_errors(dashboard)]


def test_everything_is_read_from_the_data_source_that_the_reader_chose(dashboard: Dashboard) -> None:
    assert [variable["name"] for variable in variables(dashboard, "datasource")] == ["datasource"]
    targets = [target for panel in panels(dashboard) for target in panel["targets"]]
    asking = [*panels(dashboard), *targets, *variables(dashboard, "query"), *dashboard["annotations"]["list"]]
    assert all(one["datasource"] == DATASOURCE for one in asking)


def test_filters_are_used_and_all_of_them_match_series_without_the_label(dashboard: Dashboard) -> None:
    filters = {variable["name"] for variable in variables(dashboard, "query")}
    text = json.dumps([panel["targets"] for panel in panels(dashboard)])
    assert set(re.findall(r"\$(\w+)", text)) - OF_GRAFANA == filters
    assert {"namespace", "release"} <= filters
    for variable in variables(dashboard, "query"):
        assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".*")
        assert variable["current"]["value"] == ["$__all"]
    for name, operator in re.findall(r'(\w+)([=~!]+)\\"\$', text):
        assert operator == "=~", f"{name}{operator} does not take several values"


def test_panels_do_not_overlap(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells), panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_panels_say_what_they_show_and_in_which_unit(dashboard: Dashboard) -> None:
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(titles) == len(set(titles))
    for panel in panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        if panel["type"] != "table":
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_rates_take_the_window_that_grafana_chooses(dashboard: Dashboard) -> None:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            windows = set(re.findall(r"\[([^\]]+)\]", target["expr"]))
            assert windows <= {"$__rate_interval", "$__range", "30d"}, target["expr"]


def colours(tree: Any) -> Iterator[str]:
    """Every colour that is named anywhere."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key.lower().endswith("color") and isinstance(value, str):
                yield value
            else:
                yield from colours(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from colours(value)


def test_colours_can_be_read_in_light_and_dark(dashboard: Dashboard) -> None:
    assert "style" not in dashboard
    assert set(colours(dashboard)) <= READABLE


def test_dashboards_lead_to_each_other_and_name_runbooks_that_exist(dashboard: Dashboard) -> None:
    assert dashboard["tags"] == ["mizzen"]
    [others] = dashboard["links"]
    assert (others["type"], others["tags"], others["keepTime"]) == ("dashboards", ["mizzen"], True)
    for panel in panels(dashboard):
        for page in re.findall(r"Runbook: (\S+)\.$", panel["description"]):
            assert (REPOSITORY / page).is_file(), page
            assert page.startswith("docs/runbooks/Mizzen")


def test_latencies_lead_to_traces() -> None:
    with_exemplars = {
        panel["title"]
        for file in FILES
        for panel in panels(json.loads(file.read_text()))
        if any(target.get("exemplar") for target in panel["targets"])
    }
    assert with_exemplars == {"Duration", "Time to first token"}
