"""What a new version meets on its way: gate, canary, shadow, and inputs unlike those of its training."""

from __future__ import annotations

from rule import Alert, Group, Record, RuleFile, by, grew

_FEATURE = by("app_version_feature")
_BINS = by("app_version_feature_bin")
_ON_VERSION = "on (namespace, release, app, model, version)"
_ON_APP = "on (namespace, release, app)"
SMOOTHING = 5
"""Observations as training expects them, added so that an empty bin has a logarithm; as replicas do."""


def _with_role(expression: str, role: str) -> str:
    return f'({expression} and {_ON_VERSION} (mizzen_traffic_weight_ratio{{$RELEASE,role="{role}"}} > 0))'


def _canary_worse(measure: str, times: float, margin: float, window_requests: int) -> str:
    return f"""
{_with_role(measure, "canary")}
> {_ON_APP} group_left ()
({times:g} * max by (namespace, release, app) {_with_role(measure, "primary")} + {margin:g})
and {_ON_VERSION} app_version:mizzen_requests:rate5m{{$RELEASE}} * $SECONDS(5m) >= {window_requests}
"""


def _shadow_share(outcomes: str, of: str) -> str:
    counted = "rate(mizzen_shadow_requests_total"
    return f"""
(
  sum {by("app_version")} ({counted}{{$RELEASE,outcome=~"{outcomes}"}}[1h]))
  / sum {by("app_version")} ({counted}{{$RELEASE,outcome=~"{of}"}}[1h]))
) > 0.2
and sum {by("app_version")} (increase(mizzen_shadow_requests_total{{$RELEASE,outcome=~"{of}"}}[1h])) >= 50
"""


_DRIFT_RULES = (
    Record(
        "app_version_feature:mizzen_drift_observations:increase1h",
        f"sum {_FEATURE} (increase(mizzen_drift_observations_total{{$RELEASE}}[1h]))",
    ),
    Record(
        "app_version_feature_bin:mizzen_drift_expected:ratio",
        f"max {_BINS} (mizzen_drift_expected_ratio{{$RELEASE}})",
    ),
    Record(
        "app_version_feature_bin:mizzen_drift_actual:ratio1h",
        f"""
        (
          sum {_BINS} (increase(mizzen_drift_observations_total{{$RELEASE}}[1h]))
          + {SMOOTHING} * app_version_feature_bin:mizzen_drift_expected:ratio{{$RELEASE}}
        )
        / ignoring (bin) group_left ()
        (app_version_feature:mizzen_drift_observations:increase1h{{$RELEASE}} + {SMOOTHING})
        """,
    ),
    Record(
        "app_version_feature:mizzen_drift_psi:ratio1h",
        f"""
        sum {_FEATURE} (
          (
            app_version_feature_bin:mizzen_drift_actual:ratio1h{{$RELEASE}}
            - app_version_feature_bin:mizzen_drift_expected:ratio{{$RELEASE}}
          )
          * ln(
            app_version_feature_bin:mizzen_drift_actual:ratio1h{{$RELEASE}}
            / app_version_feature_bin:mizzen_drift_expected:ratio{{$RELEASE}}
          )
        )
        """,
    ),
)

_DELIVERY_RULES = (
    Alert(
        "MizzenGateFailed",
        "warning",
        grew("mizzen_store_gate_failures_total", "namespace, release, model, check", "1h") + " > 0",
        "A version of {{ $labels.model }} did not pass its gate: {{ $labels.check }}",
        """It is in the store without an alias and will not be served. `mizzen models show` prints the
        gate's report.""",
    ),
    Alert(
        "MizzenCanaryFails",
        "warning",
        _canary_worse("app_version:mizzen_requests_failed:ratio_rate5m{$RELEASE}", 2, 0.02, 50),
        "The canary of {{ $labels.app }}, {{ $labels.model }} version {{ $labels.version }}, fails more",
        """{{ $value | humanizePercentage }} of its requests end with 5xx, more than twice as many as of the
        version beside it. Take `canary` out of the serve file, or move its alias back.""",
        lasting="5m",
    ),
    Alert(
        "MizzenCanarySlow",
        "warning",
        _canary_worse("app_version:mizzen_request_duration_seconds:p95_rate5m{$RELEASE}", 1.5, 0.05, 50),
        "The canary of {{ $labels.app }}, {{ $labels.model }} version {{ $labels.version }}, is slow",
        """One in twenty of its requests takes longer than {{ $value | humanizeDuration }}, over one and a
        half times as long as with the version beside it.""",
        lasting="15m",
    ),
    Alert(
        "MizzenShadowDisagrees",
        "warning",
        _shadow_share("different", "same|different"),
        "The shadow of {{ $labels.app }} answers {{ $value | humanizePercentage }} of requests differently",
        """{{ $labels.model }} version {{ $labels.version }} gets copies of requests, and its answers are
        not those that were sent. Look at a few before it becomes the version that answers.""",
        lasting="15m",
    ),
    Alert(
        "MizzenShadowFails",
        "warning",
        _shadow_share("failed", "same|different|failed"),
        "The shadow of {{ $labels.app }} fails on {{ $value | humanizePercentage }} of requests",
        """{{ $labels.model }} version {{ $labels.version }} gets copies of requests and cannot answer them.
        Nobody notices yet: the answers that are sent come from another version.""",
        lasting="15m",
    ),
    Alert(
        "MizzenInputsDrift",
        "warning",
        """
        app_version_feature:mizzen_drift_psi:ratio1h{$RELEASE} > 0.25
        and app_version_feature:mizzen_drift_observations:increase1h{$RELEASE} >= 200
        """,
        "Inputs of {{ $labels.app }} are unlike those of training: {{ $labels.feature }}",
        """The population stability index of the last hour is {{ $value | humanize }}; above 0.25 means that
        the distributions differ much. What {{ $labels.model }} version {{ $labels.version }} answers may be
        worse than its evaluation says. Train on newer data, or look for a client that sends something
        else.""",
        lasting="15m",
    ),
)

FILE = RuleFile(
    "delivery",
    "The gate, canary and shadow versions, and drift of inputs.",
    (
        Group(
            "mizzen-drift",
            _DRIFT_RULES,
        ),
        Group(
            "mizzen-delivery",
            _DELIVERY_RULES,
        ),
    ),
)
