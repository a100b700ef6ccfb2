"""The model store: whether it answers, and how fast."""

from __future__ import annotations

from rule import Alert, Group, Record, RuleFile, by

_OPERATION = by("operation")
_DURATION = "mizzen_store_operation_duration_seconds"
_SMALL = 'operation=~"create|list|delete"'
"""Calls that take no time by themselves; to read and write a model's weights takes as long as it takes."""

_STORE_RECORDED = (
    Record(
        "operation:mizzen_store_operations:rate10m",
        f"sum {_OPERATION} (rate({_DURATION}_count{{$RELEASE}}[10m]))",
    ),
    Record(
        "operation:mizzen_store_errors:ratio_rate10m",
        f"""
        (
          sum {_OPERATION} (rate(mizzen_store_errors_total{{$RELEASE}}[10m]))
          or 0 * operation:mizzen_store_operations:rate10m{{$RELEASE}}
        ) / (operation:mizzen_store_operations:rate10m{{$RELEASE}} > 0)
        """,
    ),
    Record(
        "operation:mizzen_store_operation_duration_seconds:p95_rate10m",
        f"""
        histogram_quantile(
          0.95,
          sum {_OPERATION.replace(")", ", le)")} (rate({_DURATION}_bucket{{$RELEASE}}[10m]))
        )
        """,
    ),
)

_STORE_RULES = (
    Alert(
        "MizzenStoreFails",
        "critical",
        f"""
        operation:mizzen_store_errors:ratio_rate10m{{$RELEASE}} > 0.05
        and sum {_OPERATION} (increase(mizzen_store_errors_total{{$RELEASE}}[10m])) >= 5
        and sum {_OPERATION} (increase(mizzen_store_errors_total{{$RELEASE}}[3m])) > 0
        """,
        "{{ $value | humanizePercentage }} of the store's calls fail: {{ $labels.operation }}",
        """What is served goes on with the versions that are loaded, but no replica can start or take a new
        version, and no run can publish. Look at the store's address, its credentials and the network.""",
        lasting="5m",
    ),
    Alert(
        "MizzenStoreSlow",
        "warning",
        f"""
        operation:mizzen_store_operation_duration_seconds:p95_rate10m{{$RELEASE,{_SMALL}}} > 2
        and operation:mizzen_store_operations:rate10m{{$RELEASE,{_SMALL}}} * $SECONDS(10m) >= 20
        """,
        "The store takes {{ $value | humanizeDuration }} to {{ $labels.operation }}",
        """One call in twenty takes at least that long, though such calls carry next to nothing. Keys, aliases
        and feedback are late. The store throttles, is far away, or its disk is slow.""",
        lasting="15m",
    ),
)

FILE = RuleFile(
    "store",
    "The model store.",
    (
        Group(
            "mizzen-store-recorded",
            _STORE_RECORDED,
        ),
        Group(
            "mizzen-store",
            _STORE_RULES,
        ),
    ),
)
