"""Who is compared on which data, and with which command: Mizzen's recipes, their peers, and limits.

It runs nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
JOBS = HERE.parents[1] / "jobs"
WORKLOADS = ("recommendation", "forecasting")
Kind = Literal["ours", "neural", "statistical"]


@dataclass(frozen=True)
class Data:
    """A data set, as one of our recipes prepares it."""

    name: str
    workload: str
    job: Path
    quality: str
    """The figure that is compared."""
    higher_is_better: bool


@dataclass(frozen=True)
class Contender:
    """A method on a data set."""

    data: Data
    name: str
    kind: Kind
    environment: str | None
    """None: Mizzen's own."""
    arguments: tuple[str, ...]
    """Of its script; the folders, the seed and `--quick` are added."""
    limit_cpu_s: float = 1800.0
    seeded: bool = True

    def command(self, python: Path, given: Path, out: Path, seed: int, quick: bool) -> list[str]:
        """What is run: on the files in `given`, with its predictions into `out`."""
        script = HERE / "ours.py" if self.kind == "ours" else HERE / "peers" / f"{self.environment}_peer.py"
        start = [str(self.data.job if self.kind == "ours" else given), str(out)]
        seeding = ["--seed", str(seed)] if self.seeded else []
        more = ["--quick"] if quick else []
        return [str(python), "-W", "ignore", str(script), *start, *self.arguments, *seeding, *more]

    def seeds(self, num_seeds: int) -> range:
        """One run will do where nothing is drawn."""
        return range(num_seeds if self.seeded else 1)


MOVIELENS = Data("movielens-100k", "recommendation", JOBS / "recommendation-benchmark.yaml", "hr@10", True)
M1 = Data("m1-yearly", "forecasting", JOBS / "forecasting-benchmark.yaml", "mase", False)
TAYLOR = Data("taylor", "forecasting", JOBS / "forecasting-taylor.yaml", "mase", False)
DATA = (MOVIELENS, M1, TAYLOR)

RECBOLE_LIMIT_CPU_S = 5400
"""An epoch took 160 (GRU4Rec) and 260 s (SASRec): RecBole trains one target a sequence, and every item some
fifty times an epoch. A run that is stopped here while it still improves decides nothing."""
AUTO_ARIMA_LIMIT_CPU_S = 300.0
"""For fourteen fits with a season of 48 steps on 3,300 observations; the row says if it did not end."""


def _recbole(method: str, *options: str) -> Contender:
    given = ("train_batch_size=128", *options)
    arguments = [part for one in given for part in ("--set", one)]
    limit = ("--cpu-limit-s", str(RECBOLE_LIMIT_CPU_S))
    return Contender(
        MOVIELENS, f"RecBole {method}", "neural", "recbole", ("--method", method, *arguments, *limit),
        limit_cpu_s=2 * RECBOLE_LIMIT_CPU_S,
    )  # fmt: skip


def _statsforecast(data: Data, method: str, *more: str, limit_cpu_s: float = 900.0) -> Contender:
    seasons = " after MSTL (48, 336)" if "--decompose" in more else (" (48)" if data is TAYLOR else "")
    return Contender(
        data, f"{method}{seasons}", "statistical", "statsforecast", ("--method", method, *more),
        limit_cpu_s=limit_cpu_s, seeded=False,
    )  # fmt: skip


def _neuralforecast(data: Data, method: str) -> Contender:
    return Contender(data, method, "neural", "neuralforecast", ("--method", method))


CONTENDERS = (
    Contender(MOVIELENS, "Mizzen", "ours", None, ()),
    _recbole("SASRec", "hidden_dropout_prob=0.2", "attn_dropout_prob=0.2"),
    _recbole("GRU4Rec"),
    Contender(M1, "Mizzen", "ours", None, ()),
    _neuralforecast(M1, "NHITS"),
    _neuralforecast(M1, "PatchTST"),
    _statsforecast(M1, "AutoETS"),
    _statsforecast(M1, "AutoTheta"),
    _statsforecast(M1, "AutoARIMA"),
    Contender(TAYLOR, "Mizzen", "ours", None, ()),
    _neuralforecast(TAYLOR, "NHITS"),
    _neuralforecast(TAYLOR, "PatchTST"),
    _statsforecast(TAYLOR, "AutoETS", "--decompose"),
    _statsforecast(TAYLOR, "AutoTheta", "--decompose"),
    _statsforecast(TAYLOR, "AutoARIMA", "--decompose"),
    _statsforecast(TAYLOR, "AutoTheta"),
    _statsforecast(TAYLOR, "AutoARIMA", limit_cpu_s=AUTO_ARIMA_LIMIT_CPU_S),
)


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    workloads: tuple[str, ...]
    quick: bool
    num_seeds: int
    num_threads: int
    work: Path | None
    out: Path

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """Those of the workloads."""
        return tuple(one for one in CONTENDERS if one.data.workload in self.workloads)


def asked(about: str, arguments: Sequence[str] | None = None) -> Asked:
    """The command line, read; `about` is shown by `--help`. Ends the process if it is wrong."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"default: {', '.join(WORKLOADS)}")
    parser.add_argument("--quick", action="store_true", help="one epoch or ten steps, one seed: to try it")
    parser.add_argument("--seeds", type=int, default=2, help="how often what draws is trained (2)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each contender's process (1)")
    parser.add_argument("--work", type=Path, help="what has ended is kept here (default: in MIZZEN_HOME)")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results", help="where the tables go")
    found = parser.parse_args(arguments)
    unknown = set(found.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; allowed: {', '.join(WORKLOADS)}")
    for name in ("seeds", "threads"):
        if getattr(found, name) < 1:
            parser.error(f"--{name} is {getattr(found, name)}; allowed: 1 or more")
    return Asked(
        workloads=tuple(found.workloads) or WORKLOADS,
        quick=found.quick,
        num_seeds=1 if found.quick else found.seeds,
        num_threads=found.threads,
        work=found.work,
        out=found.out,
    )
