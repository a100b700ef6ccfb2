"""Everything that is served: service levels, requests, versions, replicas."""

from __future__ import annotations

from board import Board, Panel, Query, Row, counted, mean, quantiles, rate, share

_BAD = 'sum by (app) (increase(mizzen_slo_requests_total{@APP,slo="%s",outcome="bad"}[$__range]))'
_COUNTED = 'sum by (app) (increase(mizzen_slo_requests_total{@APP,slo="%s"}[$__range]))'
_FIRING = """
sum by (alertname) (ALERTS{alertname=~"Mizzen.+",alertstate="firing"})
or on () label_replace(vector(0), "alertname", "none", "", "")
""".strip()
_REQUESTS = rate("mizzen_requests_total", "@SERVED", "app")


def _met(slo: str) -> Query:
    return Query(f"1 - {share(_BAD % slo, _COUNTED % slo)}", "{{app}}")


def _budget_left(slo: str) -> Query:
    budget = f'(1 - max by (app) (mizzen_slo_objective_ratio{{@APP,slo="{slo}"}}))'
    return Query(f"1 - ({share(_BAD % slo, _COUNTED % slo)}) / {budget}", "{{app}} " + slo)


_SERVICE_LEVELS = (
    Panel(
        "Available",
        "percentunit",
        "Share of requests in the chosen time that did not fail and were not turned away for overload.",
        (_met("availability"),),
        kind="number",
        width=6,
        height=5,
        least=None,
        limits=((0.95, "orange"), (0.99, "green")),
        base="red",
        runbook="MizzenAvailabilityBudgetBurnsFast",
    ),
    Panel(
        "In time",
        "percentunit",
        "Share of good answers in the chosen time whose first byte came within the service level.",
        (_met("latency"),),
        kind="number",
        width=6,
        height=5,
        least=None,
        limits=((0.9, "orange"), (0.95, "green")),
        base="red",
        runbook="MizzenLatencyBudgetBurnsFast",
    ),
    Panel(
        "Error budget left",
        "percentunit",
        "What is left of the bad requests that the objective allows in the chosen time; below 0 it is "
        "overdrawn. Choose 30 days for the usual one.",
        (_budget_left("availability"), _budget_left("latency")),
        kind="number",
        width=8,
        height=5,
        least=None,
        limits=((0.0, "orange"), (0.25, "green")),
        base="red",
    ),
    Panel(
        "Alerts",
        "none",
        "Alerts that fire now.",
        (Query(_FIRING, "{{alertname}}"),),
        kind="number",
        width=4,
        height=5,
        least=None,
        limits=((1.0, "red"),),
    ),
    Panel(
        "Pace at which error budgets burn",
        "none",
        "1: the budget lasts exactly as long as the objective's month. 14.4 for an hour wakes somebody.",
        (
            Query("app_slo:mizzen_slo_error_budget_burn:ratio_rate5m{@APP}", "{{app}} {{slo}} 5m"),
            Query("app_slo:mizzen_slo_error_budget_burn:ratio_rate1h{@APP}", "{{app}} {{slo}} 1h"),
            Query("app_slo:mizzen_slo_error_budget_burn:ratio_rate6h{@APP}", "{{app}} {{slo}} 6h"),
        ),
        width=12,
        limits=((14.4, "red"),),
        base="transparent",
        runbook="MizzenAvailabilityBudgetBurnsSlowly",
    ),
    Panel(
        "Pace over longer windows",
        "none",
        "The same, over the windows that tell a short disturbance from one that lasts.",
        [
            Query(
                f"app_slo:mizzen_slo_error_budget_burn:ratio_rate{window}{{@APP}}",
                f"{{{{app}}}} {{{{slo}}}} {window}",
            )
            for window in ("30m", "2h", "1d", "3d")
        ],
        kind="bars",
        width=6,
        limits=((1.0, "orange"), (3.0, "red")),
        runbook="MizzenLatencyBudgetBurnsSlowly",
    ),
    Panel(
        "Latest first byte allowed",
        "s",
        "As `slo.latency_s` in the serve file says.",
        (Query("max by (app) (mizzen_slo_latency_seconds{@APP})", "{{app}}"),),
        kind="bars",
        width=6,
    ),
)

_PER_SECOND = (
    Panel("Requests", "reqps", "Requests answered a second.", (Query(_REQUESTS, "{{app}}"),)),
    Panel(
        "Answers by status",
        "reqps",
        "499 means that the client went away.",
        (Query(rate("mizzen_requests_total", "@SERVED", "app, code"), "{{app}} {{code}}"),),
        kind="stacked",
    ),
    Panel(
        "Errors",
        "percentunit",
        "Share of answers with a status of 500 or more.",
        (Query(share(rate("mizzen_requests_total", '@SERVED,code=~"5.."', "app"), _REQUESTS), "{{app}}"),),
        runbook="MizzenAvailabilityBudgetBurnsFast",
    ),
    Panel(
        "Duration",
        "s",
        "From a request's first byte to the last of the answer; dots are traces.",
        quantiles("mizzen_request_duration_seconds", "@SERVED", "app", "{{app}}", exemplars=True),
        runbook="MizzenLatencyBudgetBurnsFast",
    ),
    Panel(
        "Duration by route, 95th percentile",
        "s",
        "One in twenty requests takes longer.",
        (
            Query(
                "histogram_quantile(0.95, "
                + rate("mizzen_request_duration_seconds_bucket", "@SERVED", "app, route, le")
                + ")",
                "{{app}} {{route}}",
            ),
        ),
    ),
    Panel(
        "In flight",
        "none",
        "Requests that are being answered or wait for it.",
        (Query("sum by (app) (mizzen_requests_in_flight{@SERVED})", "{{app}}"),),
    ),
    Panel(
        "Refused",
        "reqps",
        "Requests refused before the model saw them, by reason.",
        (Query(rate("mizzen_requests_rejected_total", "@SERVED", "app, reason"), "{{app}} {{reason}}"),),
        kind="stacked",
        runbook="MizzenOverloaded",
    ),
    Panel(
        "Wait, 95th percentile",
        "s",
        "How long requests wait for a place in the application, or for a batch.",
        (
            Query(
                "histogram_quantile(0.95, "
                + rate("mizzen_queue_wait_seconds_bucket", "@SERVED", "app, queue, le")
                + ")",
                "{{app}} {{queue}}",
            ),
        ),
    ),
    Panel(
        "Batches",
        "none",
        "Requests that share one call of the model, on average.",
        (Query(mean("mizzen_batch_size", "@SERVED", "app"), "{{app}}"),),
        width=4,
    ),
    Panel(
        "Duration of a batch",
        "s",
        "One call of the model, on average.",
        (Query(mean("mizzen_batch_duration_seconds", "@SERVED", "app"), "{{app}}"),),
        width=4,
    ),
)

_VERSIONS = (
    Panel(
        "Versions that answer",
        "none",
        "How many replicas (`Value`) answer with each version.",
        (
            Query(
                "sum by (app, model, version, alias, workload, precision, provider, digest)"
                " (mizzen_model_info{@SERVED})",
                "",
            ),
        ),
        kind="table",
        width=24,
        height=6,
        runbook="MizzenVersionsDiffer",
    ),
    Panel(
        "Replicas by version",
        "none",
        "As they take a new version over.",
        (
            Query(
                "sum by (app, model, version) (mizzen_model_info{@SERVED})", "{{app}}: {{model}} {{version}}"
            ),
        ),
        width=12,
        runbook="MizzenVersionsDiffer",
    ),
    Panel(
        "Loaded for",
        "s",
        "How long ago each version was loaded.",
        (
            Query(
                "time() - max by (app, model, version) (mizzen_model_loaded_timestamp_seconds{@SERVED} > 0)",
                "{{app}}: {{model}} {{version}}",
            ),
        ),
        kind="bars",
        width=6,
    ),
    Panel(
        "Versions that could not be loaded",
        "none",
        "In the chosen time; the version before went on answering.",
        (
            Query(
                counted("mizzen_reload_failures_total", "@SERVED", "app, model, version"),
                "{{app}}: {{model}} {{version}}",
            ),
        ),
        kind="number",
        width=6,
        limits=((0.5, "red"),),
        runbook="MizzenVersionNotLoaded",
    ),
)

_REPLICAS = (
    Panel(
        "Replicas",
        "none",
        "Healthy ones, and how many Ray Serve wants.",
        (
            Query(
                "sum by (application) (ray_serve_deployment_replica_healthy{@RELEASE})",
                "{{application}} healthy",
            ),
            Query(
                "sum by (application) (ray_serve_autoscaling_target_replicas{@RELEASE})",
                "{{application}} wanted",
            ),
        ),
        width=12,
        runbook="MizzenNoReplica",
    ),
    Panel(
        "At the ingress",
        "reqps",
        "Answers where requests come in, also to those that reached no replica.",
        (
            Query(
                rate("haproxy_frontend_http_responses_total", '@RELEASE,proxy="http_frontend"', "code"),
                "{{code}}",
            ),
        ),
        kind="stacked",
        width=12,
        runbook="MizzenIngressFails",
    ),
)

BOARD = Board(
    "overview",
    "Mizzen overview",
    "Service levels, requests, versions and replicas of all applications.",
    (
        Row("Service levels", _SERVICE_LEVELS),
        Row("Requests", _PER_SECOND),
        Row("Versions", _VERSIONS),
        Row("On a cluster", _REPLICAS),
    ),
)
