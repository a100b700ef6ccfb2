"""Requests: rates, errors, latencies; overload; versions that replicas could not load or do not agree on."""

from __future__ import annotations

from rule import Alert, Group, Record, RuleFile, by, grew


def p95(level: str, histogram: str) -> Record:
    """A histogram's 95th percentile over five minutes."""
    labels = by(level).replace(")", ", le)")
    return Record(
        f"{level}:{histogram}:p95_rate5m",
        f"histogram_quantile(0.95, sum {labels} (rate({histogram}_bucket{{$RELEASE}}[5m])))",
    )


_OVERLOAD = 'reason=~"queue_full|deadline"'

_REQUESTS_RULES = (
    Record(
        "app:mizzen_requests:rate5m",
        f"sum {by('app')} (rate(mizzen_requests_total{{$RELEASE}}[5m]))",
    ),
    Record(
        "app_version:mizzen_requests:rate5m",
        f"sum {by('app_version')} (rate(mizzen_requests_total{{$RELEASE}}[5m]))",
    ),
    Record(
        "app_version:mizzen_requests_failed:ratio_rate5m",
        f"""
        (
          sum {by("app_version")} (rate(mizzen_requests_total{{$RELEASE,code=~"5.."}}[5m]))
          or 0 * app_version:mizzen_requests:rate5m{{$RELEASE}}
        ) / (app_version:mizzen_requests:rate5m{{$RELEASE}} > 0)
        """,
    ),
    Record(
        "app:mizzen_requests_overloaded:ratio_rate5m",
        f"""
        (
          sum {by("app")} (rate(mizzen_requests_rejected_total{{$RELEASE,{_OVERLOAD}}}[5m]))
          or 0 * app:mizzen_requests:rate5m{{$RELEASE}}
        ) / (app:mizzen_requests:rate5m{{$RELEASE}} > 0)
        """,
    ),
    p95("app", "mizzen_request_duration_seconds"),
    p95("app_version", "mizzen_request_duration_seconds"),
)

_SERVING_RULES = (
    Alert(
        "MizzenOverloaded",
        "warning",
        f"""
        app:mizzen_requests_overloaded:ratio_rate5m{{$RELEASE}} > 0.05
        and sum {by("app")} (increase(mizzen_requests_rejected_total{{$RELEASE,{_OVERLOAD}}}[10m])) > 10
        """,
        "{{ $labels.app }} turns {{ $value | humanizePercentage }} of its requests away",
        """Its queue is full, or requests waited so long that their deadline passed. Raise `replicas` (or
        their `max`) in the serve file, and on a cluster see whether there is room for more.""",
        lasting="10m",
    ),
    Alert(
        "MizzenVersionNotLoaded",
        "warning",
        grew("mizzen_reload_failures_total", "namespace, release, app, model, version", "15m") + " > 0",
        "{{ $labels.model }} version {{ $labels.version }} could not be loaded in {{ $labels.app }}",
        """The version before goes on answering. The replica's log says why. Move the alias back with
        `mizzen models alias` until it is mended.""",
    ),
    Alert(
        "MizzenVersionsDiffer",
        "warning",
        f"""
        count by (namespace, release, app) (
          count {by("app_version")} (
            mizzen_model_info{{$RELEASE}}
            unless on (namespace, release, app, model, version)
            mizzen_traffic_weight_ratio{{$RELEASE,role=~"canary|shadow"}}
          )
        ) > 1
        """,
        "Replicas of {{ $labels.app }} answer with {{ $value }} versions",
        """A new version takes over within minutes; a canary or a shadow is not counted. That it has not
        taken over for half an hour means that some replicas could not load it, or do not reach the store.""",
        lasting="30m",
    ),
)

FILE = RuleFile(
    "serving",
    "Requests and versions of each application.",
    (
        Group(
            "mizzen-requests",
            _REQUESTS_RULES,
        ),
        Group(
            "mizzen-serving",
            _SERVING_RULES,
        ),
    ),
)
