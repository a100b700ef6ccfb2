"""Which run goes on, and what its job may not change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import JobError, NotFoundError
from mizzen.settings import Settings
from mizzen.store.objects import Objects
from mizzen.store.runs import RunRecord, Runs
from mizzen.training import job as jobs
from mizzen.training import resuming
from mizzen.training.checkpoints import RankRecord, name_of, record_name
from mizzen.training.job import TrainJob

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def job(**sections: dict[str, Any]) -> TrainJob:
    content: dict[str, Any] = {"name": "digits", "workload": "digits", "training": {"steps": 24}}
    for section, fields in sections.items():
        content[section] = {**content.get(section, {}), **fields}
    return jobs.parse(content, "the test's job")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", store_url=f"file://{tmp_path}/store")


def run(
    settings: Settings,
    name: str,
    *,
    state: str = "failed",
    hours: int = 0,
    step: int | None = 10,
    **job_: Any,
) -> None:
    record = RunRecord(
        run_id=name, place="local", state=state, job=job(**job_).for_the_record(),
        created_at=BEGAN + timedelta(hours=hours), updated_at=BEGAN,
    )  # fmt: skip
    Runs(settings.store_url).write(record)
    if step is not None:
        lead = RankRecord(rank=0, world_size=1, step=step, samples=step, zero_stage=1, data_digest="a" * 64)
        objects = Objects((settings.runs_dir / name).as_uri())
        where = f"checkpoints/{name_of(step, 1, '0' * 8)}/{record_name(0, 1)}"
        objects.write(where, lead.model_dump_json().encode())


def chosen(settings: Settings, wanted: str | None = None, *, ended: bool = True, **sections: Any) -> str:
    record, _ = resuming.chosen(job(**sections), wanted, "local", settings, lambda _: ended)
    return record.run_id


def test_the_newest_run_that_has_not_succeeded_and_has_a_checkpoint_goes_on(settings: Settings) -> None:
    run(settings, "a-1", hours=1)
    run(settings, "a-2", hours=2, state="cancelled")
    run(settings, "a-3", hours=3, step=None)
    run(settings, "a-4", hours=4, state="succeeded")
    assert chosen(settings) == "a-2"
    assert chosen(settings, "a-1") == "a-1"


def test_a_run_that_cannot_go_on_is_refused_with_the_reason(settings: Settings) -> None:
    with pytest.raises(NotFoundError, match="no run of digits"):
        chosen(settings)
    run(settings, "a-1", state="succeeded")
    with pytest.raises(JobError, match="has succeeded"):
        chosen(settings, "a-1")
    run(settings, "a-2", step=None)
    with pytest.raises(NotFoundError, match="no checkpoint"):
        chosen(settings, "a-2")
    run(settings, "a-3", state="running")
    with pytest.raises(JobError, match="goes on still"):
        chosen(settings, "a-3", ended=False)
    assert chosen(settings, "a-3") == "a-3"  # its process is gone
    with pytest.raises(NotFoundError):
        chosen(settings, "a-4")


@pytest.mark.parametrize(
    "sections",
    [
        {"scaling": {"workers": 3}},
        {"training": {"steps": 48}},
        {"checkpointing": {"every_steps": 3}},
        {"faults": {"max_failures": 1}},
        {"cluster": {"retries": 2}},
        {"publish": {"alias": None}},
    ],
)
def test_what_does_not_change_the_training_may_differ(settings: Settings, sections: dict[str, Any]) -> None:
    run(settings, "a-1")
    assert chosen(settings, **sections) == "a-1"


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"training": {"steps": 12}}, "training.steps"),
        ({"training": {"steps": None, "epochs": 3}}, "training.epochs"),
        ({"training": {"learning_rate": 0.5}}, "training.learning_rate"),
        ({"deepspeed": {"zero_stage": 3}}, "deepspeed.zero_stage"),
        ({"model": {"hidden_size": 32}}, "model.hidden_size"),
        ({"data": {"label": "digit"}}, "data.label"),
        ({"training": {"early_stopping": {"patience": 3}}}, "training.early_stopping.patience"),
    ],
)
def test_another_training_is_refused_with_the_field(
    settings: Settings, sections: dict[str, Any], field: str
) -> None:
    run(settings, "a-1")
    with pytest.raises(JobError, match=f"another {field}") as caught:
        chosen(settings, **sections)
    assert caught.value.field == field


def test_a_section_that_is_taken_away_is_another_training(settings: Settings) -> None:
    run(settings, "a-1", training={"early_stopping": {"patience": 3}})
    with pytest.raises(JobError, match=r"another training\.early_stopping"):
        chosen(settings)


def test_fields_that_a_later_mizzen_has_added_are_passed_over() -> None:
    resuming.check_same("a-1", {"training": {"steps": 5}}, {"training": {"steps": 5, "new": 1}})


def test_other_data_is_refused(settings: Settings) -> None:
    run(settings, "a-1")
    _, last = resuming.chosen(job(), None, "local", settings, lambda _: True)
    resuming.check_data(last, "a" * 64)
    resuming.check_data(None, "b" * 64)
    with pytest.raises(JobError, match="data is not what it was"):
        resuming.check_data(last, "b" * 64)
