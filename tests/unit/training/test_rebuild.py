from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mizzen import settings
from mizzen.errors import DataError, InputError, JobError
from mizzen.settings import Settings
from mizzen.store.manifest import Manifest
from mizzen.store.runs import Runs
from mizzen.store.store import ModelStore
from mizzen.training import job as jobs
from mizzen.training import launch, pipeline, rebuild
from mizzen.training.job import TrainJob
from mizzen.workloads.contract import DataReport, Prepared

Ours = Callable[..., TrainJob]


@pytest.fixture
def here(mizzen_home: Path) -> Settings:
    return settings.read(os.environ)


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What the data of the next preparations is, in turn, in the place of real preparation."""
    left: list[str] = []

    def prepare(job: TrainJob, settings: Settings, say: Any) -> Prepared:
        return Prepared(tmp_path, left.pop(0), DataReport(1, 1))

    monkeypatch.setattr(launch, "prepare", prepare)
    return left


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Manifest]:
    """Versions, published without export."""
    made: list[Manifest] = []

    def publish(job: TrainJob, prepared: Prepared, result: Any, store: ModelStore, *_: Any) -> Manifest:
        from mizzen.store.manifest import Candidate, GateReport, ParityResult

        parity = ParityResult(probe="p", max_abs=0, mean_abs=0, tolerance=1, passed=True)
        gate = GateReport(
            parity=(parity,), quality=None, precision=job.precision, provider="CPU", passed=True
        )
        (prepared.folder / "export").mkdir(exist_ok=True)
        (prepared.folder / "export" / "file").write_text(prepared.digest)
        candidate = Candidate(prepared.folder, job.workload, job.precision, gate)
        monkeypatch.setattr(type(job.implementation), "extra_report", lambda *_: {})
        draft = pipeline._draft(job, prepared, result, candidate, {}, {})
        made.append(store.publish(draft, prepared.folder / "export"))
        if job.publish.alias:
            store.set_alias(job.model_name, made[-1].version, job.publish.alias)
        return made[-1]

    monkeypatch.setattr(pipeline, "publish", publish)
    return made


def a_job(**fields: Any) -> TrainJob:
    content = {
        "name": "kb",
        "workload": "knowledge",
        "data": {"paths": ["docs"]},
        "training": {"steps": 0},
        "publish": {"quantize": "fp32", **fields.pop("publish", {})},
        **fields,
    }
    return jobs.parse(content, "a test")


def run(job: TrainJob, here: Settings) -> rebuild.Rebuilt:
    return rebuild.rebuild(job, here, lambda _: None)


def test_only_what_has_changed_is_published(
    here: Settings, digests: list[str], published: list[Manifest]
) -> None:
    digests += ["a" * 64, "a" * 64, "b" * 64]
    first, again, changed = (run(a_job(), here) for _ in range(3))
    assert [r.manifest.version for r in (first, again, changed)] == [1, 1, 2]
    assert [r.is_new for r in (first, again, changed)] == [True, False, True]
    states = [record.state for record in Runs(here.store_url).list()]
    assert states == ["succeeded"] * 3


def test_another_precision_or_other_libraries_make_another_version(
    here: Settings, digests: list[str], published: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    digests += ["a" * 64] * 3
    run(a_job(), here)
    assert run(a_job(publish={"quantize": "int8"}), here).is_new
    monkeypatch.setattr(pipeline, "libraries", lambda: {"torch": "3"})
    assert run(a_job(publish={"quantize": "int8"}), here).is_new


def test_the_alias_is_pointed_at_what_had_been_there_already(
    here: Settings, digests: list[str], published: list[Manifest]
) -> None:
    digests += ["a" * 64] * 3
    store = ModelStore(here.store_url)
    run(a_job(publish={"alias": None}), here)
    assert store.aliases("kb") == {}
    run(a_job(), here)
    run(a_job(), here)
    assert store.aliases("kb")["production"].version == 1
    assert len(store.history("kb", "production")) == 1


def test_a_model_of_another_workload_is_not_continued(
    here: Settings, digests: list[str], published: list[Manifest]
) -> None:
    digests += ["a" * 64]
    run(a_job(), here)
    other = a_job().model_copy(update={"workload": "chat"})
    with pytest.raises(InputError, match=r"none of the workload 'chat'.*kb@1, knowledge"):
        rebuild.latest(ModelStore(here.store_url), other)


def test_a_job_that_trains_is_refused(here: Settings) -> None:
    with pytest.raises(JobError, match="this job trains"):
        run(a_job(training={"steps": 3}), here)


def test_a_build_that_fails_is_on_record(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(*_: Any) -> Prepared:
        raise DataError("not one document can be read")

    monkeypatch.setattr(launch, "prepare", prepare)
    with pytest.raises(DataError):
        run(a_job(), here)
    (record,) = Runs(here.store_url).list()
    assert (record.state, record.error) == ("failed", "not one document can be read")
