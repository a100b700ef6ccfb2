"""Makes Grafana's JSON of a board, with grafana-foundation-sdk.

How panels look (legends, tooltips, colours that read in light and dark) is decided here once. What they show
stands in `boards`; no series is named here but for the values of filters.
"""

from __future__ import annotations

import json
from typing import Any

from board import FILTERS, VARIABLES, Board, Panel, Query, filled
from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as look
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "mizzen"
RUNBOOKS = "docs/runbooks"
"""Named in descriptions; if the chart's values have an address, that stands there and panels link to it."""
_LABELS = {
    "namespace": ("Namespace", "mizzen_build_info"),
    "release": ("Release", "mizzen_build_info"),
    "app": ("Application", '{__name__=~"mizzen_(requests_total|slo_objective_ratio)"}'),
    "model": ("Model", '{__name__=~"mizzen_(model_info|store_publishes_total)"}'),
    "version": ("Version", "mizzen_model_info"),
    "train_job": ("Job", "mizzen_training_steps_total"),
    "run": ("Run", "mizzen_training_steps_total"),
}
"""Each variable's name for people, and the series whose label gives its values."""


def made(board: Board) -> str:
    """The dashboard as Grafana reads it, ending with a newline; the same text for the same board."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(f"mizzen-{board.name}")
        .description(board.about)
        .tags([TAG])
        .editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time(board.since, "now")
        .refresh("30s")
        .timezone("browser")
        .links(_links())
        .annotations([_alerts()])
        .variables([_datasource(), *(_variable(name) for name in board.variables)])
    )
    number = 0
    for row in board.rows:
        number += 1
        built.with_row(dashboard.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            built.with_panel(_panel(panel).id(number))
    tree = json.loads(json.dumps(built.build(), cls=JSONEncoder))
    # The builder writes what newer versions of Grafana's schema do not know any more.
    del tree["style"]
    for variable in tree["templating"]["list"]:
        del variable["id"]
    return json.dumps(_without_empty(tree), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _links() -> list[Builder[model.DashboardLink]]:
    return [
        dashboard.DashboardLink("Mizzen")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
        .tooltip("Mizzen's other dashboards"),
    ]


def _alerts() -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("orange")
        .expr('ALERTS{alertname=~"Mizzen.+",alertstate="firing"}')
    )


def _datasource() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _variable(name: str) -> dashboard.QueryVariable:
    """A filter; `All` matches series without the label too, so that boards work without Kubernetes."""
    label, series = _LABELS[name]
    before = [other for other in FILTERS["RELEASE"] if VARIABLES.index(other) < VARIABLES.index(name)]
    before += {"run": ["train_job"], "version": ["model"]}.get(name, [])
    matchers = ",".join(f'{other}=~"${other}"' for other in before)
    if series.startswith("{"):
        series = series[:-1] + (f",{matchers}" if matchers else "") + "}"
    elif matchers:
        series = f"{series}{{{matchers}}}"
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(f"label_values({series}, {name})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _panel(panel: Panel) -> Any:
    # Each kind of panel has a class of its own, with the same methods and no common base.
    makers: dict[str, Any] = {"number": _number, "bars": _bars, "table": _table}
    builder = makers.get(panel.kind, _lines)(panel)
    about = f"{panel.about} Runbook: {RUNBOOKS}/{panel.runbook}.md." if panel.runbook else panel.about
    builder.title(panel.title).description(about).datasource(DATASOURCE).unit(panel.unit)
    builder.span(panel.width).height(panel.height)
    if panel.least is not None and panel.kind != "table":
        builder.min(panel.least)
    if panel.most is not None:
        builder.max(panel.most)
    for number, query in enumerate(panel.queries):
        builder.with_target(_target(panel, query, chr(ord("A") + number)))
    return builder


def _target(panel: Panel, query: Query, ref_id: str) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery()
        .expr(filled(query.expression))
        .legend_format(query.legend)
        .datasource(DATASOURCE)
        .ref_id(ref_id)
    )
    if panel.kind == "table":
        return target.instant().format(PromQueryFormat.TABLE)
    target = target.instant() if panel.kind in ("number", "bars") else target.range()
    return target.exemplar(True) if query.exemplars else target


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [model.Threshold(value=None, color=panel.base)]
    steps += [model.Threshold(value=value, color=colour) for value, colour in panel.limits]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _lines(panel: Panel) -> timeseries.Panel:
    builder = (
        timeseries.Panel()
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        .line_width(1)
        .fill_opacity(10)
        .show_points(look.VisibilityMode.AUTO)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(look.LegendDisplayMode.TABLE)
            .placement(look.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(
            common.VizTooltipOptions().mode(look.TooltipDisplayMode.MULTI).sort(look.SortOrder.DESCENDING)
        )
    )
    if panel.kind == "stacked":
        builder.stacking(common.StackingConfig().mode(look.StackingMode.NORMAL).group("A"))
    if panel.limits:
        style = common.GraphThresholdsStyleConfig().mode(look.GraphTresholdsStyleMode.DASHED)
        # The line of a limit is drawn from it on; below, the base has to be invisible.
        builder.thresholds(_thresholds(panel)).thresholds_style(style)
    return builder


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def _number(panel: Panel) -> stat.Panel:
    return (
        stat.Panel()
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(panel))
        .color_mode(look.BigValueColorMode.VALUE)
        .graph_mode(look.BigValueGraphMode.NONE)
        .text_mode(look.BigValueTextMode.VALUE_AND_NAME)
        .reduce_options(_last())
    )


def _bars(panel: Panel) -> bargauge.Panel:
    return (
        bargauge.Panel()
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(panel))
        .display_mode(look.BarGaugeDisplayMode.BASIC)
        .orientation(look.VizOrientation.HORIZONTAL)
        .reduce_options(_last())
    )


def _table(panel: Panel) -> table.Panel:
    organised = model.DataTransformerConfig(id_val="organize", options={"excludeByName": {"Time": True}})
    return table.Panel().with_transformation(organised)


def _without_empty(tree: Any) -> Any:
    """The tree without keys that are not set; only a threshold's `value` may be null."""
    if isinstance(tree, dict):
        return {
            key: _without_empty(value) for key, value in tree.items() if value is not None or key == "value"
        }
    if isinstance(tree, list):
        return [_without_empty(value) for value in tree]
    return tree
