"""Machines: whether their series are read, and whether their disks fill up."""

from __future__ import annotations

from rule import Alert, Group, RuleFile

_FREE = "mizzen_disk_free_bytes{$RELEASE} / mizzen_disk_size_bytes{$RELEASE}"

_MACHINES_RULES = (
    Alert(
        "MizzenNotRead",
        "warning",
        "$UP == 0",
        "Prometheus cannot read the series of {{ $labels.instance }}",
        """What runs there may be well, but nobody would notice if it were not: none of the other alerts can
        see it.""",
        lasting="10m",
    ),
    Alert(
        "MizzenDiskFull",
        "critical",
        f"{_FREE} < 0.05",
        "The disk of {{ $labels.instance }} has {{ $value | humanizePercentage }} left",
        """It is the one where MIZZEN_HOME lies: prepared data, checkpoints, cached models. Checkpoints will
        fail, and no new version can be loaded.""",
        lasting="5m",
    ),
    Alert(
        "MizzenDiskFills",
        "warning",
        f"""
        {_FREE} < 0.4
        and predict_linear(mizzen_disk_free_bytes{{$RELEASE}}[6h], $SECONDS(1d)) < 0
        """,
        "The disk of {{ $labels.instance }} will be full within a day",
        """So it is if it goes on as in the last six hours; {{ $value | humanizePercentage }} are left. It is
        the disk where MIZZEN_HOME lies.""",
        lasting="30m",
    ),
)

FILE = RuleFile(
    "machines",
    "Machines and pods.",
    (
        Group(
            "mizzen-machines",
            _MACHINES_RULES,
        ),
    ),
)
