"""Measures a step of `mizzen train` beside the same step under bare torchrun and DeepSpeed, on CPUs.

    python load_tests/training/step_time.py [CASE...] [--rounds N] [--steps N] [--all-cores] [--out FOLDER]

Cases: chat (a Llama of 12 million parameters, random weights) and recommendation (the recipe of
`jobs/recommendation.yaml`), two workers each. Both sides train the same model on the same batches in the
same order; their losses are compared first, and a difference ends the run. The sides take turns, round after
round. It runs with Mizzen's own Python and takes about ten minutes.

The workers of both sides keep to all cores but the last, as where a node has more cores than workers. With
`--all-cores` they share every core with what else a run needs (Ray's processes, the one that follows the
run): that then is in the ratio, and is the more the smaller the machine.

The exit code is 0 if all budgets are met (`load_tests/budgets.yaml`), 1 if not, 2 if the run failed. Figures
of wall time count only from a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # what all load tests share

import cases
from cases import NUM_WORKERS, Case
from timed_workloads import CORES_VARIABLE, FOLDER_VARIABLE, PREFIX, STEPS_VARIABLE, plugged_in

import report
import verdicts
from mizzen import datasets, local_ray, settings
from mizzen.errors import MizzenError
from mizzen.store.runs import Runs
from mizzen.training import job as jobs
from mizzen.training import start_up

HERE = Path(__file__).parent
CASES = {"chat": 120, "recommendation": 700}
"""With their steps: as many as take some twenty seconds on a small machine, after the warm-up."""
WARM_UP_STEPS = 60
"""More than those of which Mizzen reports each, as runs begin; then it reports twice a second."""
OURS, BARE = "mizzen", "torchrun"
LIMIT_S = 600.0
LOSS_TOLERANCE = 1e-5
"""Relative; the sums over ranks are the same in both, so nothing but their order could differ."""
MEASUREMENT = "steps"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Figures:
    """One side in one round; times of a step of the first worker, after the warm-up."""

    median_ms: float
    p90_ms: float
    cpu_ms: float
    """CPU time of the first worker's process for each step."""
    other_cpu_ms: float
    """CPU time of everything on the machine but the workers for each step."""
    first_step_s: float
    """From the command to the end of the first step."""
    data_share: float | None
    """Of a step, while it waits for its batch; of Mizzen, which measures it."""
    start_up_s: Mapping[str, float] | None = None
    """What passed until the end of the first step, by part; of Mizzen, which tells it."""


@dataclass(frozen=True)
class Ran:
    """What one side has left."""

    losses: Sequence[Sequence[float]]
    """By worker and step."""
    figures: Figures


class Bench:
    """Runs both sides of a case in a `MIZZEN_HOME` of their own."""

    def __init__(self, case: Case, scratch: Path, say: Say, *, all_cores: bool) -> None:
        self.case, self.scratch, self.say = case, scratch, say
        cores = sorted(os.sched_getaffinity(0))
        self.cores = cores if all_cores or len(cores) == 1 else cores[:-1]
        self.home = settings.read({"MIZZEN_HOME": str(scratch / "home")})
        self.home.home.mkdir(exist_ok=True)
        if not self.home.datasets_dir.exists():
            self.home.datasets_dir.symlink_to(settings.current().datasets_dir)
        self.job_file = scratch / f"{case.name}.json"
        self.job_file.write_text(json.dumps(case.job))  # YAML too
        self.prepared: Path | None = None
        self.num_runs = 0

    def environ(self, clock: Path) -> dict[str, str]:
        """Of both sides: the same threads, and everything on loopback."""
        threads = str(self.case.job["scaling"]["cpus_per_worker"])
        return {
            **os.environ,
            **plugged_in(self.scratch / "site"),
            "MIZZEN_HOME": str(self.home.home),
            "MIZZEN_STORE": self.home.store_url,
            FOLDER_VARIABLE: str(clock),
            STEPS_VARIABLE: str(self.case.num_steps),
            CORES_VARIABLE: ",".join(map(str, self.cores)),
            "OMP_NUM_THREADS": threads,
            "GLOO_SOCKET_IFNAME": "lo",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, side: str) -> Ran:
        """Train once."""
        clock = self.scratch / f"clock-{self.case.name}-{self.num_runs}"
        self.num_runs += 1
        clock.mkdir()
        ran = self._ours(clock) if side == OURS else self._bare(clock)
        figures = ran.figures
        share = "" if figures.data_share is None else f"  data {figures.data_share:.2%}"
        self.say(
            f"  {side:9} step {figures.median_ms:7.2f} ms  p90 {figures.p90_ms:7.2f} ms  worker"
            f" {figures.cpu_ms:7.2f} CPU-ms  others {figures.other_cpu_ms:6.2f} CPU-ms"
            f"  first step after {figures.first_step_s:5.1f} s{share}"
        )
        return ran

    def _ours(self, clock: Path) -> Ran:
        # As the `mizzen` command does, whatever its folder is on PATH.
        command = [sys.executable, "-c", "from mizzen.cli import main; main()", "train", str(self.job_file)]
        before = {run.run_id for run in Runs(self.home.store_url).list()}
        began_s = time.time()
        self._execute([*command, "--json"], clock)
        (record,) = [run for run in Runs(self.home.store_url).list() if run.run_id not in before]
        points = [p for p in Runs(self.home.store_url).history(record.run_id) if p.loss is not None]
        late = [p.figures for p in points if p.step > WARM_UP_STEPS]
        waited_s, took_s = (sum(p[name] for p in late) for name in ("data_seconds", "step_seconds"))
        self.prepared = _newest(self.home.prepared_dir)
        ran = _ran(clock, points[0].time_s - began_s, waited_s / took_s)
        self.say("            " + start_up.sentence(record.start_up_s))
        return dataclasses.replace(
            ran, figures=dataclasses.replace(ran.figures, start_up_s=record.start_up_s)
        )

    def _bare(self, clock: Path) -> Ran:
        assert self.prepared is not None, "Mizzen prepares the data first"
        job = _parsed(self.case.job)
        given = clock / "given.json"
        first_step = clock / "first-step"
        content = {
            "job": self.case.job,
            "prepared": str(self.prepared),
            "num_steps": self.case.num_steps,
            "num_threads": max(1, int(job.scaling.cpus_per_worker)),
            "first_step": str(first_step),
        }
        given.write_text(json.dumps(content))
        port = local_ray.free_port()
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(NUM_WORKERS)]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
        command += ["--local-addr", "127.0.0.1", str(HERE / "bare_deepspeed.py"), str(given)]
        began_s = time.time()
        self._execute(command, clock)
        return _ran(clock, float(first_step.read_text()) - began_s, None)

    def _execute(self, command: Sequence[str], clock: Path) -> None:
        log = clock / "log"
        with log.open("w") as stream:
            done = subprocess.run(
                command, env=self.environ(clock), stdout=stream, stderr=subprocess.STDOUT, timeout=LIMIT_S
            )
        if done.returncode != 0:
            raise RuntimeError(f"{command[:5]} has failed ({done.returncode}):\n{log.read_text()[-3000:]}")


def _parsed(content: Mapping[str, Any]) -> jobs.TrainJob:
    """The job, also where the clock's workloads are not installed: the configuration is the same."""
    plain = {**content, "workload": str(content["workload"]).removeprefix(PREFIX)}
    return jobs.parse(plain, "the case")


def _newest(folder: Path) -> Path:
    found = [path for path in folder.iterdir() if (path / "report.json").exists()]
    return max(found, key=lambda path: path.stat().st_mtime)


def _ran(clock: Path, first_step_s: float, data_share: float | None) -> Ran:
    ranks = [json.loads((clock / f"rank-{rank}.json").read_text()) for rank in range(NUM_WORKERS)]
    return Ran([rank["losses"] for rank in ranks], figures_of(ranks, first_step_s, data_share))


def figures_of(ranks: Sequence[Mapping[str, Any]], first_step_s: float, data_share: float | None) -> Figures:
    """What the clocks of all workers say."""
    began_s = ranks[0]["began_s"][WARM_UP_STEPS:]
    steps_ms = sorted((after - before) * 1e3 for before, after in pairwise(began_s))
    num_steps = len(steps_ms)

    def spent_s(rank: Mapping[str, Any], kind: str) -> float:
        values: Sequence[float] = rank[kind]
        return values[-1] - values[WARM_UP_STEPS]

    workers_s = sum(spent_s(rank, "process_cpu_s") for rank in ranks)
    others_s = max(0.0, spent_s(ranks[0], "machine_cpu_s") - workers_s)
    return Figures(
        median_ms=statistics.median(steps_ms),
        p90_ms=steps_ms[int(0.9 * (num_steps - 1))],
        cpu_ms=spent_s(ranks[0], "process_cpu_s") / num_steps * 1e3,
        other_cpu_ms=others_s / num_steps * 1e3,
        first_step_s=first_step_s,
        data_share=data_share,
    )


def compare_losses(ours: Sequence[Sequence[float]], bare: Sequence[Sequence[float]]) -> float:
    """The largest relative difference. Raises `RuntimeError` if the two are not the same training."""
    worst = 0.0
    for rank, (one, other) in enumerate(zip(ours, bare, strict=True)):
        for step, (a, b) in enumerate(zip(one, other, strict=True), start=1):
            difference = abs(a - b) / max(abs(a), abs(b), 1e-12)
            if not difference <= LOSS_TOLERANCE:
                raise RuntimeError(f"worker {rank}'s losses differ at step {step}: {a} and {b}")
            worst = max(worst, difference)
    return worst


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=2, help="how often each side trains (2)")
    steps = ", ".join(f"{name} {num}" for name, num in CASES.items())
    parser.add_argument("--steps", type=int, help=f"of each training ({steps})")
    parser.add_argument("--all-cores", action="store_true", help="let workers use the last core too")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results", help="where the tables go")
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - set(CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; allowed: {', '.join(CASES)}")
    if arguments.rounds < 1 or (arguments.steps or 2 * WARM_UP_STEPS) < 2 * WARM_UP_STEPS:
        parser.error(f"at least one round of {2 * WARM_UP_STEPS} steps")
    started_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started_s:5.0f} s  {text}", flush=True)

    try:
        met = _run(arguments, say)
    except (MizzenError, RuntimeError, OSError, subprocess.TimeoutExpired) as cause:
        print(f"the measurement failed: {cause}", file=sys.stderr)
        return 2
    return 0 if met else 1


def _run(arguments: argparse.Namespace, say: Say) -> bool:
    names, num_rounds, out = arguments.cases or list(CASES), arguments.rounds, arguments.out
    facts = report.machine()
    results: dict[str, Any] = {}
    rounds: dict[str, list[dict[str, Figures]]] = {}
    with tempfile.TemporaryDirectory(prefix="mizzen-steps-") as name:
        scratch = Path(name)
        for case_name in names:
            for sample in ("chatterbot-corpus",) if case_name == "chat" else ("movielens-100k",):
                datasets.fetch(sample)
            folder = scratch / case_name
            folder.mkdir()
            case = cases.case(case_name, arguments.steps or CASES[case_name], folder)
            bench = Bench(case, folder, say, all_cores=arguments.all_cores)
            workload = f"training-{case_name}"
            rounds[workload] = []
            for number in range(num_rounds):
                say(f"{case_name}, round {number + 1} of {num_rounds}")
                order = (OURS, BARE) if number % 2 == 0 else (BARE, OURS)
                ran = {side: bench.run(side) for side in order}
                worst = compare_losses(ran[OURS].losses, ran[BARE].losses)
                say(f"  the same losses: they differ by {worst:.1e} at most")
                rounds[workload].append({side: one.figures for side, one in ran.items()})
            results[workload] = summary(rounds[workload])
    budgets = [one for one in verdicts.read(HERE.parent / "budgets.yaml") if one.workload in results]
    found = verdicts.judge(budgets, results)
    text = markdown(facts, results, found)
    out.mkdir(parents=True, exist_ok=True)
    (out / "training.md").write_text(text)
    as_json = {
        "machine": facts,
        "results": results,
        "rounds": {
            w: [{s: dataclasses.asdict(f) for s, f in r.items()} for r in rs] for w, rs in rounds.items()
        },
        "verdicts": [dataclasses.asdict(verdict) for verdict in found],
    }
    (out / "training.json").write_text(json.dumps(as_json, indent=1))
    say(f"written to {out}/training.md and training.json")
    print(text)
    return all(verdict.met for verdict in found)


def summary(rounds: Sequence[Mapping[str, Figures]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The median over rounds of each figure, by side."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for side in (OURS, BARE):
        several = [dataclasses.asdict(one[side]) for one in rounds]
        result[side] = {MEASUREMENT: {name: _median([one[name] for one in several]) for name in several[0]}}
    return result


def _median(values: Sequence[Any]) -> Any:
    if values[0] is None:
        return None
    if isinstance(values[0], Mapping):
        return {part: statistics.median(one.get(part, 0.0) for one in values) for part in values[0]}
    return statistics.median(values)


def markdown(facts: Mapping[str, Any], results: Mapping[str, Any], found: Sequence[verdicts.Verdict]) -> str:
    """The tables of a run."""
    lines = [
        report.heading(facts),
        "",
        "| case | side | step, median ms | p90 ms | CPU of a worker, ms a step | others' CPU, ms a step |"
        " data, share of a step | command to first step, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for workload, sides in results.items():
        for side, measured in sides.items():
            f = measured[MEASUREMENT]
            share = "not measured" if f["data_share"] is None else f"{f['data_share']:.2%}"
            lines.append(
                f"| {workload} | {side} | {f['median_ms']:.2f} | {f['p90_ms']:.2f} | {f['cpu_ms']:.2f} |"
                f" {f['other_cpu_ms']:.2f} | {share} | {f['first_step_s']:.1f} |"
            )
    for workload, sides in results.items():
        if parts := sides[OURS][MEASUREMENT]["start_up_s"]:
            lines += ["", f"{workload}, {start_up.sentence(parts)}"]
    return "\n".join([*lines, "", *report.judged(found)]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
