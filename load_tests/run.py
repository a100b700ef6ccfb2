"""Measures Mizzen beside its peers on this machine, writes one table, and says whether the budgets are met.

    python load_tests/run.py [WORKLOAD...] [--quick] [--rounds N] [--out FOLDER]

It runs with Mizzen's own Python, and needs a store with the models of `make quickstart` (alias `production`).
The exit code is 0 if all budgets are met, 1 if not, 2 if the run failed. Figures count only from a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import environments
import inputs
import report
import verdicts
from answers import Checker, Different
from chat_plan import ChatRounds
from chat_plan import plan as chat_plan
from measure import Locust
from mizzen import settings
from mizzen.errors import MizzenError
from mizzen.store.store import ModelStore
from plans import FASTAPI, LITSERVE, Bench, Measured, TensorPlan, TensorRounds, Times

HERE = Path(__file__).parent
WORKLOADS = ("recommendation", "forecasting", "chat")
CARRIES = {"recommendation": {FASTAPI: 0.5, LITSERVE: 2.0}, "forecasting": {}}
"""How many times a peer's load Mizzen must carry at the peer's p99: nobody asks that of forecasting."""
LIGHT_RATE = 100.0
SERIES_TOGETHER = 16


class Rounds(Protocol):
    """The rounds of one workload."""

    def round(self, number: int) -> Measured:
        """Measure every server once."""
        ...


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"default: {', '.join(WORKLOADS)}")
    parser.add_argument("--quick", action="store_true", help="short measurements, one round: to try it")
    parser.add_argument("--rounds", type=int, help="how often each server is measured (2)")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where the tables go")
    arguments = parser.parse_args()
    unknown = set(arguments.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; allowed: {', '.join(WORKLOADS)}")
    started_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started_s:5.0f} s  {text}", flush=True)

    workloads = arguments.workloads or WORKLOADS
    num_rounds = arguments.rounds or (1 if arguments.quick else 2)
    try:
        met = _run(workloads, num_rounds, arguments.quick, arguments.out, say)
    except (MizzenError, Different, RuntimeError, OSError) as cause:
        print(f"the load test failed: {cause}", file=sys.stderr)
        return 2
    return 0 if met else 1


def _run(
    workloads: Sequence[str], num_rounds: int, quick: bool, out: Path, say: Callable[[str], None]
) -> bool:
    needed = {"locust"} | ({"genai"} if "chat" in workloads else set())
    needed |= {FASTAPI, LITSERVE} if set(workloads) - {"chat"} else set()
    pythons = {name: environments.python(name, say) for name in sorted(needed)}
    facts = report.machine()
    rounds: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory(prefix="mizzen-load-") as folder:
        scratch = Path(folder)
        locust = Locust(pythons["locust"], scratch)
        for workload in workloads:
            times = _times(workload, quick)
            bench = Bench(locust, scratch, times, pythons, say)
            plan = _rounds(workload, bench)
            rounds[workload] = []
            for number in range(num_rounds):
                say(f"{workload}, round {number + 1} of {num_rounds}")
                rounds[workload].append(plan.round(number))
    results = {workload: report.summarise(several) for workload, several in rounds.items()}
    budgets = [one for one in verdicts.read(HERE / "budgets.yaml") if one.workload in workloads]
    found = verdicts.judge(budgets, results)
    text = report.markdown(facts, results, found)
    out.mkdir(parents=True, exist_ok=True)
    (out / "latest.md").write_text(text)
    (out / "latest.json").write_text(report.as_json(facts, results, rounds, found))
    say(f"written to {out}/latest.md and latest.json")
    print(text)
    return all(verdict.met for verdict in found)


def _times(workload: str, quick: bool) -> Times:
    if workload == "chat":
        return Times(1.0, 4.0) if quick else Times(3.0, 10.0)
    return Times(1.0, 2.0) if quick else Times(1.5, 6.0)


def _rounds(workload: str, bench: Bench) -> Rounds:
    here = settings.current()
    store = ModelStore(here.store_url)
    folder = store.fetch(store.resolve(f"{workload}@production"), here.cache_dir)
    if workload == "chat":
        return ChatRounds(chat_plan(folder, bench.scratch, os.cpu_count() or 1), bench)
    more: dict[str, Any] = {}
    if workload == "recommendation":
        requests = inputs.write(inputs.recommendation(folder), bench.scratch / "recommendation.jsonl")
    else:
        requests = inputs.write(inputs.forecasting(1), bench.scratch / "forecasting.jsonl")
        together = inputs.forecasting(SERIES_TOGETHER)
        more["together"] = inputs.write(together, bench.scratch / "forecasting-together.jsonl")
    path = {"recommendation": "/v1/recommendations", "forecasting": "/v1/timeseries/forecast"}[workload]
    # The models are small: a second thread for one operator costs more than it gains, here as in the peers.
    options = {"num_threads": 1}
    plan = TensorPlan(workload, path, folder, requests, more, LIGHT_RATE, CARRIES[workload], options)
    return TensorRounds(plan, bench, Checker(workload))


if __name__ == "__main__":
    sys.exit(main())
