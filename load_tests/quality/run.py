"""Compares the quality of Mizzen's recipes with that of their peers, on our split and by our measure.

    python load_tests/quality/run.py [recommendation|forecasting] [--quick] [--seeds N] [--work FOLDER]

It runs with Mizzen's own Python, and writes one table. Peers run in environments of exact versions, get plain
files that hold nothing of the test split (`handover`), and hand back predictions; `judge` judges those, and
the ones of our published model. The exit code is 0 if we are nowhere below the best neural peer, 1 if we are,
2 if the run failed. What has ended is kept in `--work`, and not run again.
CPU seconds can be compared on a busy machine, wall times are upper bounds there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # what all load tests share

import environments
import handover
import report
import rows
import tables
from contenders import DATA, Asked, Data, asked
from mizzen import settings
from mizzen.errors import MizzenError
from mizzen.training import job, launch
from mizzen.workloads.contract import Prepared
from rows import Bench, Row


def main() -> int:
    """The exit code."""
    wanted, started_s = asked(__doc__ or ""), time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started_s:5.0f} s  {text}", flush=True)

    try:
        parts = compare(wanted, say)
    except (MizzenError, ValueError, RuntimeError, OSError) as cause:
        print(f"the comparison failed: {cause}", file=sys.stderr)
        return 2
    return 0 if all(tables.judged(data, found).met for data, found in parts.items()) else 1


def compare(wanted: Asked, say: Callable[[str], None]) -> dict[Data, list[Row]]:
    """Run everything that is asked for, and write the tables."""
    facts = report.machine()
    names = {one.environment for one in wanted.contenders if one.environment is not None}
    pythons: dict[str | None, Path] = {None: Path(sys.executable)}
    pythons |= {name: environments.python(name, say) for name in sorted(names)}
    work = (wanted.work or settings.current().home / "quality") / ("quick" if wanted.quick else "full")
    bench = Bench(work, pythons, wanted.num_threads, wanted.quick, say)
    prepared = hand_over(wanted, work, say)
    parts = {data: rows.simple(data, content) for data, content in prepared.items()}
    for one in wanted.contenders:
        for seed in one.seeds(wanted.num_seeds):
            parts[one.data].append(rows.row(one, seed, prepared[one.data], bench))
    text = tables.markdown(facts, parts)
    wanted.out.mkdir(parents=True, exist_ok=True)
    (wanted.out / "quality.md").write_text(text)
    (wanted.out / "quality.json").write_text(tables.as_json(facts, parts))
    say(f"written to {wanted.out}/quality.md and quality.json")
    print(text)
    return parts


def hand_over(wanted: Asked, work: Path, say: Callable[[str], None]) -> dict[Data, Prepared]:
    """Our own preparation of each data set, and what peers get of it."""
    here = settings.current()
    chosen = {data: job.load(data.job) for data in DATA if data.workload in wanted.workloads}
    with launch.ray_for(list(chosen.values()), here):
        prepared = {data: launch.prepare(recipe, here, say) for data, recipe in chosen.items()}
    for data, content in prepared.items():
        handover.write(data.workload, content, work / data.name / "given")
    return prepared


if __name__ == "__main__":
    sys.exit(main())
