"""Peers get what training may see and nothing else, and one evaluator with a known figure judges all."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import contenders
import cost
import environments
import handover
import judge
import rows
import tables
from contenders import CONTENDERS, M1, MOVIELENS, TAYLOR, Contender, Data
from cost import Cost
from mizzen import datasets
from mizzen.workloads.contract import DataReport, Prepared
from mizzen.workloads.forecasting import data as forecasting
from mizzen.workloads.forecasting.config import DataConfig
from mizzen.workloads.forecasting.frequency import Frequency
from mizzen.workloads.forecasting.series import Meta, SeriesWriter, Steps
from mizzen.workloads.recommendation import catalogue, histories
from mizzen.workloads.recommendation.data import HELD_OUT
from rows import Bench, Row

USERS = [[1, 2, 3, 4, 6], [5, 4, 3, 2, 1, 3], [2, 5, 1, 6]]
"""Item numbers of each user, the oldest first; the second comes back to an item at the end."""


class Samples:
    def sample(self, name: str) -> Path:
        return datasets.fetch(name)

    def table(self, address: str) -> Any:
        raise AssertionError(f"no table is wanted: {address}")


@pytest.fixture
def met(tmp_path: Path) -> Prepared:
    folder = tmp_path / "met"
    folder.mkdir()
    items = [number for user in USERS for number in user]
    with histories.HistoryWriter(folder / histories.FILE) as writer:
        offsets = np.cumsum([0, *map(len, USERS)])
        keys = np.arange(len(USERS), dtype=np.uint64)
        writer.write(keys, ["u0", "u1", "u2"], offsets, np.array(items))
    names = {number: f"film {number}" for number in set(items)}
    counts: Any = {
        until: Counter(names[number] for user in USERS for number in user[: len(user) - held_out])
        for until, held_out in HELD_OUT.items()
    }
    catalogue.build(counts).write(folder / catalogue.FILE)
    (folder / "meta.json").write_text(json.dumps({"num_evaluation_users": len(USERS)}))
    return Prepared(folder, "a digest", DataReport(0, 0))


def series(folder: Path, *targets: list[float], **changes: Any) -> Prepared:
    """Daily series with a horizon of 2 and a season of 3."""
    fields: dict[str, Any] = {
        "frequency": Frequency(86_400, 0),
        "horizon": 2,
        "context_length": 8,
        "min_context": 2,
        "seasonality": (3,),
        "test_windows": 2,
        "validation_windows": 1,
        "stride": 2,
        "train_stride": 1,
        "scaling": "standard",
        "calendar": (),
        "past_names": (),
        "known_names": (),
    }
    folder.mkdir()
    none = np.zeros((0, 0))
    with SeriesWriter(folder) as writer:
        for number, target in enumerate(targets):
            writer.append(Steps(f"{number}", np.datetime64("2024-01-01"), np.array(target), none, none))
    (folder / "meta.json").write_text(Meta(**{**fields, **changes}).to_json())
    return Prepared(folder, "a digest", DataReport(0, 0))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_evaluator_gives_the_published_figure_of_the_naive_method_on_m1(tmp_path: Path) -> None:
    folder = tmp_path / "m1"
    folder.mkdir()
    config = DataConfig(dataset="m1-yearly", context_length=16)
    prepared = Prepared(folder, "", forecasting.prepare(config, Samples(), folder))  # type: ignore[arg-type]
    naive = judge.simple("forecasting", prepared)["naive"]
    assert naive.shape == judge.shape("forecasting", prepared) == (181, 6)
    assert judge.judge("forecasting", prepared, naive)["mase"] == pytest.approx(4.894322, abs=1e-6)
    # And from the files: what a peer reads gives the same forecast.
    handover.write("forecasting", prepared, tmp_path / "given")
    given = lines(tmp_path / "given" / handover.WINDOWS)
    repeated = np.array([[window["history"][-1]] * 6 for window in given])
    np.testing.assert_array_equal(repeated, naive)


def test_peers_get_each_history_but_its_last_item(met: Prepared, tmp_path: Path) -> None:
    handover.write("recommendation", met, tmp_path / "given")
    ids = (tmp_path / "given" / handover.ITEMS).read_text().splitlines()
    given = lines(tmp_path / "given" / handover.HISTORIES)
    assert {path.name for path in (tmp_path / "given").iterdir()} == {handover.ITEMS, handover.HISTORIES}
    assert sorted(ids) == [f"film {number}" for number in range(1, 7)]
    assert [row["user"] for row in given] == ["u0", "u1", "u2"]
    assert [[ids.index(item) + 1 for item in row["items"]] for row in given] == [user[:-1] for user in USERS]


def test_no_held_out_value_is_in_what_a_peer_trains_on_or_sees_of_a_window(tmp_path: Path) -> None:
    # Each value is there once, so that a value that should not be there is found.
    target = [float(step) + 0.5 for step in range(20)]
    handover.write("forecasting", series(tmp_path / "series", target), tmp_path / "given")
    facts = json.loads((tmp_path / "given" / handover.FACTS).read_text())
    assert facts == {"horizon": 2, "seasonality": [3], "context_length": 8, "num_validation": 2}
    assert lines(tmp_path / "given" / handover.SERIES) == [{"name": "0", "values": target[:16]}]
    windows = lines(tmp_path / "given" / handover.WINDOWS)
    assert [window["history"] for window in windows] == [target[:16], target[:18]]


def test_series_with_missing_steps_are_not_handed_over(tmp_path: Path) -> None:
    prepared = series(tmp_path / "series", [1.0, float("nan"), *map(float, range(18))])
    with pytest.raises(ValueError, match="missing steps"):
        handover.write("forecasting", prepared, tmp_path / "given")


def test_the_item_that_is_held_out_counts_and_those_met_before_do_not(met: Prepared) -> None:
    # Items met before come first in every score, then the one held out.
    scores = np.zeros((3, 6))
    for row, user in enumerate(USERS):
        scores[row, np.array(user[:-1]) - 1] = 2.0
        scores[row, user[-1] - 1] = 1.0
    assert judge.judge("recommendation", met, scores)["ndcg@10"] == 1.0
    constant = judge.judge("recommendation", met, np.zeros((3, 6)))
    assert constant["ndcg@10"] < 1.0


def test_a_forecast_that_is_right_has_no_error_and_one_off_by_the_naive_error_has_mase_one(
    tmp_path: Path,
) -> None:
    target = [float(step) for step in range(20)]
    prepared = series(tmp_path / "series", target)
    right = np.array([target[16:18], target[18:20]])
    assert judge.judge("forecasting", prepared, right)["mase"] == 0.0
    # The line rises by 3 in a season of 3: that is the seasonal naive method's error on its past.
    assert judge.judge("forecasting", prepared, right + 3.0)["mase"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [(np.zeros((2, 3)), r"shape \(2, 3\)"), (np.array([[np.nan, 1.0], [np.inf, 0.0]]), "2 values")],
)
def test_predictions_of_another_shape_or_with_holes_are_refused(
    tmp_path: Path, content: Any, says: str
) -> None:
    np.save(tmp_path / "forecasts.npy", content)
    with pytest.raises(ValueError, match=says):
        handover.predictions(tmp_path / "forecasts.npy", (2, 2))


def test_predictions_may_not_be_pickles(tmp_path: Path) -> None:
    np.save(tmp_path / "forecasts.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        handover.predictions(tmp_path / "forecasts.npy", (1, 1))


def test_the_command_line_chooses_workloads_and_seeds() -> None:
    everything = contenders.asked("", [])
    assert everything.contenders == CONTENDERS
    assert (everything.num_seeds, everything.num_threads) == (2, 1)
    one = contenders.asked("", ["forecasting", "--quick", "--seeds", "3"])
    assert {contender.data for contender in one.contenders} == {M1, TAYLOR}
    assert one.num_seeds == 1


@pytest.mark.parametrize(("wrong", "says"), [(["chat"], "chat"), (["--seeds", "0"], "1 or more")])
def test_a_wrong_command_line_ends_with_what_is_allowed(
    wrong: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        contenders.asked("", wrong)
    assert says in capsys.readouterr().err


def test_every_contender_has_its_script_its_recipe_and_an_environment_of_exact_versions() -> None:
    for one in CONTENDERS:
        command = one.command(Path("python"), Path("given"), Path("out"), 1, quick=True)
        assert Path(command[3]).is_file()
        assert one.data.job.is_file()
        assert ("--seed" in command) is one.seeded
        if one.environment is not None:
            pins = environments.REQUIREMENTS[one.environment].read_text().splitlines()
            assert all(pin.count("==") == 1 for pin in pins)
            assert any(pin.startswith(f"{one.environment}==") for pin in pins)
    for data in contenders.DATA:
        kinds = [one.kind for one in CONTENDERS if one.data == data]
        assert kinds.count("ours") == 1
        assert kinds.count("neural") == 2


def finished(data: Data, name: str, kind: str, *values: float) -> list[Row]:
    return [
        Row(data.name, name, kind, seed, {data.quality: value}, Cost(2.0, 1.0, True), {})
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("data", "ours", "peer", "met"),
    [
        (MOVIELENS, (0.2, 0.3), (0.24, 0.25), True),
        (MOVIELENS, (0.2, 0.2), (0.24, 0.25), False),
        (M1, (3.0, 3.2), (3.1, 3.3), True),
        (M1, (3.3, 3.2), (3.1, 3.3), False),
    ],
)
def test_our_mean_over_seeds_is_held_against_the_best_neural_peers(
    data: Data, ours: tuple[float, ...], peer: tuple[float, ...], met: bool
) -> None:
    worst = 0.01 if data.higher_is_better else 9.0
    best = 0.9 if data.higher_is_better else 0.1
    found = tables.judged(
        data,
        [
            *finished(data, "a poor peer", "neural", worst),
            *finished(data, "the peer", "neural", *peer),
            *finished(data, "ours", "ours", *ours),
            *finished(data, "no network", "statistical", best),
        ],
    )
    assert (found.met, found.peer) == (met, "the peer")
    assert found.ours == pytest.approx(sum(ours) / len(ours))


def test_what_did_not_end_is_no_figure() -> None:
    stopped = Row(M1.name, "NHITS", "neural", 0, {}, Cost(9.0, 9.0, False), {})
    found = tables.judged(M1, [stopped, *finished(M1, "ours", "ours", 3.0)])
    assert (found.met, found.decided, found.best) == (False, False, None)
    facts = {
        "measured_at": "now", "num_cores": 2, "cpu": "a cpu", "memory_gib": 1, "python": "3", "code": "c",
        "load_average_before": 0.0,
    }  # fmt: skip
    text = tables.markdown(facts, {M1: [stopped, *finished(M1, "ours", "ours", 3.0)]})
    assert "| NHITS | neural | did not end | did not end |" in text
    assert "none ended" in text


def test_nothing_is_decided_by_a_peer_that_was_stopped_while_it_still_improved() -> None:
    early = Row(
        M1.name, "NHITS", "neural", 0, {"mase": 4.0}, Cost(9.0, 9.0, True), {"stopped_at_limit": True}
    )
    found = tables.judged(M1, [early, *finished(M1, "ours", "ours", 3.0)])
    assert (found.met, found.decided, found.best) == (False, False, 4.0)


def busy(seconds: float) -> list[str]:
    code = f"import time\nwhile time.process_time() < {seconds}: pass"
    return [sys.executable, "-c", code]


def test_the_cost_of_a_process_counts_the_processes_that_it_has_started(tmp_path: Path) -> None:
    code = f"import subprocess; subprocess.run({busy(0.8)!r}, check=True)"
    used = cost.run([sys.executable, "-c", code], tmp_path / "log", 60.0, 1)
    assert used.ended
    assert used.cpu_s is not None
    assert used.cpu_s > 0.4


def test_a_process_is_ended_at_its_limit_and_one_that_fails_is_told(tmp_path: Path) -> None:
    used = cost.run(busy(600.0), tmp_path / "log", 0.3, 1)
    assert not used.ended
    with pytest.raises(RuntimeError, match="no such luck"):
        cost.run([sys.executable, "-c", "raise SystemExit('no such luck')"], tmp_path / "log", 60.0, 1)


def contender(folder: Path, code: str) -> Callable[[str], Contender]:
    class Scripted(Contender):
        def command(self, python: Path, given: Path, out: Path, seed: int, quick: bool) -> list[str]:
            return [str(python), "-c", code, str(out)]

    return lambda option: Scripted(TAYLOR, "a peer", "neural", None, (option,))


def test_a_contender_is_run_once_and_again_when_its_options_change(tmp_path: Path) -> None:
    prepared = series(tmp_path / "series", [float(step) for step in range(20)])
    code = (
        "import sys, pathlib, numpy\nout = pathlib.Path(sys.argv[1])\n"
        "with (out / 'runs').open('a') as file: file.write('x')\n"
        "numpy.save(out / 'forecasts.npy', numpy.zeros((2, 2)))\n(out / 'report.json').write_text('{}')"
    )
    make = contender(tmp_path, code)
    bench = Bench(tmp_path / "work", {None: Path(sys.executable)}, 1, False, lambda _: None)
    first, second = (rows.row(make("--old"), 0, prepared, bench) for _ in range(2))
    assert first.figures == second.figures
    assert first.cost == second.cost
    runs = tmp_path / "work" / "taylor" / "a-peer-0" / "runs"
    assert runs.read_text() == "x"
    rows.row(make("--new"), 0, prepared, bench)
    assert runs.read_text() == "xx"


def test_a_contender_that_has_seen_other_data_is_refused(tmp_path: Path) -> None:
    prepared = series(tmp_path / "series", [float(step) for step in range(20)])
    code = "import sys; open(sys.argv[1] + '/report.json', 'w').write('{\"data_digest\": \"another\"}')"
    bench = Bench(tmp_path / "work", {None: Path(sys.executable)}, 1, False, lambda _: None)
    with pytest.raises(ValueError, match="another"):
        rows.row(contender(tmp_path, code)("--x"), 0, prepared, bench)
