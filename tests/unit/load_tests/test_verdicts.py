"""Budgets are judged by what was measured in the same run, and what was not measured does not pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import verdicts
from verdicts import Budget

BUDGETS = Path(verdicts.__file__).with_name("budgets.yaml")


def results(ours: dict[str, float], theirs: dict[str, float]) -> Any:
    return {"chat": {"mizzen": {"streams": ours}, "genai": {"streams": theirs}}}


def budget(kind: str, limit: float, figure: str = "units_per_s") -> Budget:
    pair = ("streams", figure)
    compares = kind != "at_most"
    return Budget(
        "chat", "a target", pair, "genai" if compares else None, pair if compares else None, kind, limit
    )


@pytest.mark.parametrize(
    ("kind", "limit", "ours", "theirs", "value", "met"),
    [
        ("ratio_at_least", 0.95, 95.0, 100.0, 0.95, True),
        ("ratio_at_least", 0.95, 94.9, 100.0, 0.949, False),
        ("ratio_at_most", 1.0, 20.0, 20.0, 1.0, True),
        ("ratio_at_most", 1.0, 20.1, 20.0, 1.005, False),
        ("difference_at_most", 15.0, 115.0, 100.0, 15.0, True),
        ("difference_at_most", 15.0, 116.0, 100.0, 16.0, False),
        ("difference_at_most", 15.0, 80.0, 100.0, -20.0, True),
    ],
)
def test_a_budget_is_met_up_to_its_limit(
    kind: str, limit: float, ours: float, theirs: float, value: float, met: bool
) -> None:
    found = verdicts.judge([budget(kind, limit)], results({"units_per_s": ours}, {"units_per_s": theirs}))
    assert found[0].value == pytest.approx(value)
    assert found[0].met is met


def test_a_budget_without_a_peer_is_a_limit_of_its_own() -> None:
    limit = budget("at_most", 0, "num_errors")
    assert verdicts.judge([limit], results({"num_errors": 0}, {}))[0].met
    assert not verdicts.judge([limit], results({"num_errors": 1}, {}))[0].met


@pytest.mark.parametrize(
    "seen",
    [
        {},
        {"chat": {}},
        results({}, {"units_per_s": 1.0}),
        results({"units_per_s": 1.0}, {}),
        results({"units_per_s": None}, {"units_per_s": 1.0}),  # type: ignore[dict-item]
    ],
)
@pytest.mark.parametrize("kind", ["ratio_at_least", "ratio_at_most", "difference_at_most"])
def test_what_was_not_measured_does_not_pass(kind: str, seen: Any) -> None:
    found = verdicts.judge([budget(kind, 100.0)], seen)[0]
    assert found.value is None
    assert not found.met


@pytest.mark.parametrize(("seen", "met"), [(0.45, True), (0.449, False)])
def test_a_figure_may_have_to_reach_a_limit_alone(seen: float, met: bool) -> None:
    wanted = Budget("chat", "a target", ("streams", "mfu"), None, None, "at_least", 0.45)
    found = verdicts.judge([wanted], results({"mfu": seen}, {}))[0]
    assert (found.value, found.met) == (seen, met)


def test_nothing_is_divided_by_a_peer_that_did_nothing() -> None:
    seen = results({"units_per_s": 1.0}, {"units_per_s": 0.0})
    assert not verdicts.judge([budget("ratio_at_least", 1.0)], seen)[0].met


def test_the_budgets_in_the_repository_are_those_of_serving_and_of_training() -> None:
    found = verdicts.read(BUDGETS)
    training = {f"training-{what}" for what in ("chat", "recommendation", "gpu")}
    assert {one.workload for one in found} == {"recommendation", "forecasting", "chat"} | training
    steps = [one for one in found if one.workload in training and one.kind == "ratio_at_most"]
    assert [one.limit for one in steps] == [1.025, 1.025]
    by_peer = {(one.workload, one.peer, one.ours[1]): one.limit for one in found if one.ours[0] != "together"}
    assert by_peer["recommendation", "litserve", "units_per_s"] == 2.0
    assert by_peer["recommendation", "fastapi", "units_per_s"] == 0.5
    assert by_peer["forecasting", "litserve", "units_per_s"] == 2.0
    assert by_peer["chat", "genai", "units_per_s"] == 0.95
    assert by_peer["chat", "genai", "first_p50_ms"] == 15


def test_a_measurement_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    file = tmp_path / "budgets.yaml"
    file.write_text("budgets: [{workload: chat, says: x, ours: 0.5x-fastapi.p99_ms, at_most: 3}]")
    assert verdicts.read(file)[0].ours == ("0.5x-fastapi", "p99_ms")


@pytest.mark.parametrize(
    "entry",
    [
        "{workload: chat, says: x, ours: a.b}",
        "{workload: chat, says: x, ours: a.b, at_most: 1, ratio_at_least: 2}",
        "{workload: chat, says: x, ours: a.b, ratio_at_least: 2}",
        "{workload: chat, says: x, ours: a.b, peer: genai, theirs: a.b, at_most: 2}",
        "{workload: chat, says: x, ours: a.b, peer: genai, theirs: a.b, at_least: 2}",
        "{workload: chat, says: x, ours: a.b, at_most: 2, typo: 1}",
        "{workload: chat, ours: a.b, at_most: 2}",
        "{workload: chat, says: x, ours: throughput, at_most: 2}",
    ],
)
def test_a_budget_that_says_too_much_or_too_little_is_refused(tmp_path: Path, entry: str) -> None:
    file = tmp_path / "budgets.yaml"
    file.write_text(f"budgets: [{entry}]")
    with pytest.raises(ValueError, match="saw"):
        verdicts.read(file)
