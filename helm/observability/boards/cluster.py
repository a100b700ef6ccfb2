"""Machines and costs: hours of CPU and GPU by application and job, memory, disks, pods."""

from __future__ import annotations

from board import Board, Panel, Query, Row, rate

_OWNER = "owner_kind, owner"
_NAME = "{{owner_kind}} {{owner}}"


def _hours(series: str) -> Query:
    return Query(f"sum by ({_OWNER}) (increase({series}{{@RELEASE}}[$__range])) / 3600", _NAME)


_COST = (
    Panel(
        "CPU hours reserved",
        "h",
        "In the chosen time: what replicas and workers cost, busy or not.",
        (_hours("mizzen_reserved_cpu_seconds_total"),),
        kind="bars",
    ),
    Panel(
        "CPU hours used",
        "h",
        "In the chosen time.",
        (_hours("mizzen_used_cpu_seconds_total"),),
        kind="bars",
    ),
    Panel(
        "GPU hours reserved",
        "h",
        "In the chosen time.",
        (_hours("mizzen_reserved_gpu_seconds_total"),),
        kind="bars",
    ),
    Panel(
        "CPUs and GPUs reserved",
        "none",
        "By living replicas and workers, by application and job.",
        (
            Query(f"sum by ({_OWNER}) (mizzen_reserved_cpus{{@RELEASE}})", f"{_NAME} CPUs"),
            Query(f"sum by ({_OWNER}) (mizzen_reserved_gpus{{@RELEASE}})", f"{_NAME} GPUs"),
        ),
        kind="stacked",
    ),
    Panel(
        "CPUs used",
        "none",
        "By application and job.",
        (Query(rate("mizzen_used_cpu_seconds_total", "@RELEASE", _OWNER), _NAME),),
        kind="stacked",
    ),
    Panel(
        "Memory",
        "bytes",
        "Resident memory of replicas and workers.",
        (Query(f"sum by ({_OWNER}) (mizzen_resident_memory_bytes{{@RELEASE}})", _NAME),),
        kind="stacked",
    ),
)

_MACHINES = (
    Panel(
        "Disks",
        "percentunit",
        "What is taken of the disk where MIZZEN_HOME lies.",
        (
            Query(
                "1 - mizzen_disk_free_bytes{@RELEASE} / mizzen_disk_size_bytes{@RELEASE}",
                "{{pod}} {{instance}}",
            ),
        ),
        most=1.0,
        limits=((0.95, "red"),),
        base="transparent",
        runbook="MizzenDiskFull",
    ),
    Panel(
        "Free on disks",
        "bytes",
        "Where MIZZEN_HOME lies.",
        (Query("mizzen_disk_free_bytes{@RELEASE}", "{{pod}} {{instance}}"),),
        runbook="MizzenDiskFills",
    ),
    Panel(
        "Versions of Mizzen",
        "none",
        "How many pods or machines run which.",
        (
            Query(
                "count by (release_version, python) (mizzen_build_info{@RELEASE})",
                "Mizzen {{release_version}}, Python {{python}}",
            ),
        ),
        kind="number",
        base="text",
    ),
)

_PODS = (
    Panel(
        "CPU of pods",
        "percent",
        "As Ray sees it.",
        (Query("avg by (pod) (ray_node_cpu_utilization{@RELEASE})", "{{pod}}"),),
        most=100.0,
    ),
    Panel(
        "Memory of pods",
        "percentunit",
        "Of their limit; Kubernetes kills a pod that needs more.",
        (Query("max by (pod) (ray_node_mem_used{@RELEASE} / ray_node_mem_total{@RELEASE})", "{{pod}}"),),
        most=1.0,
        limits=((0.95, "red"),),
        base="transparent",
        runbook="MizzenMemoryNearlyFull",
    ),
    Panel(
        "GPUs of pods",
        "percent",
        "How busy they are.",
        (Query("avg by (pod) (ray_node_gpus_utilization{@RELEASE})", "{{pod}}"),),
        most=100.0,
    ),
)

BOARD = Board(
    "cluster",
    "Mizzen cluster and cost",
    "Hours of CPU and GPU by application and job, memory, disks and pods.",
    (Row("Cost", _COST), Row("Machines", _MACHINES), Row("Pods (Ray)", _PODS)),
    since="now-24h",
)
