"""The way of a version: published, gated, named, tried beside another one; and whether inputs drift away."""

from __future__ import annotations

from board import Board, Panel, Query, Row, counted, quantiles, rate, share

_BY = "app, model, version"
_NAME = "{{app}}: {{model}} {{version}}"
_OPERATIONS = rate("mizzen_store_operation_duration_seconds_count", "@RELEASE", "operation")


def _last(series: str) -> Query:
    return Query(f"max by (model) ({series}{{@MODEL}})", "{{model}}")


_PUBLISHED = (
    Panel(
        "Versions published",
        "none",
        "In the chosen time, by the gate's verdict.",
        (Query(counted("mizzen_store_publishes_total", "@MODEL", "model, gate"), "{{model}} {{gate}}"),),
        kind="number",
        width=6,
        base="text",
    ),
    Panel(
        "Refused by the gate",
        "none",
        "In the chosen time, by what was wrong.",
        (
            Query(
                counted("mizzen_store_gate_failures_total", "@MODEL", "model, check"), "{{model}} {{check}}"
            ),
        ),
        kind="number",
        width=6,
        limits=((0.5, "red"),),
        runbook="MizzenGateFailed",
    ),
    Panel(
        "Aliases moved",
        "none",
        "In the chosen time.",
        (Query(counted("mizzen_store_alias_moves_total", "@MODEL", "model, alias"), "{{model}} {{alias}}"),),
        kind="number",
        width=6,
        base="text",
    ),
    Panel(
        "Size of the last version",
        "bytes",
        "Of each model.",
        (_last("mizzen_store_version_bytes"),),
        kind="bars",
        width=6,
    ),
    Panel(
        "Parity error",
        "sci",
        "Largest difference of an output between PyTorch and the last export.",
        (_last("mizzen_store_parity_error"),),
        width=12,
    ),
    Panel(
        "Lost by quantisation",
        "percentunit",
        "How much worse than its model the last quantised export was.",
        (_last("mizzen_store_quality_loss_ratio"),),
        width=12,
        least=None,
    ),
)

_TRAFFIC = (
    Panel(
        "Share of requests",
        "percentunit",
        "What the serve file gives each version: primary, canary, shadow.",
        (
            Query(
                "max by (app, model, version, role) (mizzen_traffic_weight_ratio{@SERVED})",
                "{{app}}: {{model}} {{version}} {{role}}",
            ),
        ),
        most=1.0,
    ),
    Panel(
        "Errors by version",
        "percentunit",
        "Share of answers with a status of 500 or more: compare canary and primary.",
        (
            Query(
                share(
                    rate("mizzen_requests_total", '@SERVED,code=~"5.."', _BY),
                    rate("mizzen_requests_total", "@SERVED", _BY),
                ),
                _NAME,
            ),
        ),
        runbook="MizzenCanaryFails",
    ),
    Panel(
        "Duration by version",
        "s",
        "Median, 95th and 99th percentile.",
        quantiles("mizzen_request_duration_seconds", "@SERVED", _BY, _NAME),
        runbook="MizzenCanarySlow",
    ),
    Panel(
        "Shadow answers otherwise",
        "percentunit",
        "Share of the shadow's answers that are not those that were sent.",
        (
            Query(
                share(
                    rate("mizzen_shadow_requests_total", '@SERVED,outcome="different"', _BY),
                    rate("mizzen_shadow_requests_total", '@SERVED,outcome=~"same|different"', _BY),
                ),
                _NAME,
            ),
        ),
        width=12,
        most=1.0,
        runbook="MizzenShadowDisagrees",
    ),
    Panel(
        "Requests to shadows",
        "reqps",
        "By how the answer compares with the one that was sent.",
        (Query(rate("mizzen_shadow_requests_total", "@SERVED", "app, outcome"), "{{app}} {{outcome}}"),),
        kind="stacked",
        width=6,
        runbook="MizzenShadowFails",
    ),
    Panel(
        "Time to load a version",
        "s",
        "Fetching, verifying, loading and warming up, 95th percentile.",
        (
            Query(
                "histogram_quantile(0.95, sum by (app, le)"
                " (increase(mizzen_model_load_duration_seconds_bucket{@SERVED}[$__range])))",
                "{{app}}",
            ),
        ),
        kind="bars",
        width=6,
    ),
)

_DRIFT = (
    Panel(
        "Inputs against training",
        "none",
        "Population stability index of the last hour, all replicas: from 0.25 on, inputs differ much.",
        (Query("app_version_feature:mizzen_drift_psi:ratio1h{@SERVED}", f"{_NAME} {{{{feature}}}}"),),
        limits=((0.25, "red"),),
        base="transparent",
        runbook="MizzenInputsDrift",
    ),
    Panel(
        "The same at replicas",
        "none",
        "Of each replica's last values; the highest.",
        (
            Query(
                "max by (app, model, version, feature) (mizzen_drift_psi{@SERVED})",
                f"{_NAME} {{{{feature}}}}",
            ),
        ),
    ),
    Panel(
        "Values compared",
        "short",
        "In the last hour. Below 200 an index says little.",
        (
            Query(
                "app_version_feature:mizzen_drift_observations:increase1h{@SERVED}",
                f"{_NAME} {{{{feature}}}}",
            ),
        ),
    ),
)

_STORE = (
    Panel(
        "Calls of the store",
        "ops",
        "A second, by operation.",
        (Query(_OPERATIONS, "{{operation}}"),),
        kind="stacked",
        width=6,
    ),
    Panel(
        "Failed calls",
        "percentunit",
        "Share of calls that failed; an object that is not there is no failure.",
        (
            Query(
                share(rate("mizzen_store_errors_total", "@RELEASE", "operation"), _OPERATIONS),
                "{{operation}}",
            ),
        ),
        width=6,
        runbook="MizzenStoreFails",
    ),
    Panel(
        "Duration of calls, 95th percentile",
        "s",
        "By operation.",
        (
            Query(
                "histogram_quantile(0.95, "
                + rate("mizzen_store_operation_duration_seconds_bucket", "@RELEASE", "operation, le")
                + ")",
                "{{operation}}",
            ),
        ),
        width=6,
        runbook="MizzenStoreSlow",
    ),
    Panel(
        "Bytes",
        "Bps",
        "Read from the store and written to it.",
        (Query(rate("mizzen_store_transferred_bytes_total", "@RELEASE", "direction"), "{{direction}}"),),
        width=6,
    ),
)

BOARD = Board(
    "delivery",
    "Mizzen store and delivery",
    "Versions that are published, gated and tried; drift of inputs; the store.",
    (
        Row("Published", _PUBLISHED),
        Row("Canary and shadow", _TRAFFIC),
        Row("Drift", _DRIFT),
        Row("Store", _STORE),
    ),
    since="now-6h",
)
