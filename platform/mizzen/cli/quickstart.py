"""`mizzen quickstart`: the whole road once, for every workload that brings a quickstart recipe."""

from __future__ import annotations

import json as jsonlib
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mizzen.cli import output
from mizzen.cli.train import Bars

if TYPE_CHECKING:
    from mizzen.settings import Settings
    from mizzen.store.manifest import Manifest
    from mizzen.training.job import TrainJob
    from mizzen.workloads.contract import Example

NUM_TIMED = 5
"""Requests behind the latency in the table, after the first."""


@dataclass(frozen=True)
class Answer:
    """An endpoint, tried."""

    manifest: Manifest
    job: TrainJob
    url: str
    """What was asked, with the path."""
    body: str
    latency_s: float
    """Median of `NUM_TIMED` requests, one after the other."""
    reply: Any


def quickstart(
    once: Annotated[bool, typer.Option("--once", help="Stop after the first answers.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to serve.")] = 8000,
    json: output.JsonOption = False,
) -> None:
    """Train, gate, publish and serve one model of each workload on real sample data.

    A second run reuses what the first one published. It serves until Ctrl-C.

    Example: [bold]mizzen quickstart --once[/bold]
    """
    from mizzen import targets
    from mizzen.cli.metrics import PORT
    from mizzen.serving import local
    from mizzen.serving.spec import App, Http, ServeSpec
    from mizzen.settings import current

    settings = current()
    models = list(_models(settings))
    apps = tuple(App(name=m.name, model=f"{m.name}@{m.version}", num_cpus=0.5) for _, m in models)
    spec = ServeSpec(http=Http(port=port), apps=apps)
    with _key(settings) as key:
        served = local.start(spec, settings, output.say)
        try:
            answers = [_try(job, manifest, f"{served.url}/{manifest.name}", key) for job, manifest in models]
        except BaseException:
            served.shutdown()
            raise
    try:
        if json:
            output.show_json([_for_scripts(answer) for answer in answers])
        else:
            _show(answers)
        if not once:
            with targets.shown(settings.metrics_dir, settings.run_dir, port=PORT, say=output.say) as at:
                output.say(f"serving on {served.url}; metrics on http://127.0.0.1:{at}/metrics; Ctrl-C stops")
                local.run_until_interrupted(served, lambda: spec, output.say)
    finally:
        served.shutdown()


@contextmanager
def _key(settings: Settings) -> Iterator[str | None]:
    """A key for the requests that are made here, if endpoints ask for one."""
    from mizzen.errors import StoreError
    from mizzen.serving.trial import read_key
    from mizzen.store.keys import Keys, Rights
    from mizzen.store.objects import Objects

    if settings.api_keys != "store":
        yield read_key(settings.api_keys_dir) if settings.api_keys_dir else None
        return
    keys = Keys(Objects(settings.store_url))
    rights = Rights(actions=("infer",), expires_at=datetime.now(UTC) + timedelta(hours=1))
    made = keys.create("quickstart", rights)
    try:
        yield made.token
    finally:
        try:
            keys.revoke(made.record.id)
        except StoreError as cause:
            output.say(f"the quickstart's own API key could not be revoked ({cause}); it expires in an hour")


def _models(settings: Settings) -> Iterator[tuple[TrainJob, Manifest]]:
    """For each workload its quickstart job and the version that it made, now or in an earlier run."""
    from mizzen.training.job import load
    from mizzen.workloads import registry

    recipes = [registry.get(name).recipes().get("quickstart") for name in registry.names()]
    jobs = [load(recipe.file) for recipe in recipes if recipe is not None]
    made = {job.name: _earlier(job, settings) for job in jobs}
    for name, manifest in made.items():
        if manifest is not None:
            output.say(f"{name}: reusing {manifest.name}@{manifest.version} of an earlier run")
    made |= _trained([job for job in jobs if made[job.name] is None], settings)
    for job in jobs:
        manifest = made[job.name]
        assert manifest is not None  # each was reused or trained
        yield job, manifest


def _earlier(job: TrainJob, settings: Settings) -> Manifest | None:
    """The version in force under the job's alias, if the very same job and code made it."""
    from importlib.metadata import version

    from mizzen.errors import NotFoundError
    from mizzen.store.store import ModelStore

    try:
        manifest = ModelStore(settings.store_url).resolve(f"{job.model_name}@{job.publish.alias}")
    except NotFoundError:
        return None
    same = manifest.lineage.job == job.for_the_record()
    return manifest if same and manifest.lineage.code_version == version("mizzen") else None


def _trained(jobs: list[TrainJob], settings: Settings) -> dict[str, Manifest]:
    from mizzen.training.launch import ray_for
    from mizzen.training.pipeline import run

    if not jobs:
        return {}
    made = {}
    with ray_for(jobs, settings):
        for job in jobs:
            output.say(f"{job.name}: {job.implementation.summary}")
            with Bars() as bars:
                made[job.name] = run(job, settings, say=output.say, watch=bars.watch).manifest
    return made


def _try(job: TrainJob, manifest: Manifest, url: str, key: str | None) -> Answer:
    from mizzen.errors import ServingError
    from mizzen.settings import current
    from mizzen.store.store import ModelStore

    folder = ModelStore(current().store_url).fetch(manifest, current().cache_dir)
    examples = job.implementation.examples(folder)
    if not examples:
        raise ServingError(f"the workload {job.workload} has no example request")
    example: Example = examples[0]
    body = jsonlib.dumps(example.body)
    reply, durations = None, []
    for _ in range(1 + NUM_TIMED):
        started = time.perf_counter()
        reply = _post(url + example.path, body, key)
        durations.append(time.perf_counter() - started)
    return Answer(manifest, job, url + example.path, body, statistics.median(durations[1:]), reply)


def _post(url: str, body: str, key: str | None) -> Any:
    from mizzen.errors import ServingError

    headers = {"content-type": "application/json", **({"x-api-key": key} if key else {})}
    request = urllib.request.Request(url, body.encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return jsonlib.load(response)
    except urllib.error.HTTPError as cause:
        raise ServingError(f"{url} answered {cause.code}: {cause.read().decode()[:500]}") from None
    except urllib.error.URLError as cause:
        raise ServingError(f"{url} does not answer: {cause.reason}") from None


def _show(answers: list[Answer]) -> None:
    from mizzen.settings import current

    output.show_table(
        "",
        ["model", "version#", "quality on test", "parity", "endpoint", "latency#"],
        [
            [
                a.manifest.name,
                a.manifest.version,
                _quality(a),
                _parity(a.manifest),
                a.url,
                f"{a.latency_s * 1e3:.1f} ms",
            ]
            for a in answers
        ],
    )
    output.out.print("\nTry them:")
    for answer in answers:
        quoted = answer.body.replace("'", "'\\''")
        key = " -H 'x-api-key: YOUR-KEY'" if current().api_keys not in (None, "none") else ""
        print(f"\ncurl -s {answer.url} -H 'content-type: application/json'{key} -d '{quoted}'")


def _quality(answer: Answer) -> str:
    """The workload's metric with the simple methods' below it, and what training did to it."""
    metric = answer.job.implementation.quality.name
    manifest = answer.manifest
    figures = {metric: manifest.quality[metric]}
    figures |= {f"  {name}": m[metric] for name, m in manifest.baselines.items() if metric in m}
    before = manifest.lineage.initial_metrics.get(metric)
    if before is not None and not manifest.baselines:
        figures |= {"  on validation": manifest.lineage.metrics[metric], "  before training": before}
    return "\n".join(f"{name} {output.figure(value)}" for name, value in figures.items())


def _parity(manifest: Manifest) -> str:
    gate = manifest.gate
    worst = max((p.max_abs for p in gate.parity), default=None)
    lines = [f"{manifest.precision}, max |Δ| {output.figure(worst)}"]
    if gate.quality:
        lines.append(f"{gate.quality.metric} {gate.quality.relative_loss:+.2%} lost")
    return "\n".join(lines)


def _for_scripts(answer: Answer) -> dict[str, Any]:
    manifest = answer.manifest
    return {
        "model": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "quality": manifest.quality,
        "baselines": manifest.baselines,
        "gate": manifest.gate.model_dump(mode="json"),
        "endpoint": answer.url,
        "request": jsonlib.loads(answer.body),
        "reply": answer.reply,
        "latency_seconds": answer.latency_s,
    }
