"""Alerts, dashboards and monitors: every expression parses and asks for series that somebody emits.

Mizzen's series are those of `mizzen.metrics`; Ray's are looked up in Ray's own code; HAProxy's is the one
that its exporter was seen to give. Whether an alert fires at the right time is not tested here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import promql_parser
import pytest
import yaml

from mizzen.metrics import SERIES

if TYPE_CHECKING:
    from conftest import Chart, Rendered

REPOSITORY = Path(__file__).resolve().parents[2]
GRAFANA = Path(os.environ.get("MIZZEN_GRAFANA_DIR") or REPOSITORY.parent / "shared" / "grafana")
PROMETHEUS = {"up": {"job", "instance"}}
HAPROXY = {"haproxy_frontend_http_responses_total": {"proxy", "code"}}
"""Ray's HAProxy (2.8) on port 9101: series and labels."""
TARGET = {"namespace", "pod", "container", "endpoint", "release", "component", "ray_cluster", "node_type"}
"""Labels that every series gets from the Prometheus operator and from our monitors' relabelings."""
EVERYTHING = (
    'apps=[{"name":"a","model":"a@production"}]',
    "monitoring.podMonitor.enabled=true",
    "monitoring.prometheusRule.enabled=true",
    "monitoring.dashboards.enabled=true",
)


# --- which series there are -----------------------------------------------------------------------


def own_series() -> dict[str, set[str]]:
    """Mizzen's series with their labels."""
    found: dict[str, set[str]] = {}
    for series in SERIES:
        labels = set(series.labels)
        if series.kind == "histogram":
            found[f"{series.name}_bucket"] = labels | {"le"}
            found |= {f"{series.name}_{end}": labels for end in ("sum", "count")}
        else:
            found[series.name] = labels
    return found


@cache
def ray_sources() -> str:
    """Ray's code that declares series."""
    spec = find_spec("ray")
    assert spec is not None and spec.submodule_search_locations, "Ray is installed"
    [root] = spec.submodule_search_locations
    files = [*Path(root, "serve", "_private").glob("*.py"), *Path(root, "dashboard", "modules").rglob("*.py")]
    return "\n".join(file.read_text() for file in files)


def ray_declares(series: str) -> bool:
    """Whether Ray's code declares the series; Ray puts `ray_` before it, and `_total` after a counter."""
    name = series.removeprefix("ray_").removesuffix("_total")
    return re.search(rf'"{name}(_total)?"', ray_sources()) is not None


def wrong(expression: str) -> Iterator[str]:
    """What is wrong with the series that an expression asks for, and with the labels that it names."""
    for selector in selectors(promql_parser.parse(expression)):
        known = own_series() | HAPROXY | PROMETHEUS
        name = selector.name
        asked = {matcher.name for matcher in selector.matchers.matchers}
        if name in known:
            yield from (f"{name} has no label {label}" for label in asked - known[name] - TARGET)
        elif not (name or "").startswith("ray_") or not ray_declares(name):
            yield f"nobody emits {name}"


def selectors(expression: Any) -> Iterator[Any]:
    """Every selector in a parsed expression."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        inner = getattr(expression, name, None)
        if inner is not None:
            yield from selectors(inner)
    for argument in getattr(expression, "args", None) or []:
        yield from selectors(argument)


def test_an_expression_about_a_series_that_nobody_emits_is_found() -> None:
    assert not list(wrong("sum by (app) (rate(mizzen_requests_total{code='500'}[5m])) > 2"))
    assert list(wrong("1 / rate(mizzen_request_total[5m])"))
    assert list(wrong("mizzen_requests_total{status='500'}"))
    assert list(wrong("absent(ray_serve_aplication_status == 1)"))
    assert list(wrong("histogram_quantile(0.9, rate(mizzen_request_duration_seconds[5m]))"))


# --- alerts ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def monitored(chart: Chart) -> Rendered:
    """A release with everything that monitoring can have, but the ServiceMonitor."""
    return chart.render(settings=EVERYTHING)


def rules(rendered: Rendered) -> list[Mapping[str, Any]]:
    """All alerts."""
    return [rule for group in rendered.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]]


def test_alerts_ask_for_series_that_exist_and_for_this_release_alone(monitored: Rendered) -> None:
    assert len(rules(monitored)) >= 8
    for rule in rules(monitored):
        assert not list(wrong(rule["expr"])), rule["alert"]
        for selector in selectors(promql_parser.parse(rule["expr"])):
            asked = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
            assert (asked["namespace"], asked["release"]) == ("ml", "mizzen"), rule["alert"]


def test_alerts_say_how_bad_it_is_what_happened_and_what_to_do(monitored: Rendered) -> None:
    names = [rule["alert"] for rule in rules(monitored)]
    assert len(names) == len(set(names))
    for rule in rules(monitored):
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]


def test_labels_in_an_alert_s_text_are_in_its_result(monitored: Rendered) -> None:
    for rule in rules(monitored):
        text = " ".join(rule["annotations"].values())
        named = set(re.findall(r"\$labels\.(\w+)", text))
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
        assert named <= kept, rule["alert"]


def test_without_apps_there_are_no_alerts_about_serving(chart: Chart) -> None:
    rendered = chart.render(settings=["monitoring.prometheusRule.enabled=true"])
    assert [group["name"] for group in rendered.one("PrometheusRule")["spec"]["groups"]] == [
        "mizzen-training"
    ]


def test_series_of_ray_that_alerts_and_dashboards_need_are_kept(monitored: Rendered) -> None:
    endpoints = monitored.one("PodMonitor")["spec"]["podMetricsEndpoints"]
    [ray] = [endpoint for endpoint in endpoints if endpoint["port"] == "metrics"]
    [keep] = [rule for rule in ray["metricRelabelings"] if rule["action"] == "keep"]
    asked = {
        selector.name
        for expression in [*(rule["expr"] for rule in rules(monitored)), *dashboard_expressions(monitored)]
        for selector in selectors(promql_parser.parse(expression))
        if selector.name and selector.name.startswith("ray_")
    }
    assert asked
    assert all(re.fullmatch(keep["regex"], name) for name in asked)


def test_labels_that_expressions_use_are_set_by_the_monitors(monitored: Rendered) -> None:
    for endpoint in monitored.one("PodMonitor")["spec"]["podMetricsEndpoints"]:
        made = {rule["targetLabel"] for rule in endpoint["relabelings"]}
        assert made == {"release", "component", "ray_cluster", "node_type"}


def test_series_of_training_keep_their_own_label_job(monitored: Rendered) -> None:
    """Prometheus sets a label of that name on everything it reads; ours is the run's name."""
    assert any("job" in series.labels for series in SERIES)
    for endpoint in monitored.one("PodMonitor")["spec"]["podMetricsEndpoints"]:
        assert endpoint.get("honorLabels", False) is (endpoint["port"] == "mizzen-metrics")


def test_the_service_monitor_reads_the_same_ports_through_its_service(chart: Chart) -> None:
    pods = chart.render(settings=EVERYTHING).one("PodMonitor")["spec"]
    through = chart.render(settings=[EVERYTHING[0], "monitoring.serviceMonitor.enabled=true"])
    monitor = through.one("ServiceMonitor")["spec"]
    assert monitor["endpoints"] == pods["podMetricsEndpoints"]
    service = through.one("Service")
    labels = service["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
    assert ports == {endpoint["port"]: endpoint["port"] for endpoint in monitor["endpoints"]}


def test_reading_every_series_twice_is_refused(chart: Chart) -> None:
    said = chart.refusal(settings=[*EVERYTHING, "monitoring.serviceMonitor.enabled=true"])
    assert "read twice" in said


@pytest.mark.parametrize("kind", ["podMonitor", "serviceMonitor", "prometheusRule"])
def test_a_missing_prometheus_operator_is_named(chart: Chart, kind: str) -> None:
    installed = ("ray.io/v1/RayJob", "ray.io/v1/RayService")
    said = chart.refusal(settings=[f"monitoring.{kind}.enabled=true"], installed=installed)
    assert "Install the Prometheus operator" in said
    assert f"monitoring.{kind}.enabled" in said


def test_nothing_of_monitoring_is_made_unless_asked_for(chart: Chart) -> None:
    kinds = {manifest["kind"] for manifest in chart.render(settings=EVERYTHING[:1]).manifests}
    assert not kinds & {"PodMonitor", "ServiceMonitor", "PrometheusRule", "Service"}


# --- dashboards -----------------------------------------------------------------------------------


def dashboards(rendered: Rendered) -> list[dict[str, Any]]:
    """Every dashboard."""
    [config_map] = [m for m in rendered.of("ConfigMap") if m["metadata"]["name"].endswith("-dashboards")]
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    return [json.loads(text) for text in config_map["data"].values()]


def panels(dashboard: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every panel that shows something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def without_variables(expression: str) -> str:
    """The expression as Grafana would send it."""
    return re.sub(r"\$\w+", "x", expression.replace("$__rate_interval", "5m"))


def dashboard_expressions(rendered: Rendered) -> list[str]:
    """Every expression of every panel."""
    targets = [t for one in dashboards(rendered) for panel in panels(one) for t in panel["targets"]]
    return [without_variables(target["expr"]) for target in targets]


def test_panels_ask_for_series_that_exist(monitored: Rendered) -> None:
    assert len(dashboard_expressions(monitored)) >= 12
    for expression in dashboard_expressions(monitored):
        assert not list(wrong(expression)), expression


def test_dashboards_fit_grafana_s_schema(monitored: Rendered) -> None:
    file = GRAFANA / "dashboard.jsonschema.json"
    if not file.is_file():
        pytest.skip(f"no schema of dashboards in {GRAFANA}; MIZZEN_GRAFANA_DIR names another folder")
    schema = jsonschema.Draft7Validator(json.loads(file.read_text()))
    for dashboard in dashboards(monitored):
        assert not [error.message for error in schema.iter_errors(dashboard)]


def test_every_panel_reads_from_the_data_source_that_the_reader_chose(monitored: Rendered) -> None:
    for dashboard in dashboards(monitored):
        chosen = [v for v in dashboard["templating"]["list"] if v["type"] == "datasource"]
        assert [v["name"] for v in chosen] == ["datasource"]
        queries = [v for v in dashboard["templating"]["list"] if v["type"] == "query"]
        targets = [target for panel in panels(dashboard) for target in panel["targets"]]
        for one in [*panels(dashboard), *targets, *queries]:
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_variables_in_expressions_are_declared(monitored: Rendered) -> None:
    for dashboard in dashboards(monitored):
        declared = {variable["name"] for variable in dashboard["templating"]["list"]}
        text = json.dumps([panel["targets"] for panel in panels(dashboard)])
        text += json.dumps([v.get("query") for v in dashboard["templating"]["list"]])
        used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
        assert used == declared


def test_panels_do_not_overlap_and_say_what_they_show_and_in_which_unit(monitored: Rendered) -> None:
    for dashboard in dashboards(monitored):
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
            assert not cells & taken, panel["title"]
            assert all(x < 24 for x, _ in cells), panel["title"]
            taken |= cells
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        for panel in panels(dashboard):
            assert panel["description"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_rule_files_and_dashboards_are_all_in_the_chart(chart: Chart, monitored: Rendered) -> None:
    groups = {
        group["name"]
        for file in (chart.path / "rules").glob("*.yaml")
        for group in yaml.safe_load(file.read_text().replace("$RELEASE", ""))
    }
    assert groups == {group["name"] for group in monitored.one("PrometheusRule")["spec"]["groups"]}
    assert len(dashboards(monitored)) == len(list((chart.path / "dashboards").glob("*.json")))
