"""`mizzen runs`: what runs have learned, as tables, pictures, JSON and event files."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mizzen.cli import curves, jobs, runs
from mizzen.cli.run_facts import progress_of
from mizzen.errors import InputError, NotFoundError
from mizzen.settings import current
from mizzen.store.history import Point
from mizzen.store.manifest import Draft, GateReport, Lineage, ParityResult
from mizzen.store.runs import Event, RunRecord, Runs, State
from mizzen.store.store import ModelStore
from mizzen.training.job import parse

NOW = datetime.now(UTC)
BLUE, ORANGE = (31, 119, 180), (255, 127, 14)
"""matplotlib's first two colours."""


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite may have begun long before the test."""
    monkeypatch.setitem(globals(), "NOW", datetime.now(UTC))


def point(step: int, loss: float) -> Point:
    figures = {
        "step_seconds": 0.05,
        "data_seconds": 0.01,
        "samples_per_second": 640.0,
        "memory_bytes": 2.0**30,
    }
    return Point(step=step, time_s=NOW.timestamp() - 100 + step, loss=loss, figures=figures)


def begin(run_id: str, *, rate: float = 0.5, history: bool = True, **fields: Any) -> RunRecord:
    """A run of ten steps in the store, the best validation after the fifth."""
    training = {"steps": 10, "learning_rate": rate}
    job = parse({"name": "digits", "workload": "digits", "training": training}, "a test")
    state: State = fields.pop("state", "succeeded")
    record = RunRecord(
        run_id=run_id, place="local", state=state, job=job.model_dump(mode="json"), created_at=NOW,
        started_at=NOW - timedelta(seconds=95), updated_at=NOW, step=10, num_steps=10,
        ended_at=None if state == "running" else NOW, initial_metrics={"accuracy": 0.1},
        metrics={"accuracy": 0.8}, **fields,
    )  # fmt: skip
    store = Runs(current().store_url)
    store.write(record)
    if history:
        validated = [(0, 0.1), (5, 0.9), (10, 0.8)]
        points = [point(step, 2.0 / step * rate) for step in range(1, 11)]
        points += [
            Point(step=step, time_s=NOW.timestamp() - 100 + step, metrics={"accuracy": v})
            for step, v in validated
        ]
        store.history_writer(run_id).add([p.line() for p in sorted(points, key=lambda p: p.place)])
    return record


def publish(run_id: str, folder: Path) -> None:
    """A version whose gate has failed."""
    parity = ParityResult(probe="p", max_abs=0.5, mean_abs=0.1, tolerance=1e-4, passed=False)
    gate = GateReport(parity=(parity,), quality=None, precision="fp32", provider="CPU", passed=False)
    lineage = Lineage(
        job={}, data_digest="d" * 64, data_report={}, run_id=run_id, code_version="0.1.0", world_size=1,
        deepspeed={}, libraries={},
    )  # fmt: skip
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights")
    draft = Draft(
        name="digits", workload="digits", precision="fp32", quality={"accuracy": 0.75}, gate=gate,
        lineage=lineage,
    )  # fmt: skip
    ModelStore(current().store_url).publish(draft, folder)


def rows(text: str) -> dict[str, list[str]]:
    """Cells of the tables in `text`, by what stands in the first column."""
    lines = [[cell.strip() for cell in re.split("[│┃]", line)] for line in text.splitlines() if "│" in line]
    return {cells[0]: cells[1:] for cells in lines}


def test_runs_are_listed_with_the_metric_that_they_are_judged_by(capsys: pytest.CaptureFixture[str]) -> None:
    begin("first", model="digits", version=3)
    runs.list_()
    assert rows(capsys.readouterr().out)["first"] == [
        *("digits", "succeeded", "10 of 10", "accuracy 0.1", "accuracy 0.8", "digits@3")
    ]


def test_runs_are_compared_fact_by_fact(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    publish("second", tmp_path / "export")
    begin("first", start_up_s={"python": 2.0, "ray": 6.5, "data": 0.25})
    begin("second", rate=0.25, attempt=2, state="failed", error="the gate refused", model="digits", version=1)
    runs.compare(["first", "second"])
    shown = capsys.readouterr().out
    assert "A  first\n" in shown and "B  second\n   the gate refused\n" in shown
    found = rows(shown)
    assert found["state"] == ["succeeded", "failed"]
    assert found["attempts"] == ["1", "2"]
    assert found["steps"] == ["10 of 10", "10 of 10"]
    assert found["took"] == ["1m 35s", "1m 35s"]
    assert found["until the first step"] == ["8.8 s (ray: 6.5 s)", ""]
    assert found["loss, last"] == ["0.1", "0.05"]
    assert found["accuracy, best"] == ["0.9 (step 5)", "0.9 (step 5)"]
    assert found["accuracy, last"] == ["0.8", "0.8"]
    assert found["accuracy, test"] == ["", "0.75"]
    assert (found["published"], found["gate"]) == (["", "digits@1"], ["", "FAILED"])
    assert found["samples per second"] == ["640", "640"]
    assert found["step"] == ["50 ms", "50 ms"]
    assert found["data"] == ["10 ms (20%)", "10 ms (20%)"]
    assert found["memory, most"] == ["1,024 MiB", "1,024 MiB"]
    assert found["training.learning_rate"] == ["0.5", "0.25"]
    assert "training.steps" not in found
    assert "train/loss" in shown and "validation/accuracy" in shown


def test_scripts_get_json(capsys: pytest.CaptureFixture[str]) -> None:
    begin("first")
    begin("second", rate=0.25)
    runs.compare(["first", "second"], metric=["accuracy"], json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == {"training.learning_rate": [0.5, 0.25]}
    assert found["curves"] == {
        "validation/accuracy": {name: [[0, 0.1], [5, 0.9], [10, 0.8]] for name in ("first", "second")}
    }
    one = found["runs"][0]
    assert (one["run_id"], one["best"]) == ("first", {"metric": "accuracy", "step": 5, "value": 0.9})
    assert one["last"]["train/loss"] == 0.1
    assert one["median"]["time/step_seconds"] == 0.05


def test_what_happened_to_a_run_is_shown_with_its_time_by_both_verbs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    happened = Event(time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), kind="stalled", text="[1] is silent")
    begin("first", events=(happened,))
    for show in (runs.show, jobs.show):
        show("first")
        text = capsys.readouterr().out
        assert all(part in text for part in ("2026-01-02 03:04:05 UTC", "stalled", "[1] is silent"))
    expected = {"time": "2026-01-02T03:04:05Z", "kind": "stalled", "text": "[1] is silent"}
    runs.show("first", json=True)
    assert json.loads(capsys.readouterr().out)["runs"][0]["events"] == [expected]
    jobs.show("first", json=True)
    assert json.loads(capsys.readouterr().out)["events"] == [expected]


def test_a_loss_that_is_no_number_is_no_point_of_a_picture_and_null_for_scripts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    begin("first")
    point = Point(step=11, time_s=NOW.timestamp(), loss=float("nan"), figures={"step_seconds": float("inf")})
    Runs(current().store_url).history_writer("first").add([point.line()])
    runs.show("first")
    assert rows(capsys.readouterr().out)["loss, last"] == ["nan"]
    runs.show("first", json=True)
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["runs"][0]["last"]["train/loss"] is None
    assert found["runs"][0]["median"]["time/step_seconds"] == 0.05
    assert len(found["curves"]["train/loss"]["first"]) == 10
    store = Runs(current().store_url)
    store.write(store.show("first").model_copy(update={"metrics": {"accuracy": float("inf")}}))
    runs.list_(json=True)
    (listed,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (listed["metrics"], listed["initial_metrics"]) == ({"accuracy": None}, {"accuracy": 0.1})


def test_what_cannot_be_drawn_or_is_very_long_does_not_fill_the_screen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lost = begin("first", history=False)
    Runs(current().store_url).history_writer("first").add(
        [Point(step=step, time_s=NOW.timestamp(), loss=float("nan")).line() for step in (1, 2)]
    )
    long = {**lost.job, "data": {"path": "long" * 1000}}
    Runs(current().store_url).write(lost.model_copy(update={"run_id": "second", "job": long}))
    runs.compare(["first", "second"])
    shown, said = capsys.readouterr()
    assert "train/loss has no value that can be drawn: all are NaN or infinite" in said
    assert "train/loss" not in shown
    assert shown.count("long") == 100 / 4 and "…" in shown


def test_curves_are_drawn_into_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from matplotlib.image import imread

    begin("first")
    begin("second", rate=0.25)
    runs.compare(["first", "second"], plot=tmp_path / "curves.png")
    pixels_HWC = (imread(tmp_path / "curves.png")[:, :, :3] * 255).round().astype(int)
    assert pixels_HWC.shape[0] > 900 and pixels_HWC.shape[1] > 1200
    upper_HWC = pixels_HWC[: len(pixels_HWC) // 2]
    for colour in (BLUE, ORANGE):
        assert (np.abs(upper_HWC - colour).sum(axis=2) < 6).sum() > 500


def test_what_there_is_not_is_refused_with_what_there_is(tmp_path: Path) -> None:
    begin("first")
    begin("second")
    with pytest.raises(NotFoundError, match=r"no run 'third'; allowed: (first, second|second, first)\."):
        runs.show("third")
    with pytest.raises(InputError, match=r"saw loos; allowed: .*train/loss, validation/accuracy"):
        runs.show("first", metric=["loos"])
    with pytest.raises(InputError, match="two different runs"):
        runs.compare(["first", "first"])
    with pytest.raises(InputError, match=r"ends in \.png"):
        runs.show("first", plot=tmp_path / "curves.jpg")
    with pytest.raises(InputError, match="cannot be written"):
        runs.show("first", plot=tmp_path / "absent" / "curves.png")


def test_a_run_that_has_left_no_history_is_shown_without_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin("old", history=False)
    runs.show("old")
    shown = capsys.readouterr().out
    assert rows(shown)["accuracy, last"] == ["0.8"]
    assert "train/loss" not in shown
    with pytest.raises(InputError, match="nothing to draw"):
        runs.show("old", plot=tmp_path / "curves.png")
    with pytest.raises(InputError, match="has no history"):
        runs.tensorboard("old")
    with pytest.raises(InputError, match="the runs have no history"):
        runs.show("old", metric=["loss"])


def test_event_files_are_made_of_the_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin("first")
    runs.tensorboard("first", to=tmp_path / "logs")
    (file,) = (tmp_path / "logs").iterdir()
    assert file.name.startswith("events.out.tfevents.")
    assert file.read_bytes().count(b"train/loss") == 1 + 10  # the hyper-parameters name it too
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "logs")]
    with pytest.raises(InputError, match="event files already"):
        runs.tensorboard("first", to=tmp_path / "logs")
    runs.tensorboard("first")
    runs.tensorboard("first")  # what this machine's run has written is left alone
    own = current().runs_dir / "first" / "tensorboard"
    assert capsys.readouterr().out.splitlines() == [str(own)] * 2
    assert len(list(own.iterdir())) == 1


def test_a_run_that_goes_on_says_how_long_it_will_take() -> None:
    begin("first", state="running")
    store = Runs(current().store_url)
    store.write(store.show("first").model_copy(update={"num_steps": 30}))
    assert progress_of("first") == "step 10 of 30, about 20s left"
    begin("over")
    assert (progress_of("over"), progress_of("absent")) == ("", "")


def test_a_run_that_nothing_is_heard_of_has_no_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    record = begin("dead", state="running")
    last = datetime.now(UTC) - timedelta(minutes=9)
    times = {"started_at": last - timedelta(minutes=3), "updated_at": last}
    Runs(current().store_url).write(record.model_copy(update={"num_steps": 30, **times}))
    runs.show("dead")
    shown = capsys.readouterr().out
    assert "A  dead\n   nothing was heard of it for 9 minutes\n" in shown
    found = rows(shown)
    assert "time left" not in found
    assert (found["state"], found["took"]) == (["running"], ["3m"])
    assert progress_of("dead") == "step 10 of 30"


# --- pictures -------------------------------------------------------------------------------------

CURVES = [[(1, 2.0), (50, 1.0), (100, 0.5)], [(1, 1.5), (100, 0.75)]]


@pytest.mark.parametrize("width", [30, 42, 80, 100])
def test_a_picture_without_colours_is_plain_text_that_fits(width: int) -> None:
    lines = curves.picture("train/loss", CURVES, width, colours=False).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert {"A", "B"} <= set(text) and "train/loss" in text and "step" in text
    assert "A" in lines[2] and "B" not in lines[2]  # the highest loss is on top


def test_a_picture_with_colours_has_one_for_each_run_and_says_which() -> None:
    text = curves.picture("train/loss", CURVES, 60, colours=True)
    assert text.splitlines()[-1] == "\x1b[38;5;12m── A\x1b[0m  \x1b[38;5;10m── B\x1b[0m"
    assert text.count("\x1b[38;5;12m") > 3 and text.count("\x1b[38;5;10m") > 3
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(len(line) for line in plain.splitlines()) <= 60


def test_a_terminal_that_knows_no_unicode_gets_ascii() -> None:
    assert curves.picture("train/loss", CURVES, 60, colours=False, unicode=False).isascii()


@pytest.mark.parametrize("curve", [[], [(1, 2.0)], [(1, 2.0), (2, 2.0)], [(0, 0.0), (1_000_000, 1e-9)]])
def test_curves_of_a_point_or_none_or_a_flat_one_are_drawn_too(curve: list[tuple[int, float]]) -> None:
    text = curves.picture("train/loss", [curve], 60, colours=False)
    assert ("A" in text) == bool(curve)


def test_noise_is_smoothed_and_short_curves_are_left_alone() -> None:
    short = [(step, float(step % 2)) for step in range(1, 100)]
    assert curves.smooth(short) == short
    long = [(step, float(step % 2)) for step in range(1, 1001)]
    drawn = curves.smooth(long)
    assert [step for step, _ in drawn] == [step for step, _ in long]
    assert all(abs(value - 0.5) < 0.1 for _, value in drawn)


def test_many_runs_have_letters_and_then_numbers() -> None:
    from mizzen.cli.comparison import letters

    assert letters(28)[0] == "A" and letters(28)[25:] == ["Z", "R27", "R28"]
