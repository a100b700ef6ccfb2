"""All rule files, in the order in which people read them."""

from __future__ import annotations

from rule import RuleFile

from rule_files import (
    chat,
    delivery,
    kubernetes,
    machines,
    service_levels,
    serving,
    store,
    training,
    workloads,
)

ALL: tuple[RuleFile, ...] = (
    service_levels.FILE,
    serving.FILE,
    delivery.FILE,
    chat.FILE,
    workloads.FILE,
    training.FILE,
    store.FILE,
    machines.FILE,
    kubernetes.FILE,
)
