"""Rules, panels and monitors: every expression parses and asks for series and labels that somebody emits.

Mizzen's series are those of `mizzen.metrics`; Ray's are looked up in Ray's own code; those of HAProxy and
cert-manager are the ones that their exporters were seen to give. Whether an alert fires at the right time is
tested in `test_rules.py`, what panels look like in `test_dashboards.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml

from mizzen.metrics import SERIES

if TYPE_CHECKING:
    from conftest import Chart, Rendered

REPOSITORY = Path(__file__).resolve().parents[2]
PROMETHEUS = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
HAPROXY = {"haproxy_frontend_http_responses_total": {"proxy", "code"}}
"""Ray's HAProxy (2.8) on port 9101: series and labels."""
CERT_MANAGER = {"certmanager_certificate_expiration_timestamp_seconds": {"name", "exported_namespace"}}
RAY_LABELS = {"application", "deployment"}
RELEASE = {"namespace", "release"}
TARGET = RELEASE | {
    "pod",
    "container",
    "endpoint",
    "job",
    "instance",
    "component",
    "ray_cluster",
    "node_type",
}
"""Labels that every series gets from Prometheus, its operator and our monitors' relabelings."""
PARTS = {"version": {"model", "version"}, "run": {"train_job", "run"}}
"""What a part of a recorded series' level stands for, where that is not the label of its name."""
UNUSED: dict[str, str] = {}
"""Series of Mizzen that no panel and no rule asks for, and why."""
EVERYTHING = (
    'apps=[{"name":"a","model":"a@production"}]',
    "monitoring.podMonitor.enabled=true",
    "monitoring.prometheusRule.enabled=true",
    "monitoring.dashboards.enabled=true",
    'ingress={"enabled":true,"tls":[{"secretName":"a","hosts":["a.example"]}]}',
)


# --- which series there are -----------------------------------------------------------------------


def own_series() -> dict[str, set[str]]:
    """Mizzen's series with their labels."""
    found: dict[str, set[str]] = {}
    for series in SERIES:
        labels = set(series.label_names)
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


@cache
def recorded() -> dict[str, set[str]]:
    """What the chart's rules record, with its labels."""
    found: dict[str, set[str]] = {}
    for file in sorted((REPOSITORY / "helm" / "mizzen" / "rules").glob("*.yaml")):
        for group in yaml.safe_load(file.read_text()):
            # `$RELEASE` is no PromQL; without it there is at most a comma too many.
            for rule in (rule for rule in group["rules"] if "record" in rule):
                expression = re.sub(r"\$RELEASE,?", "", rule["expr"])
                found[rule["record"]] = labels_of(promql_parser.parse(expression), found)
    return found


def labels_of(expression: Any, more: Mapping[str, set[str]]) -> set[str]:
    """The labels of an expression's result; `more` has those of recorded series."""
    if isinstance(expression, promql_parser.VectorSelector):
        name = expression.name or ""
        known = own_series() | HAPROXY | CERT_MANAGER | PROMETHEUS
        return more[name] if name in more else known.get(name, RAY_LABELS) | TARGET
    if isinstance(expression, promql_parser.AggregateExpr):
        modifier = expression.modifier
        assert modifier is None or modifier.type == promql_parser.AggModifierType.By
        return set(modifier.labels) if modifier else set()
    if isinstance(expression, promql_parser.BinaryExpr):
        # Matching is one to one or many to one here: the left side's labels stay, unless it is a number.
        return labels_of(expression.lhs, more) or labels_of(expression.rhs, more)
    if isinstance(expression, promql_parser.Call):
        inner = [labels_of(argument, more) for argument in expression.args]
        lost = {"le"} if expression.func.name == "histogram_quantile" else set()
        return (max(inner, key=len) if inner else set()) - lost
    for name in ("expr", "vector_selector"):
        if (inside := getattr(expression, name, None)) is not None:
            return labels_of(inside, more)
    return set()


def wrong(expression: str) -> Iterator[str]:
    """What is wrong with the series that an expression asks for, and with the labels that it names."""
    for selector in selectors(promql_parser.parse(expression)):
        known = own_series() | HAPROXY | CERT_MANAGER | PROMETHEUS | recorded()
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


def test_recorded_series_are_named_after_their_labels() -> None:
    assert len(recorded()) >= 40
    for name, labels in recorded().items():
        level = name.split(":")[0].split("_")
        assert labels == RELEASE.union(*(PARTS.get(part, {part}) for part in level)), name


# --- rules ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def monitored(chart: Chart) -> Rendered:
    """A release with everything that monitoring can have, but the ServiceMonitor."""
    return chart.render(settings=EVERYTHING)


def rules(rendered: Rendered) -> list[Mapping[str, Any]]:
    """All rules."""
    return [rule for group in rendered.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]]


def alerts(rendered: Rendered) -> list[Mapping[str, Any]]:
    """All alerts."""
    return [rule for rule in rules(rendered) if "alert" in rule]


def test_rules_ask_for_series_that_exist_and_for_this_release_alone(monitored: Rendered) -> None:
    assert len(rules(monitored)) >= 80
    for rule in rules(monitored):
        assert not list(wrong(rule["expr"])), rule
        for selector in selectors(promql_parser.parse(rule["expr"])):
            asked = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
            if selector.name in CERT_MANAGER:
                # Two ways of saying the namespace; certificates know no release.
                assert "ml" in (asked["exported_namespace"], asked.get("namespace"))
            else:
                assert (asked["namespace"], asked["release"]) == ("ml", "mizzen"), rule


def test_alerts_say_how_bad_it_is_what_happened_and_what_to_do(monitored: Rendered) -> None:
    names = [rule["alert"] for rule in alerts(monitored)]
    assert len(names) == len(set(names))
    for rule in alerts(monitored):
        assert rule["labels"].keys() == {"severity"} and rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert len(rule["annotations"]["summary"]) < 110 and "\n" not in rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith((".", "?"))


def test_labels_in_an_alert_s_text_are_in_its_result(monitored: Rendered) -> None:
    for rule in alerts(monitored):
        named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert named <= labels_of(promql_parser.parse(rule["expr"]), recorded()), rule["alert"]


def test_alerts_and_dashboards_point_to_runbooks_where_the_values_say(chart: Chart) -> None:
    rendered = chart.render(settings=[*EVERYTHING, 'monitoring.runbooks="https://example.com/runbooks/"'])
    for rule in alerts(rendered):
        assert rule["annotations"]["runbook_url"] == f"https://example.com/runbooks/{rule['alert']}.md"
    for dashboard in dashboards(rendered):
        assert dashboard["links"][-1]["url"] == "https://example.com/runbooks/README.md"
        for panel in dashboard["panels"]:
            named = re.findall(r"Runbook: (\S+)\.$", panel.get("description", ""))
            assert [link["url"] for link in panel.get("links", ())] == named
            assert all(url.startswith("https://example.com/runbooks/Mizzen") for url in named)


def test_dashboards_link_to_no_runbook_while_runbooks_have_no_address(monitored: Rendered) -> None:
    for dashboard in dashboards(monitored):
        assert [link["type"] for link in dashboard["links"]] == ["dashboards"]
        assert not any("links" in panel for panel in dashboard["panels"])


def test_without_apps_and_certificates_there_are_no_alerts_about_them(chart: Chart) -> None:
    rendered = chart.render(settings=["monitoring.prometheusRule.enabled=true"])
    names = {rule["alert"] for rule in alerts(rendered)}
    assert names.isdisjoint({"MizzenHeadDown", "MizzenNoReplica", "MizzenCertificateExpires"})
    assert names >= {"MizzenTrainingStandsStill", "MizzenGateFailed", "MizzenMemoryNearlyFull"}


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


def test_no_label_of_mizzen_s_is_one_that_prometheus_sets(monitored: Rendered) -> None:
    """Else one of the two would be renamed, or lost with `honorLabels`."""
    assert not {label for series in SERIES for label in series.label_names} & TARGET
    for endpoint in monitored.one("PodMonitor")["spec"]["podMetricsEndpoints"]:
        assert "honorLabels" not in endpoint


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


# --- panels ---------------------------------------------------------------------------------------


def dashboards(rendered: Rendered) -> list[dict[str, Any]]:
    """Every dashboard, each from a ConfigMap of its own."""
    found = [m for m in rendered.of("ConfigMap") if "-dashboard-" in m["metadata"]["name"]]
    assert all(m["metadata"]["labels"]["grafana_dashboard"] == "1" and len(m["data"]) == 1 for m in found)
    return [json.loads(text) for m in found for text in m["data"].values()]


def targets(rendered: Rendered) -> Iterator[tuple[str, str]]:
    """Expression and legend of each query of each panel, variables filled in."""
    for dashboard in dashboards(rendered):
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                yield without_variables(target["expr"]), target["legendFormat"]


def without_variables(expression: str) -> str:
    """The expression as Grafana would send it."""
    return re.sub(r"\$\w+", "x", expression.replace("$__rate_interval", "5m").replace("$__range", "1h"))


def dashboard_expressions(rendered: Rendered) -> list[str]:
    """Every expression of every panel."""
    return [expression for expression, _ in targets(rendered)]


def test_panels_ask_for_series_that_exist_and_legends_for_labels_that_are_left(monitored: Rendered) -> None:
    assert len(list(targets(monitored))) >= 100
    for expression, legend in targets(monitored):
        assert not list(wrong(expression)), expression
        named = set(re.findall(r"\{\{(\w+)\}\}", legend))
        assert named <= labels_of(promql_parser.parse(expression), recorded()), (expression, legend)


def test_every_series_of_mizzen_s_is_in_a_panel_or_in_a_rule(monitored: Rendered) -> None:
    expressions = [*dashboard_expressions(monitored), *(rule["expr"] for rule in rules(monitored))]
    asked = {s.name for text in expressions for s in selectors(promql_parser.parse(text))}
    parts = {
        series.name: [series.name, *(f"{series.name}_{end}" for end in ("bucket", "sum", "count"))]
        for series in SERIES
    }
    assert {name for name, names in parts.items() if not asked.intersection(names)} == set(UNUSED)


def test_every_recorded_series_is_asked_for_in_a_panel_a_rule_or_a_runbook(monitored: Rendered) -> None:
    expressions = [*dashboard_expressions(monitored), *(rule["expr"] for rule in rules(monitored))]
    for page in (REPOSITORY / "docs" / "runbooks").glob("*.md"):
        in_page = re.findall(r"```promql\n(.*?)```", page.read_text(), re.S)
        assert not [fault for expression in in_page for fault in wrong(expression)], page.name
        expressions += in_page
    asked = {s.name for text in expressions for s in selectors(promql_parser.parse(text))}
    assert set(recorded()) <= asked


def test_rule_files_and_dashboards_are_all_in_the_chart(chart: Chart, monitored: Rendered) -> None:
    groups = {
        group["name"]
        for file in (chart.path / "rules").glob("*.yaml")
        for group in yaml.safe_load(file.read_text())
    }
    assert groups == {group["name"] for group in monitored.one("PrometheusRule")["spec"]["groups"]}
    assert len(dashboards(monitored)) == len(list((chart.path / "dashboards").glob("*.json")))
    size_bytes = sum(len(json.dumps(m)) for m in monitored.manifests)
    assert size_bytes < 2**20, "Helm keeps a release in one Secret"
